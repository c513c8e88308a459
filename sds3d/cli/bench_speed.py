"""`sds3d bench` for speed: renderers, priors, a GPU, several prompts at once, and the studio under load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sds3d.cli.bench import existing, print_table
from sds3d.cli.bench_parts import bench  # with the commands of both rooms
from sds3d.cli.exits import Exit
from sds3d.cli.options import Device, ForAllPresets, PresetNames, ResultsFolder, Threads, examples
from sds3d.console import bars_by_stage, err, out, progress_bar


@bench.command(
    "rendering",
    epilog=examples(
        "sds3d bench rendering  # about ten minutes on two cores",
        "sds3d bench rendering --quick  # the smallest scene of every kernel",
    ),
)
def bench_rendering(
    quick: Annotated[bool, typer.Option("--quick", help="Only the smallest scene of every kernel.")] = False,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads to compare with one. 0: all physical cores, at most 8.")
    ] = 0,
    out_dir: ResultsFolder = Path("bench-rendering"),
) -> None:
    """Time every rendering kernel against plain torch and, on a GPU, against CUDA libraries."""
    from sds3d.devices import default_threads
    from sds3d.evaluation import kernel_speed

    with progress_bar() as progress:
        task = progress.add_task("measuring", total=None)
        here, rows = kernel_speed.bench(
            out_dir,
            threads or default_threads(),
            quick,
            lambda name, step, total: progress.update(task, description=escape(name), completed=step, total=total),
        )
    print_table(kernel_speed.header(here), (kernel_speed.cells(row, here) for row in rows))
    out.print(kernel_speed.describe(here), soft_wrap=True)
    out.print(f"rendering.json and rendering.md: {out_dir}", soft_wrap=True)


@bench.command(
    "together",
    epilog=examples(
        "sds3d bench together  # on a CPU the gain is small: one run keeps it busy",
        "sds3d bench together toybox vsd --runs 8 --device cuda",
    ),
)
def bench_together(
    names: PresetNames = None,
    runs: Annotated[int, typer.Option(min=1, help="Largest number of runs; also measures half of it, and so on.")] = 8,
    settings: ForAllPresets = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-together"),
) -> None:
    """Time steps of several prompts one by one, and together in one call of the prior."""
    chosen = existing(names) or ["toybox"]
    from sds3d.evaluation import together_speed

    counts = sorted({max(runs >> i, 1) for i in range(runs.bit_length())})
    with bars_by_stage() as report:
        gains = together_speed.bench(chosen, out_dir, counts, settings or (), device, threads, report=report)
    print_table(together_speed.HEADER, (together_speed.cells(gain) for gain in gains))
    out.print(f"together.json and together.md: {out_dir}", soft_wrap=True)


@bench.command(
    "priors",
    epilog=examples(
        "sds3d bench priors --device cuda  # 512 px, 1 picture and 4",
        "sds3d bench priors --size 64 --batch 1 --smaller 8  # small enough for a CPU",
    ),
)
def bench_priors(
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of pictures per step. Repeatable. Default: 1 and 4.", show_default=False),
    ] = None,
    size: Annotated[int, typer.Option(min=64, help="Picture size in pixels, a multiple of 64.")] = 512,
    smaller: Annotated[
        int, typer.Option(min=1, max=16, help="Divide the widths of the networks by this power of 2.")
    ] = 1,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-priors"),
) -> None:
    """Time steps of SDS and VSD on Stable Diffusion 2.1's architecture against diffusers' own calls."""
    if size % 64 or smaller & (smaller - 1):
        raise typer.BadParameter("--size must be a multiple of 64, and --smaller a power of 2")
    from sds3d.evaluation import prior_speed

    with bars_by_stage() as report:
        rows = prior_speed.bench(
            out_dir, batches=batch or (1, 4), size=size, smaller=smaller, device=device, threads=threads,
            report=report,
        )  # fmt: skip
    print_table(prior_speed.HEADER, (prior_speed.cells(row) for row in rows))
    out.print(f"priors.json and priors.md: {out_dir}", soft_wrap=True)


@bench.command(
    "gpu",
    epilog=examples(
        "sds3d bench gpu  # on the first GPU",
        "sds3d bench gpu --device cuda:1 --out results",
    ),
)
def bench_gpu(
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-gpu"),
) -> None:
    """Time a GPU: rules and U-Net beside diffusers' own calls, renderers, whole steps, runs together, memory."""
    from sds3d.evaluation import gpu_speed

    with bars_by_stage() as report:
        rows = gpu_speed.bench(out_dir, device=device, threads=threads, report=report)
    print_table(gpu_speed.HEADER, map(gpu_speed.cells, rows))
    out.print(f"gpu.json and gpu.md: {out_dir}", soft_wrap=True)


@bench.command(
    "launches",
    epilog=examples(
        "sds3d bench launches  # every kind of scene, SDS, VSD and CFD: some minutes",
        "sds3d bench launches vsd --set representation=hash_nerf",
        notes=('It needs no GPU, but NVIDIA Warp: pip install ".[cuda]".',),
    ),
)
def bench_launches(
    names: PresetNames = None,
    settings: ForAllPresets = None,
    out_dir: ResultsFolder = Path("bench-launches"),
) -> None:
    """Count on a fake GPU what a step launches, how much of it in CUDA graphs, and where it waits; nothing is timed."""
    chosen = existing(names)
    from sds3d.evaluation import launches

    with bars_by_stage() as report:
        rows = launches.bench(
            out_dir, chosen, settings or (), report=lambda name, step, total: report(name, step, total, {})
        )
    print_table(launches.HEADER, map(launches.cells, rows))
    out.print(f"launches.json and launches.md: {out_dir}", soft_wrap=True)


@bench.command(
    "studio",
    epilog=examples(
        "sds3d bench studio  # 10 visitors at a time for 5 minutes, after a warm-up by 200",
        "sds3d bench studio --visitors 3 --minutes 0.5",
        notes=("Exit code 1: something did not come back, or a visitor got an error.",),
    ),
)
def bench_studio(
    visitors: Annotated[int, typer.Option(min=1, help="Visitors at a time; each makes room for another.")] = 10,
    minutes: Annotated[float, typer.Option(min=0, help="Duration of the load.")] = 5.0,
    out_dir: ResultsFolder = Path("bench-studio"),
) -> None:
    """Put a studio under load: do its memory, threads, files and processes come back, and how fast does it answer?"""
    from sds3d.evaluation import studio_load

    with bars_by_stage() as report:
        load = studio_load.bench(out_dir, visitors, minutes, report)
    print_table(studio_load.HEADER, studio_load.rows(load), studio_load.summary(load))
    print_table(studio_load.ANSWERS, studio_load.answer_rows(load))
    out.print(f"studio.json and studio.md: {out_dir}", soft_wrap=True)
    for problem in load.problems:
        err.print(problem, markup=False, soft_wrap=True)
    if load.problems:
        raise typer.Exit(Exit.FAILED)
