"""A page for each guidance rule: its docstring, presets, measured figures, a picture and settings.

Everything is read from where it stands: the rule's module, `configs/*.yaml` and `benchmarks/guidance.*`.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from . import remove_others, write

SIZE, GAP, MARGIN, HEADING = 64, 4, 16, 20
"""The layout of `benchmarks/guidance.png`, in pixels; see `sds3d.formats.pictures.contact_sheet`."""
COLUMNS = 16


@dataclass(frozen=True)
class Method:
    """A rule. name: that of its settings. text: its module's docstring."""

    name: str
    text: str
    config: type

    @property
    def title(self) -> str:
        """The docstring's first words."""
        return re.split(r" \(| with |[:.,]", self.text)[0]


def write_pages(docs: Path) -> None:
    """Write docs/methods/: a page and pictures for each rule, and the overview table."""
    from sds3d.config import configs_dir, presets
    from sds3d.guidance.rules import rule_configs

    folder = docs / "methods"
    folder.mkdir(exist_ok=True)
    benchmark = docs.parent / "benchmarks"
    figures = json.loads((benchmark / "guidance.json").read_text(encoding="utf-8"))["summary"]
    pictures = crop(benchmark / "guidance.png", list(figures), folder)
    ours = [config for config in rule_configs() if config.__module__.startswith("sds3d.")]
    methods = {c.model_fields["name"].default: c for c in ours}
    pages = set()
    rows = ["| rule | preset | status | right | no Janus | FID |", "|---|---|---|---|---|---|"]
    for name, config in methods.items():
        method = Method(name, sys.modules[config.__module__].__doc__ or "", config)
        used = [preset for preset in presets() if preset.values.get("guidance", {}).get("name") == name]
        alone = [preset for preset in used if preset.name in figures]
        parts = [f"# {method.title}", to_markdown(method.text), "## Presets"]
        for preset in alone:
            parts += [f"### {preset.name}", preset.description, f"*Status: {status(preset)}.*"]
            parts.append(f"```bash\nsds3d generate \"a red mug\" --preset {preset.name}\n```")
            caption = f"Front and back of eight objects. Top: true objects. Bottom: `{preset.name}`."
            parts.append(f":::{{figure}} {pictures[preset.name].name}\n{caption}\n:::")
            parts.append(measured(figures[preset.name]))
            parts.append(f"```{{literalinclude}} ../../configs/{preset.name}.yaml\n:language: yaml\n```")
            row = figures[preset.name]
            link = f"[{method.title}](methods/{name}.md)"
            numbers = f"{row['recognised']:.0%} | {row['without_janus']:.0%} | {row['fid']:.0f}"
            rows.append(f"| {link} | `{preset.name}` | {status(preset)} | {numbers} |")
        if others := [f"`{preset.name}`" for preset in used if preset not in alone]:
            parts.append(f"Also used by the presets {', '.join(others)}.")
        parts += ["## Settings", f"Set them as `guidance.KEY=VALUE`; the name of the rule is `{name}`.", settings(config)]
        write(folder / f"{name}.md", "\n\n".join(filter(None, parts)) + "\n")
        pages.add(folder / f"{name}.md")
    write(folder / "table.txt", "\n".join(rows) + "\n")
    remove_others(folder, "*.md", pages)


def crop(sheet: Path, names: list[str], folder: Path) -> dict[str, Path]:
    """Cut the benchmark's picture into one for each preset, below the true objects. names: its rows."""
    whole = Image.open(sheet).convert("RGB")
    left = whole.width - MARGIN - COLUMNS * (SIZE + GAP) + GAP
    headings = whole.crop((left, MARGIN - 4, whole.width, MARGIN + HEADING - 2))
    rows = [whole.crop((left, y, whole.width, y + SIZE)) for y in (MARGIN + HEADING + i * (SIZE + GAP) for i in range(len(names)))]
    paths = {}
    for name, row in zip(names[1:], rows[1:], strict=True):
        picture = Image.new("RGB", (row.width, headings.height + 2 * SIZE + GAP), "white")
        for part, top in ((headings, 0), (rows[0], headings.height), (row, headings.height + SIZE + GAP)):
            picture.paste(part, (0, top))
        paths[name] = folder / f"{name}.webp"
        picture.save(paths[name], quality=85)
    return paths


def measured(figures: dict[str, float]) -> str:
    """The benchmark's row of a preset."""
    values = [f"{figures['recognised']:.0%}", f"{figures['without_janus']:.0%}"]
    values += [f"{figures[key]:.2f}" for key in ("saturation",)] + [f"{figures['fid']:.0f}", f"{figures['iou']:.2f}"]
    heads = "| right | no Janus | saturation | FID | IoU |\n|---|---|---|---|---|\n"
    return f"{heads}| {' | '.join(values)} |\n\n[What these figures mean](../benchmarks.md#guidance-rules)"


def settings(config: type) -> str:
    """A table of a rule's settings: key, default, meaning."""
    from sds3d.run.settings import settings_of

    rows = ["| key | default | meaning |", "|---|---|---|"]
    for setting in settings_of(config()):
        key = setting.key.removesuffix(".name") if setting.is_choice else setting.key
        value = json.dumps(setting.value, ensure_ascii=False)
        options = f" One of: {', '.join(map(str, setting.options))}." if setting.options else ""
        rows.append(f"| `{key}` | `{value}` | {(setting.help() + options).replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


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


def status(preset):  # TEMPORARY
    return getattr(preset, "status", "verified")
