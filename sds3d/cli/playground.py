"""`sds3d playground2d`: guidance rules on plain pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sds3d.cli.completion import complete_preset
from sds3d.cli.options import Device, Json, Overrides, Threads, examples
from sds3d.console import bars_by_stage, err, out, print_json

EXAMPLES = examples(
    "sds3d playground2d 'a red mug' --rule sds --rule cfd-ode  # two rules, by name or preset",
    "sds3d playground2d 'a red mug' --rule all --steps 150  # every rule",
    "sds3d playground2d 'a red mug' --rule sds guidance.scale=7.5 --pictures 4  # four at a time",
    "sds3d playground2d 'a corgi' --rule vsd --space latents prior.model=FOLDER  # a large model",
)


def playground2d(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to draw, for example 'a red mug'.", show_default=False)
    ],
    overrides: Overrides = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="NAME",
            help="A rule with its paper's settings, a preset, or all. Repeatable. Default: sds.",
            show_default=False,
            autocompletion=complete_preset,
        ),
    ] = None,
    space: Annotated[str, typer.Option(metavar="SPACE", help="What is optimised: latents or pixels.")] = "latents",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures per rule, optimised together.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Optimisation steps.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
    out_dir: Annotated[Path, typer.Option("--out", help="The folder for the pictures.")] = Path("playground2d"),
    device: Device = "",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Compare guidance rules on plain pictures: no 3D, seconds each."""
    with err.status("loading the prior"):
        from sds3d.evaluation.playground2d import compare

    with bars_by_stage() as report:
        written = compare(
            prompt,
            rules or ["sds"],
            out_dir,
            [*(overrides or []), f"steps={steps}", f"seed={seed}"],
            space=space,
            count=pictures,
            report=report,
            device=device,
            threads=threads,
        )
    if as_json:
        print_json([{"picture": str(path), "seconds": round(seconds, 2)} for path, seconds in written.items()])
        return
    for path, seconds in written.items():
        out.print(f"{escape(str(path))}  {seconds:.1f} s", soft_wrap=True)
