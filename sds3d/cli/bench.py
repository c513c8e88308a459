"""`sds3d bench`: repeatable measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from sds3d.cli.exits import Exit
from sds3d.cli.options import Device, ForAllPresets, PresetNames, ResultsFolder, Threads, examples
from sds3d.console import bars_by_stage, err, out, progress_bar
from sds3d.presets import DEFAULT_PRESET, load_preset

bench = typer.Typer(
    help="Repeatable measurements. Each prints a table and writes the same figures as JSON.", no_args_is_help=True
)


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
    chosen = _existing(names) or [DEFAULT_PRESET, "dreamfusion"]
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
        _print_table(world_report.KINDS_HEADER, world_report.kind_rows(results.assets[name]), f"{name}, by kind")
    _print_table(world_report.HEADER, (world_report.cells(*row) for row in results.figures.items()))
    for verdict in results.verdicts:
        _print_table(world_report.CHECKS_HEADER, world_report.check_rows(verdict), f"{verdict.name}: {verdict}")
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
    chosen = _existing(names)
    from sds3d.evaluation import rule_scores

    with bars_by_stage() as report:
        results = rule_scores.bench(chosen or rule_scores.rule_presets(), out_dir, prompts, several, settings, report)
    _print_table(rule_scores.HEADER, (rule_scores.cells(name, figures) for name, figures in results.items()))
    out.print(f"guidance.md, guidance.json and guidance.png: {out_dir}", soft_wrap=True)


@bench.command(
    "materials",
    epilog=examples(
        "sds3d bench materials  # eight objects: about half an hour on a CPU",
        "sds3d bench materials --objects 2 --steps 100",
    ),
)
def bench_materials(
    objects: Annotated[int, typer.Option(min=1, max=8, help="Number of objects.")] = 8,
    lights: Annotated[int, typer.Option(min=2, max=64, help="Lights of the pictures that are fitted.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each fit.")] = 300,
    size: Annotated[int, typer.Option(min=16, help="Height and width of the pictures in pixels.")] = 64,
    out_dir: ResultsFolder = Path("bench-materials"),
) -> None:
    """Fit materials to pictures in several, one or wrongly assumed light: albedo, roughness, metallic, relighting."""
    from sds3d.evaluation import material_scores as scores

    with progress_bar() as progress:
        task = progress.add_task("fitting", total=None)
        results = scores.bench(
            out_dir,
            scores.PROMPTS[:objects],
            lights,
            steps,
            size,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    _print_table(scores.HEADER, (scores.cells(*row) for row in results.items()))
    out.print(f"materials.md and materials.json: {out_dir}", soft_wrap=True)


@bench.command(
    "light",
    epilog=examples(
        "sds3d bench light lit/prior  # a folder by sds3d toybox train --light: ten minutes on a CPU",
        "sds3d bench light lit/prior --objects 2 --set steps=100",
    ),
)
def bench_light(
    model: Annotated[str, typer.Argument(help="Folder of a prior that is told the light.", show_default=False)],
    objects: Annotated[int, typer.Option(min=1, max=8, help="Number of objects, besides a white one.")] = 4,
    settings: ForAllPresets = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-light"),
) -> None:
    """Distil materials with a prior that is told the light and without: albedo, roughness, metallic, relighting."""
    from sds3d.evaluation import light_scores as scores
    from sds3d.evaluation.material_scores import PROMPTS

    with bars_by_stage() as report:
        results = scores.bench(out_dir, model, PROMPTS[:objects], settings or (), device, threads, report)
    _print_table(scores.HEADER, scores.table(results))
    _print_table(scores.WHITE_HEADER, scores.white_table(results))
    out.print(f"light.json, light.md and light.png: {out_dir}", soft_wrap=True)


@bench.command(
    "structure",
    epilog=examples(
        "sds3d bench structure told/prior  # a folder by sds3d toybox train --structure: some minutes on a CPU",
        "sds3d bench structure told/prior --against toybox --set steps=300",
        "sds3d bench structure told/prior --cases 2",
    ),
)
def bench_structure(
    model: Annotated[str, typer.Argument(help="Folder of a prior that takes structure.", show_default=False)],
    against: Annotated[str, typer.Option(help="Also paint with this prior, for example toybox.")] = "",
    cases: Annotated[int, typer.Option(min=1, help="Number of shapes that are painted. Default: all.")] = 8,
    settings: ForAllPresets = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-structure"),
) -> None:
    """Paint shapes that their names do not tell with and without structure: colours on the right parts, edges."""
    from sds3d.evaluation import structure_scores

    with bars_by_stage() as report:
        results = structure_scores.bench(
            out_dir, model, against, structure_scores.CASES[:cases], settings or (), device, threads, report
        )
    _print_table(structure_scores.HEADER, structure_scores.table(results))
    out.print(f"structure.json, structure.md and structure.png: {out_dir}", soft_wrap=True)


@bench.command(
    "start",
    epilog=examples(
        f"sds3d bench start begun/start  # presets {DEFAULT_PRESET} and toybox on 4 held-out prompts: hours",
        f"sds3d bench start begun/start {DEFAULT_PRESET} --prompts 2 --steps 100",
    ),
)
def bench_start(
    start: Annotated[str, typer.Argument(metavar="FOLDER", help="A network of starts.", show_default=False)],
    names: PresetNames = None,
    prompts: Annotated[int, typer.Option(min=1, help="Number of held-out prompts.")] = 4,
    steps: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Steps of the runs. Repeatable. Default: 100, 150 and 300.", show_default=False),
    ] = None,
    settings: ForAllPresets = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-start"),
) -> None:
    """Measure what a start from the prior's own pictures saves: the same prompts with and without it."""
    chosen = _existing(names) or [DEFAULT_PRESET, "toybox"]
    from sds3d.evaluation import start_scores
    from sds3d.run.folder import Machine
    from sds3d.toybox.scorer import load_scorer

    cases = start_scores.cases(chosen, steps or start_scores.STEPS, start)
    with bars_by_stage() as report:
        assets, overlaps = start_scores.bench(
            out_dir, cases, prompts, load_scorer(), settings or (), Machine(threads, device),
            lambda line: err.print(line, markup=False, soft_wrap=True),
            lambda name, step, total: report(name, step, total, {}),
        )  # fmt: skip
    _print_table(start_scores.HEADER, start_scores.table(assets))
    for name, value in overlaps.items():
        out.print(f"{name}: IoU {value:.2f} of the start with the true object in its views", markup=False)
    out.print(f"start.json, start.md and start.png: {out_dir}", soft_wrap=True)


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
    chosen = _existing(names) or ["rescaled-sds", "vsd", "asd"]
    from sds3d.devices import set_threads
    from sds3d.evaluation import generator_scores
    from sds3d.toybox.scorer import load_scorer

    set_threads(threads)
    counts = generator_scores.COUNTS if prompts is None else prompts
    cases = [generator_scores.Case(name, count) for name in chosen for count in counts]
    with bars_by_stage() as report:
        results = generator_scores.bench(out_dir, cases, load_scorer(), settings or (), device, report)
    _print_table(generator_scores.HEADER, generator_scores.table(results))
    out.print(f"generators.json, generators.md and sheets: {out_dir}", soft_wrap=True)


@bench.command(
    "polish",
    epilog=examples(
        "sds3d bench polish  # 4 objects: some minutes on a CPU; it can be stopped and continued",
        "sds3d bench polish --objects 1 --set 'estimators=[{model: seen/normals, weight: 0.2}]'",
    ),
)
def bench_polish(
    objects: Annotated[int, typer.Option(min=1, help="Number of held-out objects.")] = 4,
    settings: ForAllPresets = None,
    device: Device = "",
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-polish"),
) -> None:
    """Polish uneven true objects: normals, distance and edges before and after, beside Laplacian smoothing."""
    from sds3d.evaluation import polish_scores

    with bars_by_stage() as report:
        results = polish_scores.bench(
            out_dir, objects, settings or (), device, threads,
            lambda line: err.print(line, markup=False, soft_wrap=True),
            lambda name, step, total: report(name, step, total, {}),
        )  # fmt: skip
    _print_table(polish_scores.HEADER, polish_scores.table(results))
    out.print(f"polish.json, polish.md and polish.png: {out_dir}", soft_wrap=True)


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
    _print_table(kernel_speed.header(here), (kernel_speed.cells(row, here) for row in rows))
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
    chosen = _existing(names) or ["toybox"]
    from sds3d.evaluation import together_speed

    counts = sorted({max(runs >> i, 1) for i in range(runs.bit_length())})
    with bars_by_stage() as report:
        gains = together_speed.bench(chosen, out_dir, counts, settings or (), device, threads, report=report)
    _print_table(together_speed.HEADER, (together_speed.cells(gain) for gain in gains))
    out.print(f"together.json and together.md: {out_dir}", soft_wrap=True)


@bench.command(
    "conversion",
    epilog=examples(
        "sds3d bench conversion  # a few minutes on two cores",
        "sds3d bench conversion tensor_nerf --steps 100 --size 64",
    ),
)
def bench_conversion(
    students: Annotated[
        list[str] | None, typer.Argument(help="Radiance fields to convert into. Default: all.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each conversion.")] = 40,
    size: Annotated[int, typer.Option(min=8, max=256, help="Size of the pictures in pixels.")] = 32,
    threads: Threads = 0,
    out_dir: ResultsFolder = Path("bench-conversion"),
) -> None:
    """Convert objects of the toy world into radiance fields, with views, pixels and points drawn by error and not."""
    from sds3d.evaluation import conversion_scores as scores

    unknown = sorted(set(students or ()) - set(scores.STUDENTS))
    if unknown:
        raise typer.BadParameter(f"no such field: {', '.join(unknown)}; there are {', '.join(scores.STUDENTS)}")
    with bars_by_stage() as report:
        found = scores.bench(out_dir, students or scores.STUDENTS, scores.KINDS, steps, size, threads, report)
    _print_table(scores.HEADER, (scores.cells(score) for score in found))
    out.print(f"conversion.json and conversion.md: {out_dir}", soft_wrap=True)


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
    _print_table(prior_speed.HEADER, (prior_speed.cells(row) for row in rows))
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
    _print_table(gpu_speed.HEADER, map(gpu_speed.cells, rows))
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
    chosen = _existing(names)
    from sds3d.evaluation import launches

    with bars_by_stage() as report:
        rows = launches.bench(
            out_dir, chosen, settings or (), report=lambda name, step, total: report(name, step, total, {})
        )
    _print_table(launches.HEADER, map(launches.cells, rows))
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
    _print_table(studio_load.HEADER, studio_load.rows(load), studio_load.summary(load))
    _print_table(studio_load.ANSWERS, studio_load.answer_rows(load))
    out.print(f"studio.json and studio.md: {out_dir}", soft_wrap=True)
    for problem in load.problems:
        err.print(problem, markup=False, soft_wrap=True)
    if load.problems:
        raise typer.Exit(Exit.FAILED)


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
        _print_table(style_scores.HEADER, style_scores.table(results))
        out.print(f"style.md, style.json and style.png: {out_dir}", soft_wrap=True)
        return

    def tell(score: Score) -> None:
        line = f"{score.prompt}, {score.case}: {score.psnr:.1f} dB, IoU {score.iou:.2f}, {score.seconds:.0f} s"
        err.print(line, markup=False, soft_wrap=True)

    with bars_by_stage() as report:
        scores = picture_scores.bench(
            out_dir, objects, cases or tuple(CASES), preset, settings or (), device, threads, tell, report
        )
    _print_table(picture_scores.HEADER, picture_scores.table(scores))
    out.print(f"pictures.md, pictures.json and a sheet of each object: {out_dir}", soft_wrap=True)


def _existing(presets: list[str] | None) -> list[str]:
    """Return the given presets. A misspelt one is reported before the slow imports."""
    for name in presets or []:
        load_preset(name)
    return presets or []


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    table = Table(*(Column(name, overflow="fold") for name in header), title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    out.print(table)
