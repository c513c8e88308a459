"""`sds3d generator`: networks that make an object from a text in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sds3d.cli.options import Device, Overrides, Threads, examples
from sds3d.config import build, parse_override
from sds3d.console import bars_by_stage, out

generator = typer.Typer(help="Networks that make an object from a text in one pass.", no_args_is_help=True)


@generator.command(
    "train",
    epilog=examples(
        "sds3d generator train --out mine  # multi-view distillation from the embedded prior, all that it knows",
        "sds3d generator train --out small steps=2000 'texts=[a red mug, a blue chair]'",
        "sds3d generator train --out hyper generator.name=hyper guidance=asd",
        "sds3d generator train --out bound pictures=true  # from true pictures: the most that a rule can achieve",
        notes=("The same command continues a training that was stopped or killed.",),
    ),
)
def generator_train(
    overrides: Overrides = None,
    out_dir: Annotated[Path, typer.Option("--out", help="The folder for the training.")] = Path("generator"),
    threads: Threads = 0,
    device: Device = "",
) -> None:
    """Train a generator by score distillation: each step draws another prompt."""
    from sds3d.devices import pick_device, set_threads
    from sds3d.run.train_generator import GeneratorTraining, train_generator

    set_threads(threads)
    config = build(GeneratorTraining, *(parse_override(text) for text in overrides or []))
    with bars_by_stage() as report:
        folder = train_generator(out_dir, config, report, pick_device(device))
    out.print(f"trained: {folder}", soft_wrap=True)
