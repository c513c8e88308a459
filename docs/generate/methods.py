"""A page for each guidance rule: its docstring, presets, measured figures, a picture and settings.

Everything is read from its source: the rule's module, `configs/*.yaml` and `benchmarks/guidance.*`.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from . import remove_others, write
from .settings import table

SIZE, GAP, MARGIN, HEADING = 64, 4, 16, 20
"""The layout of `benchmarks/guidance.png`, in pixels; see `sds3d.formats.pictures.contact_sheet`."""
COLUMNS = 16


@dataclass(frozen=True)
class Method:
    """A rule. name: that of its settings. text: its module's docstring. config: the class of its settings."""

    name: str
    text: str
    config: type

    @property
    def title(self) -> str:
        """The docstring's first words."""
        return re.split(r" \(| with |[:.,]", self.text)[0]


def write_pages(docs: Path) -> None:
    """Write docs/methods/: a page and pictures for each rule, the overview table and the base presets."""
    from sds3d.presets import presets

    folder = docs / "methods"
    folder.mkdir(exist_ok=True)
    benchmark = docs.parent / "benchmarks"
    figures = json.loads((benchmark / "guidance.json").read_text(encoding="utf-8"))["summary"]
    crop(benchmark / "guidance.png", list(figures), folder)
    rows = ["| rule | preset | status | right | no Janus | FID |", "|---|---|---|---|---|---|"]
    pages = set()
    for method in methods():
        used = [preset for preset in presets() if preset.values.get("guidance", {}).get("name") == method.name]
        pages.add(folder / f"{method.name}.md")
        write(folder / f"{method.name}.md", page(method, used, figures))
        rows += [row(method, preset, figures.get(preset.name)) for preset in of_rule(used, figures)]
    write(folder / "table.txt", "\n".join(rows) + "\n")
    bases = [yaml(path.name, path.stem) for path in sorted((docs.parent / "configs").glob("_*.yaml"))]
    write(folder / "bases.txt", "\n\n".join(bases).replace("../../", "../") + "\n")
    remove_others(folder, "*.md", pages)


def methods() -> list[Method]:
    """Every rule of the package, by the names of their files."""
    from sds3d.guidance.rules import rule_configs

    ours = [config for config in rule_configs() if config.__module__.startswith("sds3d.")]
    return [Method(c.model_fields["name"].default, sys.modules[c.__module__].__doc__ or "", c) for c in ours]


def of_rule(used: list[Any], figures: dict[str, Any]) -> list[Any]:
    """The presets that stand for a rule: those of the benchmark; if there are none, those of single rules."""
    measured = [preset for preset in used if preset.name in figures]
    return measured or [preset for preset in used if preset.about.group == "rule" and preset.made_for == "toybox"]


def page(method: Method, used: list[Any], figures: dict[str, Any]) -> str:
    """The page of a rule. used: presets with this rule."""
    parts = [f"# {method.title}", to_markdown(method.text), "## Presets"]
    alone = of_rule(used, figures)
    for preset in alone:
        parts += [f"### {preset.name}", preset.about.description, about(preset)]
        parts.append(f'```bash\nsds3d generate "a red mug" --preset {preset.name}\n```')
        if preset.name in figures:
            caption = f"Front and back of eight objects. Top: true objects. Bottom: `{preset.name}`."
            parts += [f":::{{figure}} {preset.name}.webp\n{caption}\n:::", measured(figures[preset.name])]
        parts.append(yaml(f"{preset.name}.yaml"))
    if others := [f"`{preset.name}`" for preset in used if preset not in alone]:
        parts.append(f"Also used by the presets {', '.join(others)}.")
    usage = f"Set them as `guidance.KEY=VALUE`. The name of the rule is `{method.name}`."
    parts += ["## Settings", usage, table(method.config())]
    return "\n\n".join(filter(None, parts)) + "\n"


def row(method: Method, preset: Any, figures: dict[str, float] | None) -> str:
    """A line of the overview. figures: None: the preset is not in the benchmark."""
    numbers = "not measured | | "
    if figures is not None:
        numbers = f"{figures['recognised']:.0%} | {figures['without_janus']:.0%} | {figures['fid']:.0f}"
    return f"| [{method.title}](methods/{method.name}.md) | `{preset.name}` | {preset.about.status} | {numbers} |"


def yaml(name: str, caption: str = "") -> str:
    """A preset's file."""
    title = f":caption: {caption}\n" if caption else ""
    return f"```{{literalinclude}} ../../configs/{name}\n:language: yaml\n{title}```"


def about(preset: Any) -> str:
    """Status, time and prior of a preset, in a line."""
    parts = [f"Status: **{preset.about.status}**."]
    if preset.about.seconds is not None:
        parts.append(f"About {preset.about.seconds:.0f} s on two CPU cores.")
    if preset.made_for:
        parts.append(f"Made for the prior `{preset.made_for}`.")
    return " ".join(parts)


def crop(sheet: Path, names: list[str], folder: Path) -> None:
    """Cut the benchmark's picture into one for each preset, below the true objects. names: its rows."""
    whole = Image.open(sheet).convert("RGB")
    left = whole.width - MARGIN - COLUMNS * (SIZE + GAP) + GAP
    headings = whole.crop((left, MARGIN - 4, whole.width, MARGIN + HEADING - 2))
    tops = [MARGIN + HEADING + i * (SIZE + GAP) for i in range(len(names))]
    rows = [whole.crop((left, top, whole.width, top + SIZE)) for top in tops]
    for name, cut in zip(names[1:], rows[1:], strict=True):
        picture = Image.new("RGB", (cut.width, headings.height + 2 * SIZE + GAP), "white")
        for part, top in ((headings, 0), (rows[0], headings.height), (cut, headings.height + SIZE + GAP)):
            picture.paste(part, (0, top))
        picture.save(folder / f"{name}.webp", quality=85)


def measured(figures: dict[str, float]) -> str:
    """The benchmark's row of a preset."""
    values = [f"{figures['recognised']:.0%}", f"{figures['without_janus']:.0%}"]
    values += [f"{figures['saturation']:.2f}", f"{figures['fid']:.0f}", f"{figures['iou']:.2f}"]
    heads = "| right | no Janus | saturation | FID | IoU |\n|---|---|---|---|---|\n"
    return f"{heads}| {' | '.join(values)} |\n\n[What these figures mean](../benchmarks.md#guidance-rules)"


def to_markdown(text: str) -> str:
    """A docstring as Markdown: indented paragraphs are equations, arXiv numbers become links."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.startswith("    "):
            lines = [line[4:] for line in paragraph.split("\n")]
            blocks.append("```text\n" + "\n".join(lines) + "\n```")
        else:
            blocks.append(linked(re.sub(r"([*_<|])", r"\\\1", paragraph)))
    return "\n\n".join(blocks)


def linked(text: str) -> str:
    """arXiv:2209.14988 as a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
