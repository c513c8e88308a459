"""`sds3d bench`: repeatable measurements. Here: whole assets and generators, against true objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from sds3d.cli.options import Device, ForAllPresets, PresetNames, ResultsFolder, Threads, examples
from sds3d.console import bars_by_stage, err, out
from sds3d.presets import DEFAULT_PRESET, load_preset

bench = typer.Typer(
    help="Repeatable measurements. Each prints a table and writes the same figures as JSON.", no_args_is_help=True
)


def existing(presets: list[str] | None) -> list[str]:
    """Return the given presets. A misspelt one is reported before the slow imports."""
    for name in presets or []:
        load_preset(name)
    return presets or []


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table whose long cells are folded."""
    table = Table(*(Column(name, overflow="fold") for name in header), title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    out.print(table)


@bench.command(
    "toybox",
    epilog=examples(
        f"sds3d bench toybox  # presets {DEFAULT_PRESET} and dreamfusion on 32 held-out prompts",
        "sds3d bench toybox toybox --prompts 8 --set steps=150",
        f"sds3d bench toybox {DEFAULT_PRESET} --prompts all --model my-prior/prior --against toybox  # may it ship?",
        f"sds3d bench toybox {DEFAULT_PRESET} --prompts all --so-far  # the table of what is done",
        notes=(
            "The same command continues a benchmark that was stopped or killed. Started several times with one --out, "
            "its processes share the work.",
        ),
    ),
)
def bench_toybox(
    names: PresetNames = None,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Held-out prompts: plain (one of each kind), parts (32 with a coloured part), all, or a number; "
            "or shown, those of the gallery.",
        ),
    ] = "32",
    model: Annotated[str, typer.Option(help="Measure this prior: a folder. Default: the preset's.")] = "",
    against: Annotated[str, typer.Option(help="Also measure this prior, on the prompts that both know.")] = "",
    scorer: Annotated[
        Path | None, typer.Option(help="Folder of the scorer that reads the pictures. Default: the shipped one.")
    ] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Make nothing; show what is done.")] = False,
    settings: ForAllPresets = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-toybox"),
) -> None:
    """Measure presets and priors against the toy world's ground truth: right object, right colour, one face."""
    chosen = existing(names) or [DEFAULT_PRESET, "dreamfusion"]
    from sds3d.evaluation import world_report, world_scores
    from sds3d.evaluation.asset_scores import Asset
    from sds3d.run.folder import Machine
    from sds3d.toybox.scorer import load_scorer

    reader = load_scorer(scorer)
    rows = world_scores.contenders(chosen, prompts, settings or (), model, against, reader)

    def tell(name: str, asset: Asset) -> None:
        score = asset.score
        janus = {None: "", False: ", no second face", True: ", a second face"}[score.janus]
        outcome = score.failed or f"{score.recognised:.0%} right{janus}"
        err.print(f"{name}: {score.prompt}: {outcome}, {score.seconds:.0f} s", markup=False, soft_wrap=True)

    with bars_by_stage() as report:
        for row in [] if so_far else rows:
            world_scores.make_missing(row, out_dir, reader, Machine(threads, device), report, tell)
        results = world_scores.results_of(rows, out_dir, reader)
    if not results.figures:
        out.print(f"nothing is done yet in {out_dir}", soft_wrap=True)
        return
    world_report.write(out_dir, results)
    for name in list(results.assets)[1:]:  # the truth is the first
        print_table(world_report.KINDS_HEADER, world_report.kind_rows(results.assets[name]), f"{name}, by kind")
    print_table(world_report.HEADER, (world_report.cells(*row) for row in results.figures.items()))
    for verdict in results.verdicts:
        print_table(world_report.CHECKS_HEADER, world_report.check_rows(verdict), f"{verdict.name}: {verdict}")
    out.print(f"results.md, results.json and pictures: {out_dir}", soft_wrap=True)


@bench.command(
    "guidance",
    epilog=examples(
        "sds3d bench guidance  # every rule on 8 prompts: hours on a CPU; it can be stopped and continued",
        "sds3d bench guidance dreamfusion vsd esd --set steps=150",
        "sds3d bench guidance vsd esd --set prior.multiview=false --set prompts.view_dependent=true",
    ),
)
def bench_guidance(
    names: PresetNames = None,
    prompts: Annotated[int, typer.Option(min=1, help="Number of held-out prompts.")] = 8,
    several: Annotated[
        int, typer.Option(min=0, help="Prompts that are made with 3 seeds each, to measure diversity.")
    ] = 2,
    settings: ForAllPresets = None,
    out_dir: ResultsFolder = Path("bench-guidance"),
) -> None:
    """Compare guidance rules: accuracy, faces, saturation, FID to true pictures, diversity, time."""
    chosen = existing(names)
    from sds3d.evaluation import rule_scores

    with bars_by_stage() as report:
        results = rule_scores.bench(chosen or rule_scores.rule_presets(), out_dir, prompts, several, settings, report)
    print_table(rule_scores.HEADER, (rule_scores.cells(name, figures) for name, figures in results.items()))
    out.print(f"guidance.md, guidance.json and guidance.png: {out_dir}", soft_wrap=True)


@bench.command(
    "generators",
    epilog=examples(
        "sds3d bench generators  # SDS, VSD and ASD on 16, 160 and all prompts: hours; it can be stopped and continued",
        "sds3d bench generators toybox --prompts 16 --set steps=500",
    ),
)
def bench_generators(
    names: PresetNames = None,
    prompts: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="Prompts of a training; 0: all that the prior knows. Repeatable. Default: 16, 160 and all.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all trainings. Repeatable.")
    ] = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-generators"),
) -> None:
    """Train generators by several rules on few and on many prompts, and score their objects."""
    chosen = existing(names) or ["rescaled-sds", "vsd", "asd"]
    from sds3d.devices import set_threads
    from sds3d.evaluation import generator_scores
    from sds3d.toybox.scorer import load_scorer

    set_threads(threads)
    counts = generator_scores.COUNTS if prompts is None else prompts
    cases = [generator_scores.Case(name, count) for name in chosen for count in counts]
    with bars_by_stage() as report:
        results = generator_scores.bench(out_dir, cases, load_scorer(), settings or (), device, report)
    print_table(generator_scores.HEADER, generator_scores.table(results))
    out.print(f"generators.json, generators.md and sheets: {out_dir}", soft_wrap=True)


@bench.command(
    "pictures",
    epilog=examples(
        "sds3d bench pictures  # 4 objects in 7 cases: about an hour on two cores; it can be stopped and continued",
        "sds3d bench pictures --objects 1 --set steps=100  # a first look",
        "sds3d bench pictures --case 'text alone' --case '1, camera found' --objects 6",
        "sds3d bench pictures --style shown/prior --objects 32  # a folder by sds3d toybox train --pictures",
    ),
)
def bench_pictures(
    preset: Annotated[str, typer.Option(metavar="NAME", help="The preset that makes the objects.")] = "splats",
    objects: Annotated[int, typer.Option(min=1, help="Number of toy objects.")] = 4,
    cases: Annotated[
        list[str] | None, typer.Option("--case", help="One of the cases. Repeat it for more. Default: all.")
    ] = None,
    style: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="Measure this prior instead: does it take colours from prompts.image?"),
    ] = "",
    runs: Annotated[int, typer.Option(min=0, help="With --style: objects that are also made by runs.")] = 0,
    settings: ForAllPresets = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-pictures"),
) -> None:
    """Make toy objects from 0 to 8 pictures, and compare unseen views and volumes with those very objects."""
    load_preset(preset)
    from sds3d.evaluation import picture_scores, style_scores
    from sds3d.evaluation.picture_scores import CASES, Score

    if unknown := [case for case in cases or [] if case not in CASES]:
        raise typer.BadParameter(f"{unknown[0]!r} is no case; they are: {'; '.join(CASES)}")
    if style:
        with bars_by_stage() as report:
            results = style_scores.bench(out_dir, style, objects, runs, preset, settings or (), device, threads, report)
        print_table(style_scores.HEADER, style_scores.table(results))
        out.print(f"style.md, style.json and style.png: {out_dir}", soft_wrap=True)
        return

    def tell(score: Score) -> None:
        line = f"{score.prompt}, {score.case}: {score.psnr:.1f} dB, IoU {score.iou:.2f}, {score.seconds:.0f} s"
        err.print(line, markup=False, soft_wrap=True)

    with bars_by_stage() as report:
        scores = picture_scores.bench(
            out_dir, objects, cases or tuple(CASES), preset, settings or (), device, threads, tell, report
        )
    print_table(picture_scores.HEADER, picture_scores.table(scores))
    out.print(f"pictures.md, pictures.json and a sheet of each object: {out_dir}", soft_wrap=True)
