"""Guidance rules compared on the toy world, where the truth is known, so that results are measured instead of voted on.

Papers judge rules by the likeness to the prior's own pictures (FID), the variety of results for one prompt, how
saturated the colours become, and how often an object has two faces. Here all of these are measured against true
objects of the same prompts, with the scorer's features instead of Inception's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.evaluation.asset_scores import (
    AZIMUTHS,
    Asset,
    AssetScore,
    bench_prompts,
    known_kinds,
    make_asset,
    measured,
    run_of,
    score_asset,
    summary,
    truth,
)
from sds3d.evaluation.frechet import TRUE_OBJECTS, features, frechet_distance
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.formats.pictures import contact_sheet
from sds3d.presets import Preset, presets
from sds3d.priors.base import Prior
from sds3d.run.config import make_config
from sds3d.run.folder import Machine
from sds3d.toybox.captions import prompt
from sds3d.toybox.scorer import Scorer, load_scorer
from sds3d.toybox.world import Spec

SEEDS = 3
"""Assets of a prompt between which diversity is measured."""
_LIGHT = ["export.formats=[ply]", "export.picture_size=64", "export.frames=4", "export.texture_size=64"]
"""Settings of runs of which only the scene and its surface are used."""

Pictures = NDArray[np.float32]


@dataclass(frozen=True)
class RuleScore:
    """The figures of a rule, from its assets and true objects of the same prompts.

    recognised, without_janus, iou, seconds: see `asset_scores.summary`.
    saturation: HSV saturation of the object's colours, relative to the true objects'.
    fid: Frechet distance between the scorer's features of its pictures and of true objects' pictures.
    diversity: mean distance in these features between seeds of a prompt from the same side, relative to that between
        true objects. None if a single seed was made.
    """

    recognised: float
    without_janus: float | None
    saturation: float
    fid: float
    diversity: float | None
    iou: float
    seconds: float


def rule_presets() -> list[str]:
    """Return the presets that only choose a rule, without stages, another representation, a given asset or a
    real model."""

    def alone(preset: Preset) -> bool:
        representation = preset.values.get("representation", {})
        other = isinstance(representation, str) or "name" in representation
        real = preset.about.group == "real"
        return not (other or real or preset.about.needs_asset or "stages" in preset.values)

    return [preset.name for preset in presets() if alone(preset)]


def saturation(rgb: Pictures, background: float = 0.8) -> float:
    """Return the mean HSV saturation of the pixels of pictures (..., 3) that differ from a grey background."""
    pixels = rgb[np.abs(rgb - background).max(axis=-1) > 0.05]  # (N, 3)
    if not len(pixels):
        return 0.0
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    return float(np.mean((high - low) / np.maximum(high, 1e-6)))


def spread(seeds: Sequence[NDArray[np.float64]]) -> float:
    """Return the mean distance between features (AZIMUTHS, D) of assets of one prompt, compared side by side."""
    pairs = [np.linalg.norm(a - b, axis=-1).mean() for i, a in enumerate(seeds) for b in seeds[:i]]
    return float(np.mean(pairs))


@dataclass(frozen=True)
class Assets:
    """Assets of one rule, or true ones.

    scores, rgb: one entry per prompt. others: pictures of further seeds, or of further true objects, of the first
    prompts.
    """

    scores: list[AssetScore]
    rgb: list[Pictures]
    others: list[list[Pictures]]


def true_assets(scorer: Scorer, specs: Sequence[Spec], first: int, others: int) -> Assets:
    """Return the true object number `first` of each prompt, and the `others` that follow it."""
    seed = 1000 + first
    objects = [truth(spec, seed) for spec in specs]
    return Assets(
        [score_asset(scorer, spec, *found, 0.0) for spec, found in zip(specs, objects, strict=True)],
        [rgb for rgb, _ in objects],
        [[truth(spec, seed + 1 + i)[0] for i in range(others)] for spec in specs if others],
    )


def _made(
    preset: str,
    scorer: Scorer,
    specs: Sequence[Spec],
    root: Path,
    overrides: list[str],
    report: Callable[[str, int, int], None],
) -> list[Asset]:
    """Make and measure every prompt's asset with one preset. The prior is loaded once. Finished runs are kept."""
    prior: Prior | None = None
    assets = []
    for i, spec in enumerate(specs):
        run, config = run_of(spec, preset, overrides, root / preset)
        asset = measured(run, spec, scorer)
        if asset is None:
            prior = prior or config.prior.load()
            stage = f"{preset}: {config.prompt} ({i + 1}/{len(specs)})"
            asset = make_asset(run, spec, scorer, prior, Machine(), partial(report, stage))
        assets.append(asset)
    return assets


def made_assets(
    preset: str,
    scorer: Scorer,
    specs: Sequence[Spec],
    several: int,
    root: Path,
    overrides: list[str],
    report: Callable[[str, int, int], None],
) -> Assets:
    """Make a preset's assets of all prompts, and SEEDS - 1 further seeds of the first `several`."""
    settings = [*_LIGHT, *overrides]
    made = _made(preset, scorer, specs, root, settings, report)
    more = [
        [asset.rgb for asset in _made(preset, scorer, specs[:several], root, [*settings, f"seed={seed}"], report)]
        for seed in range(1, SEEDS)
        if several
    ]
    return Assets(
        [asset.score for asset in made],
        [asset.rgb for asset in made],
        [list(seeds) for seeds in zip(*more, strict=True)],
    )


def compare(scorer: Scorer, assets: Assets, true: Assets) -> RuleScore:
    """Return the figures of a rule."""
    plain = summary(assets.scores)
    reference = np.concatenate([features(scorer, rgb) for objects in true.others for rgb in objects])

    def diversity(of: Assets, n: int) -> float:
        per_prompt = [[of.rgb[i], *of.others[i]] for i in range(n)]
        return float(np.mean([spread([features(scorer, rgb) for rgb in seeds]) for seeds in per_prompt]))

    several = len(assets.others)
    return RuleScore(
        recognised=plain.recognised,
        without_janus=plain.without_janus,
        saturation=saturation(np.concatenate(assets.rgb)) / saturation(np.concatenate(true.rgb)),
        fid=frechet_distance(np.concatenate([features(scorer, rgb) for rgb in assets.rgb]), reference),
        diversity=diversity(assets, several) / diversity(true, several) if several else None,
        iou=plain.iou,
        seconds=plain.seconds,
    )


def bench(
    names: Sequence[str],
    root: Path,
    n: int = 8,
    several: int = 2,
    overrides: list[str] | None = None,
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> dict[str, RuleScore]:
    """Measure rules on n prompts. names: of the rules' presets. SEEDS assets are made of the first `several` prompts.

    Writes guidance.json, guidance.md and a contact sheet guidance.png with a row per rule, front and back of each
    prompt. Finished runs are not made again, so a stopped benchmark resumes, and several processes may share the rules.
    """
    scorer = load_scorer()
    priors = [make_config("a", name, overrides or []).prior for name in names]
    specs = bench_prompts(n, known_kinds(scorer, priors))
    reference = true_assets(scorer, specs, 0, TRUE_OBJECTS)
    rows = {"truth": true_assets(scorer, specs, 1 + TRUE_OBJECTS, SEEDS - 1)}
    for name in names:
        rows[name] = made_assets(name, scorer, specs, min(several, n), root, overrides or [], report)
    results = {name: compare(scorer, assets, reference) for name, assets in rows.items()}
    root.mkdir(parents=True, exist_ok=True)
    sheet = [(name, np.concatenate([rgb[:: AZIMUTHS // 2] for rgb in assets.rgb])) for name, assets in rows.items()]
    headings = [heading for spec in specs for heading in (prompt(spec), "")]
    contact_sheet(sheet, headings, size=64).save(root / "guidance.png")
    details = {name: [asdict(s) for s in assets.scores] for name, assets in rows.items()}
    figures = {"summary": {name: asdict(s) for name, s in results.items()}, "assets": details}
    write_results(root, "guidance", figures, markdown_table(HEADER, [cells(*row) for row in results.items()]))
    return results


HEADER = ("rule", "right", "no Janus", "saturation", "FID", "diversity", "IoU", "seconds")


def cells(name: str, s: RuleScore) -> list[str]:
    """Return a row of the table."""
    diversity = "-" if s.diversity is None else f"{s.diversity:.2f}"
    right, faces = f"{s.recognised:.0%}", "-" if s.without_janus is None else f"{s.without_janus:.0%}"
    return [name, right, faces, f"{s.saturation:.2f}", f"{s.fid:.0f}", diversity, f"{s.iou:.2f}", f"{s.seconds:.0f}"]
