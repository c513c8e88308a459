"""The API reference: a page for each folder of the package, from the docstrings of its modules."""

import ast
from pathlib import Path

from . import remove_others, write

PACKAGE = "sds3d"
HIDDEN_ROOMS = {"__main__", "app", "cli"}
"""Packages without functions for others to call; the commands have a separate page."""
HIDDEN_ENDINGS = ("_numba", "_warp", "simd")
"""Kernels: their functions are called by the module that holds the plain-torch reference."""


def write_pages(docs: Path) -> None:
    """Write docs/reference/api/*.md."""
    folder = docs / "reference" / "api"
    root = docs.parent / PACKAGE
    rooms = sorted(p for p in root.iterdir() if (p / "__init__.py").is_file() and p.name not in HIDDEN_ROOMS)
    rooms = [room for room in rooms if not room.name.startswith("_")]
    single = sorted(p for p in root.glob("*.py") if p.stem not in HIDDEN_ROOMS | {"__init__"})
    pages = {folder / "sds3d.md": _page(PACKAGE, "The package's own functions.", [f"{PACKAGE}.run.asset"])}
    for room in rooms:
        modules = [path.stem for path in sorted(room.glob("*.py")) if not path.stem.startswith("__")]
        shown = [f"{PACKAGE}.{room.name}.{stem}" for stem in modules if not stem.endswith(HIDDEN_ENDINGS)]
        title = f"{PACKAGE}.{room.name}"
        if room.name == "run":
            shown.remove(f"{PACKAGE}.run.asset")
        pages[folder / f"{title}.md"] = _page(title, _summary(room / "__init__.py"), shown)
    names = [f"{PACKAGE}.{path.stem}" for path in single]
    pages[folder / "foundations.md"] = _page("Cameras, configuration, files", "What the whole package uses.", names)
    for path, text in pages.items():
        write(path, text)
    remove_others(folder, "*.md", set(pages))


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0]


def _page(title: str, summary: str, modules: list[str]) -> str:
    parts = [f"# {title}", summary]
    for module in modules:
        parts.append(f"## {module}" if len(modules) > 1 else "")
        parts.append(f"```{{eval-rst}}\n.. automodule:: {module}\n```")
    return "\n\n".join(filter(None, parts)) + "\n"
