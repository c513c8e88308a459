"""`sds3d bench` for single abilities: materials, structure, starts, polish and conversion against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sds3d.cli.bench import bench, existing, print_table
from sds3d.cli.options import Device, ForAllPresets, PresetNames, ResultsFolder, Threads, examples
from sds3d.console import bars_by_stage, err, out, progress_bar
from sds3d.presets import DEFAULT_PRESET


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
    print_table(scores.HEADER, (scores.cells(*row) for row in results.items()))
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
    print_table(scores.HEADER, scores.table(results))
    print_table(scores.WHITE_HEADER, scores.white_table(results))
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
    print_table(structure_scores.HEADER, structure_scores.table(results))
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
    chosen = existing(names) or [DEFAULT_PRESET, "toybox"]
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
    print_table(start_scores.HEADER, start_scores.table(assets))
    for name, value in overlaps.items():
        out.print(f"{name}: IoU {value:.2f} of the start with the true object in its views", markup=False)
    out.print(f"start.json, start.md and start.png: {out_dir}", soft_wrap=True)


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
    print_table(polish_scores.HEADER, polish_scores.table(results))
    out.print(f"polish.json, polish.md and polish.png: {out_dir}", soft_wrap=True)


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
    print_table(scores.HEADER, (scores.cells(score) for score in found))
    out.print(f"conversion.json and conversion.md: {out_dir}", soft_wrap=True)
