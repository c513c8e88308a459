"""`sds3d generator`: networks that make an object from a text in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sds3d.cli.options import RESUMED, Device, Overrides, Threads, TrainingFolder, examples, warn_of_unknown_words
from sds3d.config import build, parse_override
from sds3d.console import bars_by_stage, err, out

generator = typer.Typer(help="Networks that make an object from a text in one pass.", no_args_is_help=True)


PromptsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A file of prompts, as sds3d batch reads it.")]


def _prompts_of(file: Path) -> list[str]:
    from sds3d.jobs.prompts_file import read_prompts

    return [entry.config.prompt for entry in read_prompts(file)]


@generator.command(
    "train",
    epilog=examples(
        "sds3d generator train --out mine  # multi-view distillation from the embedded prior, all that it knows",
        "sds3d generator train --out small steps=2000 'texts=[a red mug, a blue chair]'",
        "sds3d generator train --out hyper generator.name=hyper guidance=asd",
        "sds3d generator train --out bound pictures=true  # from true pictures: the most that a rule can achieve",
        "sds3d generator train --out real --preset prd-mvdream --file prompts.txt  # of Stable Diffusion 2.1, on a GPU",
        notes=RESUMED,
    ),
)
def generator_train(
    overrides: Overrides = None,
    out_dir: TrainingFolder = Path("generator"),
    preset: Annotated[str, typer.Option(metavar="NAME", help="A preset for generators, or a YAML file.")] = "",
    file: PromptsFile = None,
    threads: Threads = 0,
    device: Device = "",
) -> None:
    """Train a generator by score distillation: each step draws another prompt."""
    from sds3d.devices import pick_device, set_threads
    from sds3d.presets import load_generator_preset
    from sds3d.run.train_generator import GeneratorTraining, train_generator

    set_threads(threads)
    layers = [*load_generator_preset(preset).layers] if preset else []
    if file is not None:
        layers.append({"texts": _prompts_of(file)})
    config = build(GeneratorTraining, *layers, *(parse_override(text) for text in overrides or []))
    with bars_by_stage() as report:
        folder = train_generator(out_dir, config, report, pick_device(device))
    out.print(f"trained: {folder}", soft_wrap=True)


@generator.command(
    "sample",
    epilog=examples(
        "sds3d generator sample mine/generator 'a red mug' 'a blue chair'  # a row each, from four sides",
        "sds3d generator sample mine/generator --file prompts.txt --out objects.png",
        "sds3d generator sample mine/generator 'a red mug' --seed 1  # a variant, if the training taught any",
        "sds3d generator sample mine/generator --between 'a red mug' 'a blue chair'  # the way from one to the other",
    ),
)
def generator_sample(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The generator's folder, or instant, the one that ships.")
    ],
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="The objects.")] = None,
    file: PromptsFile = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="PROMPT PROMPT", help="Two prompts, between whose embeddings objects are made."),
    ] = None,
    out_path: Annotated[Path, typer.Option("--out", help="The PNG file.")] = Path("samples.png"),
    seed: Annotated[int, typer.Option(min=0, help="Seed: which of the objects of a prompt.")] = 0,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Height and width of a picture in pixels.")] = 128,
    threads: Threads = 0,
    device: Device = "",
) -> None:
    """Draw what a generator makes of prompts."""
    texts = [*(prompts or [])]
    if file is not None:
        texts += _prompts_of(file)
    if bool(texts) == (between is not None):
        raise typer.BadParameter("give prompts, for example 'a red mug', or --file FILE, or --between PROMPT PROMPT")
    from sds3d.devices import pick_device, set_threads
    from sds3d.generators.files import read_about
    from sds3d.priors.diffusers import DiffusersConfig
    from sds3d.run.generated_start import check_generator, start_path
    from sds3d.run.generator_pictures import between_strip, sample_sheet

    folder = start_path(str(folder))
    settings = DiffusersConfig(model=read_about(folder).model)
    check_generator(folder, settings)
    warn_of_unknown_words([(settings, text, "") for text in [*texts, *(between or ())]])
    set_threads(threads)
    with err.status("drawing"):
        prior = settings.load(pick_device(device))
        if between is not None:
            picture = between_strip(folder, prior, *between, seed=seed, size=size)
        else:
            picture = sample_sheet(folder, prior, texts, seed, size)
        picture.save(out_path, "PNG")
    out.print(escape(str(out_path)), soft_wrap=True)


@generator.command(
    "card",
    epilog=examples(
        "sds3d generator card mine  # writes mine/generator/CARD.md and samples.png",
        notes=("A training writes them at its end; this writes them again.",),
    ),
)
def generator_card(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a finished training.")],
    device: Device = "",
) -> None:
    """Write what a generator was trained on, by which rule and prior, with a picture and its limits."""
    from sds3d.devices import pick_device
    from sds3d.run.generated_start import check_generator
    from sds3d.run.train_generator import RESULT, read_training, write_card

    settings = read_training(folder).prior
    check_generator(folder / RESULT, settings)
    with err.status("drawing"):
        card = write_card(folder, settings.load(pick_device(device)))
    out.print(escape(str(card)), soft_wrap=True)
