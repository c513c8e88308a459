"""What a checkout has that is made from the embedded prior, whether it is up to date, and how it is made anew.

Beside the first file of each item is a note, `<name>.made.json`, with the digest of the prior's weights and the
commands.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sds3d.evaluation.asset_scores import measured, portrait, render_run
from sds3d.files import RunError, read_plain, write_atomically
from sds3d.formats.pictures import picture_grid, to_uint8
from sds3d.presets import DEFAULT_PRESET
from sds3d.priors.digest import weights_digest
from sds3d.run.config import read_config
from sds3d.run.folder import open_run
from sds3d.toybox.captions import parse
from sds3d.toybox.examples import OBJECTS
from sds3d.toybox.render import render_prompt
from sds3d.toybox.scorer import load_scorer

PRIOR = "assets/toybox/prior"
TILE = 112
"""Height and width in pixels of an object in the studio's strip."""
COLUMN, ROW, PITCH, RULE_TILE = 684, 36, 68, 64
"""Where the benchmark's picture has the front of its fifth prompt: left and top of the first, distance and size."""
OTHER_PRESETS = ("mesh", "quick", "instant", "splats", "texture")
"""Recommended presets that the benchmark of guidance rules leaves out, with pictures of their own runs."""
_LARGEST = 2048  # pixels of a picture of the site


@dataclass(frozen=True)
class Item:
    """Files of a checkout that depend on the prior. files: relative to it.

    commands: sds3d's, run in a working folder; a word with * means the newest file that matches. finish: makes the
    files from their results; called with the working folder and the checkout. by_hand: how the files are made if no
    command makes them.
    """

    name: str
    files: tuple[str, ...]
    commands: tuple[str, ...] = ()
    finish: Callable[[Path, Path], None] = lambda work, root: None
    by_hand: str = ""

    @property
    def note(self) -> str:
        """The file of the note."""
        return str(Path(self.files[0]).with_suffix(".made.json").as_posix())

    @property
    def made_by(self) -> list[str]:
        """What the note says about how the files are made."""
        return [*self.commands] or [self.by_hand]


@dataclass(frozen=True)
class Status:
    """state: up to date, stale (made from other weights), by other commands (than the item's), unknown (there is no
    note) or missing (a file).
    """

    item: Item
    state: str


def _copied(files: dict[str, str]) -> Callable[[Path, Path], None]:
    """Return a function that copies results, {checkout's file: working folder's file}. PNG may become WebP."""

    def copy(work: Path, root: Path) -> None:
        for target, source in files.items():
            if Path(target).suffix == Path(source).suffix:
                write_atomically(root / target, (work / source).read_bytes())
                continue
            with Image.open(work / source) as picture:
                picture.thumbnail((_LARGEST, _LARGEST))
                picture.save(root / target, quality=80, method=6)

    return copy


def gallery(work: Path, root: Path) -> None:
    """Write the strip of the studio's objects, a labelled gallery of all that the prior knows, and a mug's sides."""
    scorer = load_scorer()
    made = {}
    for folder in sorted((work / "gallery").glob("*/*/config.yaml")):
        run = open_run(folder.parent)
        spec = parse(read_config(run).prompt)
        if spec is not None and (asset := measured(run, spec, scorer)) is not None:
            made[asset.score.prompt] = portrait(asset, 2 * TILE)
            if asset.score.prompt == OBJECTS[0]:
                sheet = {"docs/pictures/a-red-mug.webp": f"{run.exports.relative_to(work)}/contact_sheet.png"}
                _copied(sheet)(work, root)
    if not made:
        raise RunError(f"{work / 'gallery'} has no finished run: repeat the command")
    shown = [(text, made[text]) for text in OBJECTS if text in made]
    columns = 8 if len(shown) <= 32 else 10
    picture_grid(shown, columns).save(root / "assets/pictures/gallery.webp", quality=88, method=6)
    # The studio hides what the prior does not know; true objects keep these places.
    tiles = [_tile(made[text]) if text in made else render_prompt(text, [30.0], size=TILE)[0] for text in OBJECTS]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(root / "assets/studio/objects.webp", quality=82, method=6)


def _tile(rgb: NDArray[np.float32], size: int = TILE) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(to_uint8(rgb)).resize((size, size), Image.Resampling.LANCZOS))


def preset_pictures(work: Path, root: Path) -> None:
    """Write the studio's strip of presets: rules from the picture of their benchmark, other presets from their runs."""
    rules = list(json.loads((root / "benchmarks/guidance.json").read_text(encoding="utf-8"))["summary"])
    with Image.open(root / "benchmarks/guidance.png") as sheet:
        box = [(COLUMN, ROW + PITCH * i, COLUMN + RULE_TILE, ROW + PITCH * i + RULE_TILE) for i in range(len(rules))]
        tiles = [np.asarray(sheet.convert("RGB").crop(place)) for place in box]
    for name in OTHER_PRESETS:
        run = open_run(newest(work, f"presets/{name}/*/config.yaml").parent)
        tiles.append(_tile(render_run(run)[0], RULE_TILE))
    strip = Image.fromarray(np.concatenate(tiles, axis=1))
    strip.save(root / "assets/studio/presets.webp", quality=82, method=6)
    write_atomically(root / "assets/studio/presets.json", (json.dumps([*rules, *OTHER_PRESETS]) + "\n").encode())


def newest(work: Path, pattern: str) -> Path:
    """Return the newest file in `work` that matches: runs of former settings may lie beside it."""
    if not (found := sorted(work.glob(pattern), key=lambda path: path.stat().st_mtime_ns)):
        raise RunError(f"{work} has no {pattern}: repeat the command")
    return found[-1]


def _rules(name: str, options: str, *endings: str) -> Item:
    return _bench(name, {f"{name}.{ending}": f"guidance.{ending}" for ending in endings}, f"bench guidance{options}")


def _figures(name: str, *commands: str) -> Item:
    """The JSON file, table and picture of a benchmark."""
    return _bench(name, {f"{name}.{ending}": f"{name}.{ending}" for ending in ("json", "md", "png")}, *commands)


def _bench(name: str, copies: dict[str, str], *commands: str) -> Item:
    """An item of the benchmarks. copies: {file in benchmarks/: result}. commands: the last is the benchmark."""
    *before, last = commands
    files = {f"benchmarks/{target}": f"{name}/{result}" for target, result in copies.items()}
    return Item(name, tuple(files), (*before, f"{last} --out {name}"), _copied(files))


def _picture(name: str, result: str, command: str) -> Item:
    copies = {f"docs/pictures/{name}.webp": f"{name}/{result}"}
    return Item(name, tuple(copies), (f"{command} --out {name}",), _copied(copies))


_EXAMPLES = ("a_new_rule", "batch", "dreamfusion_in_100_lines", "load_a_checkpoint", "swap_representation")

_PARTS = "pictures=true generator.norm=false"  # of all parts of the generator's training
_GENERATOR = ("generator.json", "generator.safetensors", "CARD.md", "samples.png")

ITEMS = (
    Item(
        "gallery",
        ("assets/studio/objects.webp", "assets/pictures/gallery.webp", "docs/pictures/a-red-mug.webp"),
        (f"bench toybox {DEFAULT_PRESET} --prompts shown --out gallery",),
        gallery,
    ),
    Item(
        "instant",
        tuple(f"assets/instant/{name}" for name in _GENERATOR),
        (
            f"generator train --out first {_PARTS} optimizer.clip_norm=null generator.opacity=0.04 steps=11000 "
            "cameras.size=48 cameras.coarse_size=32 cameras.coarse_until=0.6",
            f"generator train --out second start_from=first/generator {_PARTS} optimizer.clip_norm=null "
            "generator.opacity=0.04 steps=14000 cameras.size=64 cameras.coarse_size=48 cameras.coarse_until=0.6 "
            "optimizer.final=0.02",
            f"generator train --out instant start_from=second/generator {_PARTS} generator.opacity=0.01 "
            "generator.lr=0.0003 steps=8000 cameras.size=64 optimizer.final=0.01",
        ),
        _copied({f"assets/instant/{name}": f"instant/generator/{name}" for name in _GENERATOR}),
    ),
    _bench(
        "instant-figures",
        {
            "instant.json": "results.json",
            "instant.md": "results.md",
            "instant.webp": "instant.png",
            "quick.webp": "quick.png",
        },
        "bench toybox instant quick --prompts 32 --set 'export.formats=[glb,ply]'",
    ),
    Item(
        "between",
        ("docs/pictures/between.webp",),
        ("generator sample instant --between 'a red mug' 'a green teapot' --out between.png",),
        _copied({"docs/pictures/between.webp": "between.png"}),
    ),
    _picture("held-out", f"{DEFAULT_PRESET}.png", f"bench toybox {DEFAULT_PRESET} --prompts 16"),
    _picture("representations", "side_by_side.png", "bench toybox toybox splats mesh --prompts 16"),
    _picture("playground", "sheet.png", "playground2d 'a red mug' --rule all --steps 150"),
    _rules("guidance", "", "json", "md", "png"),
    _rules("guidance-seeds", " sjc vsd esd cfd-ode --several 8", "json", "md"),
    _rules(
        "guidance-without-camera",
        " sjc vsd esd cfd-ode --several 0 --set prior.multiview=false --set prompts.view_dependent=true",
        "json",
        "md",
        "png",
    ),
    _figures(
        "structure",
        "toybox train --structure --out told structure_steps=1271",
        "bench structure told/prior",
    ),
    _figures(
        "light",
        "toybox train --light --minutes 50 --out lit objects=640",
        "bench light lit/prior --objects 3",
    ),
    _figures(
        "polish",
        "toybox train-normals --out seen normals_steps=700",
        "bench polish --objects 2 --set steps=30 --set 'estimators=[{model: seen/normals, weight: 0.1}]'",
    ),
    _bench(
        "pictures",
        {"pictures.json": "pictures.json", "pictures.md": "pictures.md", "pictures.png": "a-green-house-4.png"},
        "bench pictures --objects 6 --set steps=100",
    ),
    Item(
        "presets",
        ("assets/studio/presets.webp", "assets/studio/presets.json"),
        (
            "generate 'a green house' --preset mesh --out presets/mesh",
            "generate 'a green house' --preset quick --out presets/quick",
            "generate 'a green house' --preset instant --out presets/instant",
            "generate 'a green house' --preset splats --out presets/splats",
            "texture 'presets/mesh/*/exports/a-green-house.glb' 'a purple house with a red roof' --out presets/texture",
        ),
        preset_pictures,
    ),
    Item("studio", ("assets/pictures/studio.webp",), by_hand="a picture of sds3d app with a finished red mug"),
    Item("texture", ("docs/pictures/texture.webp",), by_hand="contact_sheet.png of sds3d texture, before and after"),
    Item(
        "score_distillation_2d",
        ("docs/pictures/score_distillation_2d.webp",),
        by_hand="what docs/examples/score_distillation_2d.py draws",
    ),
    *(Item(name, (f"docs/pictures/{name}.webp",), by_hand=f"what docs/examples/{name}.py draws") for name in _EXAMPLES),
)
"""All of a checkout. The strip of presets has parts of the picture of the benchmark, which comes before it."""


def check(root: Path, items: Sequence[Item] = ITEMS) -> list[Status]:
    """Return the status of each item of the checkout at `root`."""
    digest = weights_digest(root / PRIOR)
    return [Status(item, _state(item, root, digest)) for item in items]


def _state(item: Item, root: Path, digest: str) -> str:
    if not all((root / file).is_file() for file in item.files):
        return "missing"
    try:
        note = json.loads(read_plain(root / item.note))
        made_from, made_by = note["prior"], note["made by"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "unknown"
    if made_from != digest:
        return "stale"
    return "up to date" if made_by == item.made_by else "by other commands"


def write_note(item: Item, root: Path) -> None:
    """Note that an item is made from the checkout's prior."""
    note = {"prior": weights_digest(root / PRIOR), "made by": item.made_by}
    write_atomically(root / item.note, (json.dumps(note, indent=2) + "\n").encode())


def refresh(root: Path, work: Path, items: Sequence[Item], tell: Callable[[str], None]) -> None:
    """Make items anew, in their order; those made by hand are left out.

    work: a folder for runs and results, which are kept, so that a stopped refresh continues. Each prior has its own.
    tell: called with a line before each command. Raises RunError if a command fails.
    """
    work = work / weights_digest(root / PRIOR)[:12]
    for item in items:
        if item.by_hand:
            continue
        work.mkdir(parents=True, exist_ok=True)
        for command in item.commands:
            tell(f"{item.name}: sds3d {command}")
            words = [str(newest(work, word)) if "*" in word else word for word in shlex.split(command)]
            done = subprocess.run([sys.executable, "-m", "sds3d", *words], cwd=work, check=False)
            if done.returncode:
                raise RunError(f"sds3d {command} failed in {work}; mend it, then repeat the command to continue")
        item.finish(work, root)
        write_note(item, root)
