"""Presets and priors measured on held-out prompts of the toy world, by kind of object, and the bounds of a good prior.

Several processes may share one folder: each makes what none has made and no other is making. Whatever was killed is
continued by the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sds3d.config import ConfigError
from sds3d.devices import pick_device
from sds3d.evaluation.asset_scores import (
    Asset,
    Summary,
    choose_prompts,
    known_kinds,
    make_asset,
    measured,
    run_of,
    score_asset,
    summary,
    truth,
)
from sds3d.evaluation.frechet import TRUE_OBJECTS, features, frechet_distance
from sds3d.evaluation.prior_record import PriorRecord, note, noted
from sds3d.priors.base import Prior, PriorConfig
from sds3d.prompts.prompt import slug
from sds3d.run.config import make_config
from sds3d.run.folder import Machine
from sds3d.run.locks import RunBusyError
from sds3d.toybox.captions import held_out
from sds3d.toybox.scorer import Scorer
from sds3d.toybox.world import Spec

RIGHT, WITHOUT_JANUS, DECODER = 0.95, 0.93, 32.0
"""Least shares of right pictures and of assets without a second face, and least PSNR in dB, of a prior that ships."""


@dataclass(frozen=True)
class Contender:
    """What makes assets: a preset with settings. against: its prior is only there to be compared with."""

    name: str
    preset: str
    overrides: tuple[str, ...]
    specs: tuple[Spec, ...]
    prior: PriorConfig
    against: bool = False


@dataclass(frozen=True)
class Figures:
    """The figures of a contender's assets. planned: prompts. fid: to true objects. record: None for true objects."""

    planned: int
    of_all: Summary
    fid: float
    record: PriorRecord | None = None


@dataclass(frozen=True)
class Check:
    """A figure against its least value. value: None if it is not known."""

    name: str
    value: float | None
    least: float

    @property
    def passed(self) -> bool:
        """Whether the figure is known and high enough."""
        return self.value is not None and self.value >= self.least


@dataclass(frozen=True)
class Verdict:
    """A contender's checks. done, planned: prompts; the verdict is final when all are done."""

    name: str
    done: int
    planned: int
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        """Return PASSED, NOT PASSED, or how far the benchmark is."""
        outcome = "PASSED" if all(check.passed for check in self.checks) else "NOT PASSED"
        return outcome if self.done == self.planned else f"{outcome} so far, {self.done} of {self.planned} prompts"


@dataclass(frozen=True)
class Results:
    """All results. assets: by contender, with its name first in `figures`; only what is done."""

    figures: dict[str, Figures]
    assets: dict[str, list[Asset]]
    verdicts: list[Verdict]


def contenders(
    presets: Sequence[str], which: str, overrides: Sequence[str], model: str, against: str, scorer: Scorer
) -> list[Contender]:
    """Return what is measured on the prompts whose kinds scorer and prior know.

    which: see `choose_prompts`. model: the prior of all presets, "" for their own. against: another prior, which is
    measured on those of the prompts that it knows too; "" for none. Raises ConfigError, ValueError.
    """
    rows = []
    for preset in presets:
        settings = (*overrides, *([f"prior.model={model}"] if model else []))
        prior = make_config("a", preset, settings).prior
        specs = tuple(choose_prompts(which, known_kinds(scorer, [prior])))
        rows.append(Contender(preset, preset, settings, specs, prior))
        if against:
            settings = (*overrides, f"prior.model={against}")
            prior = make_config("a", preset, settings).prior
            known = tuple(spec for spec in specs if spec.category in known_kinds(scorer, [prior]))
            if not known:
                raise ConfigError(f"the prior {against} knows no kind of these prompts: leave out --against")
            rows.append(Contender(f"{preset} with {Path(against).name}", preset, settings, known, prior, against=True))
    return rows


def make_missing(
    row: Contender,
    root: Path,
    scorer: Scorer,
    machine: Machine,
    report: Callable[[str, int, int], None],
    tell: Callable[[str, Asset], None],
) -> None:
    """Make the assets of a contender that are neither done nor being made by another process.

    report: called after each step with the contender's steps done and planned. tell: called with each new asset.
    """
    noted(root / slug(row.name), row.prior)  # refuses the assets of another prior
    prior: Prior | None = None
    left = list(enumerate(row.specs))
    while left:
        busy = []
        for i, spec in left:
            run, _ = run_of(spec, row.preset, row.overrides, root / slug(row.name))
            if measured(run, spec, scorer) is not None:
                continue
            if run.busy():
                busy.append((i, spec))
                continue
            if prior is None:
                prior = row.prior.load(pick_device(machine.device))
                note(root / slug(row.name), row.prior, prior, row.specs)

            def step(done: int, total: int, i: int = i) -> None:
                report(row.name, i * total + done, len(row.specs) * total)

            try:
                tell(row.name, make_asset(run, spec, scorer, prior, machine, step))
            except RunBusyError:
                busy.append((i, spec))
        if len(busy) == len(left):
            return  # other processes make the rest
        left = busy


def results_of(rows: Sequence[Contender], root: Path, scorer: Scorer) -> Results:
    """Measure what is done so far, and true objects of the same prompts."""
    assets: dict[str, list[Asset]] = {"truth": []}
    found: dict[Spec, tuple[Asset, np.ndarray]] = {}
    figures: dict[str, Figures] = {}
    for row in rows:
        runs = [run_of(spec, row.preset, row.overrides, root / slug(row.name))[0] for spec in row.specs]
        scores = [measured(run, spec, scorer) for run, spec in zip(runs, row.specs, strict=True)]
        done = [(spec, asset) for spec, asset in zip(row.specs, scores, strict=True) if asset is not None]
        for spec, _ in done:
            if spec not in found:
                found[spec] = _true_asset(spec, scorer)
        if done:
            assets[row.name] = [asset for _, asset in done]
            fid = _fid(scorer, assets[row.name], [found[spec][1] for spec, _ in done])
            record = noted(root / slug(row.name), row.prior)
            figures[row.name] = Figures(len(row.specs), summary([a.score for a in assets[row.name]]), fid, record)
    if not figures:
        return Results({}, {}, [])
    assets["truth"] = [asset for asset, _ in found.values()]
    fid = _fid(scorer, assets["truth"], [reference for _, reference in found.values()])
    true = Figures(len(found), summary([a.score for a in assets["truth"]]), fid)
    judged = [row for row in rows if row.name in figures and not row.against and set(row.specs) <= held_out()]
    verdicts = [verdict(row, rows, figures, assets) for row in judged]
    return Results({"truth": true, **figures}, assets, verdicts)


def _true_asset(spec: Spec, scorer: Scorer) -> tuple[Asset, np.ndarray]:
    """Return a true object, and features (TRUE_OBJECTS AZIMUTHS, D) of others."""
    rgb, mesh = truth(spec)
    others = [truth(spec, 1000 + i, scorer.pixels)[0] for i in range(TRUE_OBJECTS)]
    return Asset(score_asset(scorer, spec, rgb, mesh, 0.0), rgb), features(scorer, np.concatenate(others))


def _fid(scorer: Scorer, assets: Sequence[Asset], references: Sequence[np.ndarray]) -> float:
    made = np.concatenate([features(scorer, asset.rgb) for asset in assets])
    return frechet_distance(made, np.concatenate(references))


def verdict(
    row: Contender, rows: Sequence[Contender], figures: dict[str, Figures], assets: dict[str, list[Asset]]
) -> Verdict:
    """Return a contender's figures against the bounds, and against the prior that it is compared with."""
    mine = figures[row.name]
    record = mine.record
    checks = [
        Check("category and colour right", mine.of_all.recognised, RIGHT),
        Check("no second face", mine.of_all.without_janus, WITHOUT_JANUS),
        Check("decoder, dB", record.decoder if record else None, DECODER),
    ]
    for other in rows:
        if other.against and other.preset == row.preset and other.name in figures:
            theirs = {asset.score.prompt: asset.score for asset in assets[other.name]}
            both = [asset.score for asset in assets[row.name] if asset.score.prompt in theirs]
            if both:
                new, old = summary(both), summary([theirs[score.prompt] for score in both])
                checks.append(Check(f"right, {len(both)} prompts that both know", new.recognised, old.recognised))
                if old.without_janus is not None:
                    checks.append(Check("no second face, of these", new.without_janus, old.without_janus))
    return Verdict(row.name, mine.of_all.assets, mine.planned, tuple(checks))
