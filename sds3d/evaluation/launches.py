"""What a step asks of a GPU, counted on a fake one: operations that are launched, and points at which the host waits.

Nothing is computed and nothing is timed; see `fake_gpu`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sds3d.evaluation.fake_gpu import META, Watch, pretended
from sds3d.evaluation.prior_speed import PROMPT, prior_of, random_networks
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import RunError
from sds3d.guidance.variational import VariationalConfig
from sds3d.plugins import name_of
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.run.config import RunConfig, make_config, stage_config, stage_count
from sds3d.run.drive import optimize_work, start_work

STEPS = 16
"""Steps that are counted, and as many before them: calls are recorded, and fields find where matter is."""

CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("toybox", ()),
    ("toybox", ("representation=hash_nerf",)),
    ("toybox", ("representation=triplane_nerf",)),
    ("splats", ()),
    ("toybox", ("representation=mesh",)),
    ("toybox", ("representation=mesh", "representation.geometry=flexicubes")),
    ("vsd", ()),
    ("cfd-ode", ()),
    ("dreamfusion-sd", ()),
    ("luciddreamer", ()),
    ("prolificdreamer-sd", ()),
    ("magic3d-sd", ()),
    ("cfd-sd", ()),
)
"""Presets with further settings. Those for real models have random networks of Stable Diffusion 2.1's size."""

_SIZED = ("sd15", "sd21", "sd21-base")
"""Models that have these networks, up to the width of the text's embedding."""


@dataclass(frozen=True)
class Row:
    """Means over steps at the beginning of a stage.

    launches: by the host; a CUDA graph is one. recorded: operations within these graphs. waits: points at which the
    host waits for the device. places: where, with their numbers in all counted steps.
    """

    what: str
    representation: str
    rule: str
    launches: float
    recorded: float
    waits: float
    places: dict[str, int]


def bench(
    root: Path,
    presets: Sequence[str] = (),
    settings: Sequence[str] = (),
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> list[Row]:
    """Count every stage of the presets, or those of CASES. Write launches.json and launches.md into `root`.

    Raises RunError for a preset that cannot be counted.
    """
    cases = [(name, tuple(settings)) for name in presets] or [(name, (*own, *settings)) for name, own in CASES]
    configs = [(title_of(*case), make_config(PROMPT, case[0], list(case[1]))) for case in cases]
    for title, config in configs:
        check(title, config)
    rows: list[Row] = []
    for i, (title, config) in enumerate(configs):
        report(title, i, len(configs))
        for row in stages(title, config):
            rows.append(row)
            write_results(
                root,
                "launches",
                {"torch": torch.__version__, "steps": STEPS, "rows": [asdict(row) for row in rows]},
                table(rows),
            )
    report("done", len(configs), len(configs))
    return rows


def title_of(preset: str, settings: Sequence[str]) -> str:
    """Return the name of a preset and its settings."""
    return " ".join([preset, *settings])


def check(title: str, config: RunConfig) -> None:
    """Raise RunError if the preset cannot be counted."""
    for index in range(stage_count(config)):
        for teacher in stage_config(config, index).all_teachers:
            model = teacher.prior.model if isinstance(teacher.prior, DiffusersConfig) else ""
            if model not in ("toybox", *_SIZED):
                raise RunError(f"{title}: only the embedded prior and Stable Diffusion 1.5 and 2.1 are counted")
    if config.start_from or config.reference or config.estimators or config.rewards:
        raise RunError(f"{title}: presets that read files are not counted")


def stages(title: str, config: RunConfig) -> Iterator[Row]:
    """Count each stage of a run. Its scene is a new one."""
    count = stage_count(config)
    for index in range(count):
        mine = stage_config(config, index)
        with pretended() as watch:
            priors: list[Prior] = [prior_for(mine)] * len(mine.all_teachers)
            yield row(f"{title}, stage {index + 1}" if count > 1 else title, mine, priors, watch, STEPS, STEPS)


def prior_for(config: RunConfig) -> Prior:
    """Return the embedded prior on the meta device, or one of Stable Diffusion 2.1's size."""
    assert isinstance(config.prior, DiffusersConfig)
    if config.prior.model not in _SIZED:
        return config.prior.load(META)
    return prior_of(random_networks(META, torch.bfloat16), 512)


def row(title: str, config: RunConfig, priors: Sequence[Prior], watch: Watch, first: int, steps: int) -> Row:
    """Count steps of a run without stages, after some first ones. The priors' calls are not recorded yet."""
    walk = optimize_work(start_work(own_phi(config), priors))
    for _ in range(first):
        next(walk)
    watch.forget()
    for _ in range(steps):
        next(walk)
    places = Counter(map(place_of, watch.waits))
    return Row(
        title,
        config.representation.name,
        name_of(type(config.guidance)),
        watch.launches / steps,
        watch.recorded / steps,
        len(watch.waits) / steps,
        dict(places),
    )


def own_phi(config: RunConfig) -> RunConfig:
    """Return the settings with a phi that starts as the prior, which is as large as its own model."""
    phi = getattr(config.guidance, "variational", None)
    if not isinstance(phi, VariationalConfig):
        return config
    guidance = config.guidance.model_copy(update={"variational": phi.model_copy(update={"model": ""})})
    return config.model_copy(update={"guidance": guidance})


def place_of(wait: str) -> str:
    """Return the file and the function of the package in which a traceback ends."""
    found = re.findall(r'File ".*?(sds3d/[^"]*)", line \d+, in (\S+)', wait)
    inner = [place for place in found if not place[0].endswith("fake_gpu.py")]
    return " ".join(inner[-1]) if inner else "elsewhere"


HEADER = ("preset", "representation", "rule", "launches", "in graphs", "waits")


def cells(row: Row) -> list[str]:
    """Return a row of the table."""
    return [row.what, row.representation, row.rule, f"{row.launches:.0f}", f"{row.recorded:.0f}", f"{row.waits:.3g}"]


def table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    return markdown_table(HEADER, map(cells, rows))
