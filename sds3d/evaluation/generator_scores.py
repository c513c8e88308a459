"""Which rules can train a generator, and for how many prompts: the claim of ScaleDreamer (Ma et al. 2024,
arXiv:2407.02040) is that VSD breaks as prompts grow, and that ASD does not.

Each rule trains the same network for the same number of steps on sets of prompts of several sizes. Then the scorer
reads what the network makes of some of these prompts and of held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sds3d.config import build, parse_override
from sds3d.devices import pick_device
from sds3d.evaluation.asset_scores import AZIMUTHS, BACKGROUND, ELEVATION, PIXELS, bench_prompts, has_janus, known_kinds
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import write_atomically
from sds3d.formats.pictures import png
from sds3d.generators.base import Generator
from sds3d.prompts.conditioning import Conditioning
from sds3d.run.config import make_config
from sds3d.run.drive import Priors
from sds3d.run.generated_start import load_for, random_seed
from sds3d.run.generator_pictures import encoded, objects_sheet, views_of
from sds3d.run.train_generator import GeneratorTraining, train_generator
from sds3d.toybox.captions import prompt, sample_spec
from sds3d.toybox.scorer import Scorer, score
from sds3d.toybox.world import HAS_FRONT, Spec

COUNTS = (16, 160, 0)
"""Numbers of prompts; 0 is all that the prior has seen."""
SCORED = 32
"""Prompts of a set that are scored."""
_SHOWN = 8  # prompts on a sheet


@dataclass(frozen=True)
class Case:
    """A training. preset: whose rule it has. prompts: their number, 0 for all that the prior has seen."""

    preset: str
    prompts: int

    def __str__(self) -> str:
        """Return how the case is called."""
        return f"{self.preset}, {self.prompts or 'all'} prompts"


@dataclass(frozen=True)
class Scores:
    """Means over objects of one set of prompts.

    right: share of the pictures in which the scorer reads the right category and colour. category: the right category.
    one_front: share of the objects with a front that show it on their front alone. None if none has a front.
    """

    objects: int
    right: float
    category: float
    one_front: float | None


def training_prompts(count: int, kinds: Sequence[str]) -> list[Spec]:
    """Return the first `count` combinations that training may show, without repetition; kinds take turns."""
    rng = np.random.default_rng(0)
    chosen: dict[Spec, None] = {}
    while len(chosen) < count:
        chosen.setdefault(sample_spec(rng, [kinds[len(chosen) % len(kinds)]]))
    return list(chosen)


def settings(case: Case, overrides: Sequence[str], kinds: Sequence[str]) -> GeneratorTraining:
    """Return the settings of a training: rule, gradient and texts are those of the preset's runs."""
    run = make_config("a", case.preset)
    layer: dict[str, Any] = {
        "guidance": run.guidance.model_dump(),
        "gradient": [transform.model_dump() for transform in run.gradient],
        "prior": run.prior.model_dump(),
        "prompts": run.prompts.model_dump(),
    }
    if case.prompts:
        layer["texts"] = [prompt(spec) for spec in training_prompts(case.prompts, kinds)]
    return build(GeneratorTraining, layer, *(parse_override(text) for text in overrides))


def measure(generator: Generator, texts: Mapping[Spec, Conditioning], scorer: Scorer) -> Scores:
    """Score what a generator makes of prompts, in one pass each. texts: one row each."""
    right, category, fronts = [], [], []
    azimuths = torch.arange(AZIMUTHS) * (360.0 / AZIMUTHS)
    seed = random_seed(generator, 0)
    for spec, text in texts.items():
        rgb = views_of(generator, text, seed, azimuths.tolist(), PIXELS, ELEVATION, BACKGROUND)
        read = score(scorer, torch.from_numpy(rgb))
        pairs = list(zip(read.category, read.color, strict=True))
        right.append(np.mean([pair == (spec.category, spec.color) for pair in pairs]))
        category.append(np.mean([kind == spec.category for kind, _ in pairs]))
        if spec.category in HAS_FRONT:
            fronts.append(not has_janus(azimuths, read.azimuth))
    return Scores(
        len(texts), float(np.mean(right)), float(np.mean(category)), float(np.mean(fronts)) if fronts else None
    )


def bench(
    root: Path,
    cases: Sequence[Case],
    scorer: Scorer,
    overrides: Sequence[str],
    device: str,
    report: Callable[[str, int, int, dict[str, float]], None],
) -> dict[Case, tuple[Scores, Scores]]:
    """Train and score each case; return the scores of trained and of held-out prompts.

    Trainings are kept in `root`, so that a stopped benchmark continues. report: called after each step with the name
    of a case, its step, all steps and the losses. Writes generators.json, generators.md, and a sheet for each case.
    """
    results: dict[Case, tuple[Scores, Scores]] = {}
    priors = Priors(pick_device(device))
    for case in cases:
        kinds = known_kinds(scorer, [make_config("a", case.preset).prior])
        config, name = settings(case, overrides, kinds), f"{case.preset}-{case.prompts or 'all'}"
        (prior,) = priors.load([config.prior])
        made = train_generator(
            root / "trainings" / name, config, lambda _, *rest, c=case: report(str(c), *rest), priors.device, prior
        )
        sets = training_prompts(case.prompts or SCORED, kinds)[:SCORED], bench_prompts(SCORED, kinds)
        trained, held_out = ({spec: encoded(prior, prompt(spec)) for spec in specs} for specs in sets)
        generator = load_for(made, prior, next(iter(trained.values())))
        results[case] = measure(generator, trained, scorer), measure(generator, held_out, scorer)
        shown = {prompt(spec): text for spec, text in islice(trained.items(), _SHOWN)}
        write_atomically(root / f"{name}.png", png(objects_sheet(generator, shown, str(case))))
        write(root, results, overrides)
    return results


HEADER = ("rule of", "prompts", "right", "category", "one front", "right, held out", "category", "one front")


def table(results: dict[Case, tuple[Scores, Scores]]) -> list[list[str]]:
    """Return the rows of the table: shares of trained prompts, then of held-out ones."""
    return [
        [f"`{case.preset}`", str(case.prompts or "all"), *_cells(trained), *_cells(held_out)]
        for case, (trained, held_out) in results.items()
    ]


def _cells(scores: Scores) -> list[str]:
    shares = (scores.right, scores.category, scores.one_front)
    return ["" if share is None else f"{share:.0%}" for share in shares]


def write(root: Path, results: dict[Case, tuple[Scores, Scores]], overrides: Sequence[str]) -> None:
    """Write generators.json and generators.md into `root`."""
    rows = [
        {"preset": case.preset, "prompts": case.prompts, "trained": asdict(trained), "held_out": asdict(held_out)}
        for case, (trained, held_out) in results.items()
    ]
    write_results(
        root, "generators", {"settings": list(overrides), "cases": rows}, markdown_table(HEADER, table(results))
    )
