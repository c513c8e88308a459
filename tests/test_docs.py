"""The documentation is correct: links have targets, commands and presets exist, and generated pages match the code."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.generate import commands, settings
from docs.generate.docstrings import inline, to_rst
from sds3d.cli.exits import Exit
from sds3d.cli.main import app
from sds3d.toybox.world import COLORS, KINDS
from tests.commands import parsed, resolve

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GENERATED = ("methods/", "examples/", "reference/")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def command_lines(text: str) -> list[str]:
    """Return the sds3d commands in a page's bash blocks and inline code."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S)).replace("\\\n", " ")
    lines = [line for part in blocks.split("\n") for line in re.split(r" && | \| ", part)]
    lines += re.findall(r"`(sds3d [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    lines = [re.sub(r"^srun ", "", line.strip()) for line in lines]
    return [line for line in lines if re.match(r"sds3d [a-z]", line)]


TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in PAGES} | {"commands": commands.page()}
COMMANDS = [
    pytest.param(line, id=f"{name}-{i}") for name, text in TEXTS.items() for i, line in enumerate(command_lines(text))
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_accepted(line):
    words = shlex.split(line, comments=True)[1:]
    if "plain_sds" in line:
        parsed(words)  # the rule of the example package, which tests/test_plugins.py installs
    else:
        resolve(words)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_have_targets(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" in target or (path.parent == ROOT / "docs" and target.startswith(GENERATED)):
            continue  # pages that the build writes are checked by the build
        assert (path.parent / target).exists(), f"{target} in {path.name}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_the_commands_page_needs_nothing_heavy():
    code = (
        "import sys; from docs.generate import commands; text = commands.page(); assert '## sds3d generate' in text;"
        "heavy = {'torch', 'gradio', 'diffusers', 'numba', 'ray'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_commands_page_has_every_command():
    text = commands.page()
    root: Any = typer.main.get_command(app)
    for name in root.commands:
        assert f"## sds3d {name}\n" in text
    assert "[bold]" not in text


def test_docstrings_become_lists_and_literals():
    text = """A thing of `n` parts: see [1].

    vertices: (V, 3) float32 positions. faces, edges: |a - b|^2 of x_t.
    other: is no name of it.

        y = x * 2
    """
    rst = to_rst("\n".join(line.removeprefix("    ") for line in text.split("\n")), {"vertices", "faces", "edges"})
    assert rst == (
        "A thing of ``n`` parts: see [1].\n\n"
        "- ``vertices``: (V, 3) float32 positions.\n"
        "- ``faces``, ``edges``: \\|a - b\\|^2 of x\\_t. other: is no name of it.\n\n"
        ".. code-block:: text\n\n   y = x * 2"
    )


@pytest.mark.parametrize(
    ("text", "rst"),
    [
        ("`a`s and `b_c`", "``a``\\ s and ``b_c``"),
        ("an odd ` tick", "an odd ' tick"),
        ("**kwargs of <x>", "\\*\\*kwargs of \\<x\\>"),
    ],
    ids=["glued", "odd", "special"],
)
def test_inline_code(text, rst):
    assert inline(text) == rst


def test_every_exit_code_is_on_the_page():
    text = (ROOT / "docs" / "scripting.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \|", text, flags=re.M) == [str(int(code)) for code in Exit]


def test_the_page_of_the_toy_world_lists_all_kinds_with_their_parts():
    table = re.findall(r"^\| [\w ]+ \| (.*) \|$", TEXTS["toy-world"], flags=re.M)
    listed = [entry for row in table for entry in re.findall(r"(\w+) \((\w+)\)", row)]
    assert dict(listed) == {name: kind.part for name, kind in KINDS.items()}
    assert len(listed) == len(KINDS)
    assert re.search(r"in 10 colours \((.*?)\)", TEXTS["toy-world"])[1].split(", ") == list(COLORS)  # type: ignore[index]


def test_the_page_of_settings_has_those_of_every_choice():
    page = settings.page()
    for key in (
        "background.random_share",  # of background=learned, while the default is none
        "representation.shading.ambient_only",  # of an optional section
        "representation.geometry.offsets_lr",
        "cameras.frame",
    ):
        assert f"| `{key}` |" in page
