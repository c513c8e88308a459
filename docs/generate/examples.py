"""A page for each script in docs/examples: its docstring, its picture if there is one, and its code."""

import ast
from pathlib import Path

from . import remove_others, write
from .methods import linked


def write_pages(docs: Path) -> None:
    """Write docs/examples/*.md."""
    folder = docs / "examples"
    pages = set()
    for script in sorted(folder.glob("*.py")):
        source = script.read_text(encoding="utf-8")
        tree = ast.parse(source)
        title, _, text = (ast.get_docstring(tree) or script.stem).partition("\n\n")
        code = "\n".join(source.split("\n")[tree.body[0].end_lineno or 0 :]).strip("\n")
        parts = [f"# {title.rstrip('.')}", linked(text)]
        if (docs / "pictures" / f"{script.stem}.webp").is_file():
            parts.append(f"![{title}](../pictures/{script.stem}.webp)")
        parts.append(f"`docs/examples/{script.name}`:")
        parts.append(f"```python\n{code}\n```")
        pages.add(folder / f"{script.stem}.md")
        write(folder / f"{script.stem}.md", "\n\n".join(filter(None, parts)) + "\n")
    remove_others(folder, "*.md", pages)
