"""`sds3d bench`: measurements that can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from sds3d.cli.options import Device, Threads, examples
from sds3d.console import bars_by_stage, out, progress_bar
from sds3d.presets import load_preset

bench = typer.Typer(help="Measurements that can be repeated.", no_args_is_help=True)


@bench.command(
    "toybox",
    epilog=examples(
        "sds3d bench toybox  # the presets toybox and dreamfusion on 32 held-out prompts",
        "sds3d bench toybox toybox --prompts 8 --set steps=150",
    ),
)
def bench_toybox(
    names: Annotated[list[str] | None, typer.Argument(metavar="PRESET", help="Presets to measure.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 32,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all presets.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the results go.")] = Path("bench-toybox"),
) -> None:
    """Measure presets against the toy world's ground truth: right object, right colour, no Janus."""
    chosen = names or ["toybox", "dreamfusion"]
    for name in chosen:
        load_preset(name)
    from sds3d.evaluation.toybox import bench as run_bench

    with bars_by_stage() as report:
        results = run_bench(chosen, out_dir, prompts, settings, report)
    table = Table("preset", *next(iter(results.values())))
    for name, figures in results.items():
        table.add_row(name, *(f"{value:.3g}" for value in figures.values()))
    out.print(table)
    out.print(f"details and contact sheets: {out_dir}", soft_wrap=True)


@bench.command(
    "guidance",
    epilog=examples(
        "sds3d bench guidance  # every rule on 8 prompts: hours on a CPU; stop it and start it again as you like",
        "sds3d bench guidance dreamfusion vsd esd --set steps=150",
        "sds3d bench guidance vsd esd --set prior.multiview=false --set prompts.view_dependent=true",
    ),
)
def bench_guidance(
    names: Annotated[list[str] | None, typer.Argument(metavar="PRESET", help="Presets of rules; all.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 8,
    several: Annotated[int, typer.Option(min=0, help="Prompts of which 3 seeds are made, for diversity.")] = 2,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all presets.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where runs and results go.")] = Path("bench-guidance"),
) -> None:
    """Measure rules beside each other: accuracy, faces, saturation, FID to true pictures, diversity, time."""
    for name in names or []:
        load_preset(name)
    from sds3d.evaluation import guidance

    with bars_by_stage() as report:
        results = guidance.bench(names or guidance.rule_presets(), out_dir, prompts, several, settings, report)
    table = Table(*guidance.HEADER)
    for name, figures in results.items():
        table.add_row(*guidance.cells(name, figures))
    out.print(table)
    out.print(f"guidance.md, guidance.json and guidance.png: {out_dir}", soft_wrap=True)


@bench.command(
    "rendering",
    epilog=examples(
        "sds3d bench rendering  # some ten minutes on two cores",
        "sds3d bench rendering --quick  # the smallest scene of every kernel",
    ),
)
def bench_rendering(
    quick: Annotated[bool, typer.Option("--quick", help="Only the smallest scene of every kernel.")] = False,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads to compare with one; 0 takes the physical cores, at most 8.")
    ] = 0,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the results go.")] = Path("bench-rendering"),
) -> None:
    """Time every rendering kernel beside plain torch, and beside CUDA libraries where there is a GPU."""
    from sds3d.devices import default_threads
    from sds3d.evaluation import rendering

    with progress_bar() as progress:
        task = progress.add_task("measuring", total=None)
        here, rows = rendering.bench(
            out_dir,
            threads or default_threads(),
            quick,
            lambda name, step, total: progress.update(task, description=escape(name), completed=step, total=total),
        )
    table = Table(*(Column(title, overflow="fold") for title in rendering.header(here)))
    for row in rows:
        table.add_row(*rendering.cells(row, here))
    out.print(table)
    out.print(rendering.describe(here), soft_wrap=True)
    out.print(f"rendering.json and rendering.md: {out_dir}", soft_wrap=True)


@bench.command(
    "together",
    epilog=examples(
        "sds3d bench together  # on a CPU little is gained: it is busy with one run",
        "sds3d bench together toybox vsd --runs 8 --device cuda",
    ),
)
def bench_together(
    names: Annotated[list[str] | None, typer.Argument(metavar="PRESET", help="Presets to measure.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="The most runs; half as many and so on are measured too.")] = 8,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all presets.")
    ] = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the results go.")] = Path("bench-together"),
) -> None:
    """Time steps of several prompts one by one, and together in one call of the prior."""
    chosen = names or ["toybox"]
    for name in chosen:
        load_preset(name)
    from sds3d.evaluation import together

    counts = sorted({max(runs >> i, 1) for i in range(runs.bit_length())})
    with bars_by_stage() as report:
        gains = together.bench(chosen, out_dir, counts, settings or (), device, threads, report=report)
    table = Table(*(Column(title, overflow="fold") for title in together.HEADER))
    for gain in gains:
        table.add_row(*together.cells(gain))
    out.print(table)
    out.print(f"together.json and together.md: {out_dir}", soft_wrap=True)


@bench.command(
    "priors",
    epilog=examples(
        "sds3d bench priors --device cuda  # 512 px, 1 picture and 4",
        "sds3d bench priors --size 64 --batch 1 --smaller 8  # a try on a CPU",
    ),
)
def bench_priors(
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures a step; give it several times. 1 and 4.")
    ] = None,
    size: Annotated[int, typer.Option(min=64, help="Pixels a side, a multiple of 64.")] = 512,
    smaller: Annotated[int, typer.Option(min=1, max=16, help="Divide the networks' widths by this power of 2.")] = 1,
    device: Device = "",
    threads: Threads = 0,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the results go.")] = Path("bench-priors"),
) -> None:
    """Time steps of SDS and VSD with Stable Diffusion 2.1's architecture beside the same in diffusers' own calls."""
    if size % 64 or smaller & (smaller - 1):
        raise typer.BadParameter("--size takes a multiple of 64, and --smaller a power of 2")
    from sds3d.evaluation import prior_speed

    with bars_by_stage() as report:
        rows = prior_speed.bench(
            out_dir, batches=batch or (1, 4), size=size, smaller=smaller, device=device, threads=threads,
            report=report,
        )  # fmt: skip
    table = Table(*(Column(title, overflow="fold") for title in prior_speed.HEADER))
    for row in rows:
        table.add_row(*prior_speed.cells(row))
    out.print(table)
    out.print(f"priors.json and priors.md: {out_dir}", soft_wrap=True)
