"""The speed of prompts that are optimised together, in joint calls of the prior, compared with one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sds3d.devices import pick_device, set_threads
from sds3d.evaluation.kernel_speed import interleaved, machine
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.jobs.together import Task, drive_together
from sds3d.run.config import RunConfig, make_config
from sds3d.run.drive import Load, Priors, optimize_work, prior_settings, start_work

COUNTS = (1, 2, 4, 8)
STEPS = 4
"""Steps of each run in one measurement."""
SECONDS = 15.0
"""Time for each call that is measured."""


@dataclass(frozen=True)
class Gain:
    """Median seconds per step and run of `count` runs: one run after another (`alone`), and `together`."""

    preset: str
    count: int
    alone: float
    together: float

    @property
    def ratio(self) -> float:
        """How many times as many assets the runs make together in the same time."""
        return self.alone / self.together


def steps_of(config: RunConfig, seed: int) -> Task:
    """Return a task of a run's first STEPS steps, without previews, checkpoints and exports."""

    def task(load: Load) -> None:
        work = start_work(config.model_copy(update={"seed": seed}), load(prior_settings(config, lean=False)))
        for step in optimize_work(work):
            if step.step == STEPS:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                return

    return task


def measure(preset: str, config: RunConfig, load: Load, counts: Sequence[int], seconds: float) -> list[Gain]:
    """Return the gain for each number of runs. The measurements take turns, each for about `seconds`."""
    calls: list[Callable[[], object]] = []
    for count in counts:
        tasks = [steps_of(config, seed) for seed in range(count)]

        def alone(tasks: Sequence[Task] = tuple(tasks)) -> None:
            for task in tasks:
                task(load)

        def together(tasks: Sequence[Task] = tuple(tasks)) -> None:
            drive_together(load, tasks)

        calls += [alone, together]
    medians = interleaved(calls, seconds)
    pairs = zip(counts, medians[::2], medians[1::2], strict=True)
    return [Gain(preset, count, one / (STEPS * count), all_ / (STEPS * count)) for count, one, all_ in pairs]


def bench(
    presets: Sequence[str],
    root: Path,
    counts: Sequence[int] = COUNTS,
    overrides: Sequence[str] = (),
    device: str = "",
    threads: int = 0,
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> list[Gain]:
    """Measure presets. Write together.json and together.md into `root`."""
    threads = set_threads(threads)
    gains: list[Gain] = []
    for i, preset in enumerate(presets):
        config = make_config("a red mug", preset, list(overrides))
        priors = Priors(pick_device(device))
        priors.load(prior_settings(config, lean=False))  # before the clock starts
        gains += measure(preset, config, priors.load, counts, SECONDS)
        report("measuring", i + 1, len(presets))
    here = asdict(machine(threads))
    details = {"machine": here, "device": str(pick_device(device)), "gains": [asdict(gain) for gain in gains]}
    write_results(root, "together", details, markdown_table(HEADER, map(cells, gains)))
    return gains


HEADER = ("preset", "runs", "one by one, ms per step", "together, ms per step", "times as many assets")


def cells(gain: Gain) -> list[str]:
    """Return a row of the table."""
    milliseconds = f"{1e3 * gain.alone:.0f}", f"{1e3 * gain.together:.0f}"
    return [gain.preset, str(gain.count), *milliseconds, f"{gain.ratio:.2f}"]
