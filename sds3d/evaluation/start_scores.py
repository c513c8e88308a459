"""What a start from the prior's own pictures saves: the same prompts with and without it, at several numbers of steps.

The start itself is measured, too: against the true object whose pictures the network sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sds3d.cameras import turntable
from sds3d.devices import pick_device
from sds3d.evaluation.asset_scores import (
    Asset,
    bench_prompts,
    known_kinds,
    make_asset,
    measured,
    run_of,
    summary,
    truth,
)
from sds3d.evaluation.likeness import volume_iou
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import PriorError, write_atomically
from sds3d.formats.pictures import contact_sheet, png
from sds3d.priors.base import Prior
from sds3d.priors.starts import VIEWS, load_start, start_folder
from sds3d.prompts.prompt import encode_prompt
from sds3d.run.config import RunConfig, make_config
from sds3d.run.drive import Priors, prior_settings
from sds3d.run.folder import Machine
from sds3d.run.prior_start import ELEVATION, mesh_of_views
from sds3d.toybox.captions import prompt
from sds3d.toybox.objects import build
from sds3d.toybox.render import render_prompt
from sds3d.toybox.scorer import Scorer
from sds3d.toybox.world import Spec

STEPS = (100, 150, 300)
SHOWN = (0, 1, 3, 5)
"""Which of an asset's pictures are in the sheet."""


@dataclass(frozen=True)
class Case:
    """A preset with a number of steps. start: the value of start_from, "" for the usual start."""

    preset: str
    steps: int
    start: str

    def __str__(self) -> str:
        """Return how the case is called."""
        return f"{self.preset}, {self.steps} steps, {'from the prior' if self.start else 'usual start'}"


def cases(presets: Sequence[str], steps: Sequence[int], start: str) -> list[Case]:
    """Return all cases: each preset and number of steps with the usual start and with `start`."""
    return [Case(preset, number, given) for preset in presets for number in steps for given in ("", start)]


def bench(
    root: Path,
    chosen: Sequence[Case],
    prompts: int,
    scorer: Scorer,
    overrides: Sequence[str],
    machine: Machine,
    tell: Callable[[str], None],
    report: Callable[[str, int, int], None],
) -> tuple[dict[Case, list[Asset]], dict[str, float]]:
    """Make every case of the first held-out prompts, and return the assets, and the IoU of the start of each prompt's
    true object.

    Runs are kept in `root`, so that a stopped benchmark continues. tell: called with a line after each asset. report:
    called with the name of a run and its step. Writes start.json, start.md and start.png.
    """
    config = make_config("a", chosen[0].preset, overrides)
    specs = bench_prompts(prompts, known_kinds(scorer, [config.prior]))
    priors = Priors(pick_device(machine.device))
    assets: dict[Case, list[Asset]] = {case: [] for case in chosen}
    overlaps: dict[str, float] = {}
    for seed, spec in enumerate(specs):
        prior = priors.load(prior_settings(config, lean=False))[0]
        given = next((case.start for case in chosen if case.start), "")
        if given:
            overlaps[prompt(spec)] = overlap(spec, seed, given, config, prior)
            tell(f"{prompt(spec)}: IoU {overlaps[prompt(spec)]:.2f} of the start with the object in the views")
        for case in chosen:
            settings = [*overrides, f"steps={case.steps}", *([f"start_from={case.start}"] if case.start else [])]
            run, _ = run_of(spec, case.preset, settings, root / "runs")
            named = partial(report, f"{prompt(spec)}: {case}")
            asset = measured(run, spec, scorer) or make_asset(run, spec, scorer, prior, machine, named)
            assets[case].append(asset)
            score = asset.score
            tell(f"{prompt(spec)}: {case}: IoU {score.iou:.2f}, {score.recognised:.0%} right, {score.seconds:.0f} s")
        write(root, specs[: seed + 1], assets, overlaps, overrides)
    return assets, overlaps


def overlap(spec: Spec, seed: int, start: str, config: RunConfig, prior: Prior) -> float:
    """Return the IoU with a true object of the start that is made from four true pictures of it."""
    if (folder := start_folder(start)) is None:
        raise PriorError(f"{start} is no network of starts")
    network = load_start(folder, config.prior)
    cameras = turntable(VIEWS, ELEVATION, size=prior.image_size).to(prior.device)
    pictures = render_prompt(spec, cameras.azimuth.tolist(), seed, size=prior.image_size, elevation=ELEVATION)
    x = prior.encode_image(torch.from_numpy(pictures).to(prior.device).float() / 255)
    texts = encode_prompt(prior, prompt(spec), config.prompts)
    made = mesh_of_views(network, prior, x, texts.positive(cameras), cameras, seed)
    return volume_iou(made, build(spec, np.random.default_rng(seed)))


HEADER = ("preset", "steps", "start", "prompts", "right", "IoU", "chamfer, cm", "seconds")


def table(assets: dict[Case, list[Asset]]) -> list[list[str]]:
    """Return the rows of the table: shares are means, other figures medians."""
    rows = []
    for case, made in assets.items():
        if not made:
            continue
        of_all = summary([asset.score for asset in made])
        distance = "" if of_all.chamfer is None else f"{of_all.chamfer:.1f}"
        start = "from the prior" if case.start else "usual"
        figures = [f"{of_all.recognised:.0%}", f"{of_all.iou:.2f}", distance, f"{of_all.seconds:.0f}"]
        rows.append([case.preset, str(case.steps), start, str(of_all.assets), *figures])
    return rows


def write(
    root: Path,
    specs: Sequence[Spec],
    assets: dict[Case, list[Asset]],
    overlaps: dict[str, float],
    overrides: Sequence[str],
) -> None:
    """Write the figures, the table, and a sheet with four sides of every asset."""
    scores = {str(case): [asdict(asset.score) for asset in made] for case, made in assets.items()}
    text = markdown_table(HEADER, table(assets))
    if overlaps:
        rows = [[name, f"{value:.2f}"] for name, value in overlaps.items()]
        text += "\n" + markdown_table(("true object", "IoU of the start made from its pictures"), rows)
    write_results(root, "start", {"scores": scores, "overlaps": overlaps, "settings": list(overrides)}, text)
    rows = [("a true object", np.concatenate([truth(spec)[0][list(SHOWN)] for spec in specs]))]
    rows += [(str(case), np.concatenate([asset.rgb[list(SHOWN)] for asset in made])) for case, made in assets.items()
             if len(made) == len(specs)]  # fmt: skip
    titles = [text for spec in specs for text in (prompt(spec), *[""] * (len(SHOWN) - 1))]
    write_atomically(root / "start.png", png(contact_sheet(rows, titles, size=72)))
