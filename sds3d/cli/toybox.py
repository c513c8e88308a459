"""`sds3d toybox`: the procedural toy world and its embedded prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.columns import Columns
from rich.markup import escape
from rich.table import Table

from sds3d.cli.options import RESUMED, Device, Json, Overrides, Threads, TrainingFolder, examples, warn_of_unknown_words
from sds3d.config import assets_dir, build, parse_override
from sds3d.console import bars_by_stage, err, out, print_json, progress_bar
from sds3d.files import PriorError

toybox = typer.Typer(help="The procedural toy world and its embedded prior.", no_args_is_help=True)


@toybox.command(
    "render",
    epilog=examples(
        "sds3d toybox render 'a red mug'  # true views of one object",
        'sds3d toybox render "a shiny metal teapot"        # in light, with the truth about its material',
        "sds3d toybox render --objects 1000 --out dataset  # pictures with captions and cameras",
        "sds3d toybox render --materials --out lit         # in random light, with maps of the materials",
    ),
)
def toybox_render(
    prompt: Annotated[str, typer.Argument(help="A prompt of the toy world. Without it, a data set is written.")] = "",
    objects: Annotated[int, typer.Option(min=1, help="Objects in the data set.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed: which of the many objects of a prompt.")] = 0,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    materials: Annotated[
        bool, typer.Option("--materials", help="A data set of objects with materials in random light, and their maps.")
    ] = False,
    out_path: Annotated[Path | None, typer.Option("--out", help="PNG file, or folder for the data set.")] = None,
) -> None:
    """Draw true views of a toy object, or write a data set of many objects."""
    from sds3d.formats.pictures import contact_sheet
    from sds3d.toybox.material_views import material_rows, save_lit_objects
    from sds3d.toybox.render import iterate_objects, render_prompt, save_dataset

    if prompt and materials:
        raise typer.BadParameter("--materials is for a data set: leave it out, the prompt's words name the materials")
    if prompt:
        path = out_path or Path("toybox.png")
        azimuths = [45.0 * i for i in range(8)]
        rows = material_rows(prompt, azimuths, seed, size)
        if rows is None:
            rows = [("", (render_prompt(prompt, azimuths, seed, size=size) / 255).astype("float32"))]
        headings = [f"{azimuth:.0f}°" for azimuth in azimuths]
        contact_sheet(rows, headings, prompt, size=size).save(path)
        out.print(f"8 views of {escape(prompt)}: {path}", soft_wrap=True)
        return
    folder = out_path or Path("toybox")
    with progress_bar() as progress:
        task = progress.add_task("rendering", total=objects)
        if materials:
            count = save_lit_objects(
                folder, objects, seed, workers, size=size, progress=lambda done: progress.update(task, completed=done)
            )
            out.print(f"{count} pictures with their maps and metadata.jsonl: {folder}", soft_wrap=True)
            return
        views = iterate_objects(objects, seed, workers, size=size)
        count = save_dataset(folder, views, seed, lambda done: progress.update(task, completed=done))
    out.print(f"{count} pictures and metadata.jsonl: {folder}", soft_wrap=True)


@toybox.command(
    "words",
    epilog=examples("sds3d toybox words", "sds3d toybox words --model my-prior/prior", "sds3d toybox words --json"),
)
def toybox_words(
    model: Annotated[str, typer.Option(help="toybox, or a prior's folder.")] = "toybox", as_json: Json = False
) -> None:
    """List what a prior knows: kinds of object with the part that may have its own colour, and colours."""
    from sds3d.priors.diffusers import DiffusersConfig

    vocabulary = DiffusersConfig(model=model).vocabulary()
    if vocabulary is None:
        raise PriorError(f"{model!r} does not tell its words: it is no prior that sds3d toybox train wrote")
    if as_json:
        print_json({"kinds": dict(vocabulary.kinds), "colors": list(vocabulary.colors)})
        return
    out.print(f"{len(vocabulary.kinds)} kinds of object, each with the part that may have a colour of its own:")
    out.print(Columns([f"{kind} [dim]{part}[/dim]" for kind, part in vocabulary.kinds.items()], column_first=True))
    out.print(f"{len(vocabulary.colors)} colours: {', '.join(vocabulary.colors)}")


@toybox.command(
    "train",
    epilog=examples(
        "sds3d toybox train",
        "sds3d toybox train --out my-prior objects=2000 unet_steps=1000  # a small one",
        "sds3d generate 'a red mug' prior.model=my-prior/prior  # use it",
        "sds3d toybox train --out longer --start-from my-prior/prior unet_steps=20000  # train it further",
        "sds3d toybox train --device cuda --minutes 10 unet_objects=256  # on a GPU, for a given time",
        "sds3d toybox train --structure --out told  # conditioned on depth and normals: half an hour",
        "sds3d texture mug.glb 'a red mug' prior.model=told/prior  # use it",
        "sds3d toybox train --light --out lit objects=4000  # conditioned on the light as well: an hour",
        "sds3d texture mug.glb 'a red metal mug' --preset materials prior.model=lit/prior  # use it",
        "sds3d toybox train --pictures --out shown  # also reads the picture prompts.image",
        "sds3d generate 'a red mug' prompts.image=mug.png prior.model=shown/prior  # use it",
        "sds3d toybox train --scorer --out my-scorer  # the network that measures results",
        notes=RESUMED,
    ),
)
def toybox_train(
    overrides: Overrides = None,
    out_dir: TrainingFolder = Path("toybox-prior"),
    minutes: Annotated[
        float, typer.Option(min=0, help="Minutes of training, while pictures are rendered. 0: the steps count.")
    ] = 0,
    start_from: Annotated[
        str, typer.Option(help="Folder of a prior that is trained further, or toybox, the embedded one.")
    ] = "",
    structure: Annotated[
        bool,
        typer.Option(
            "--structure",
            help="Add depth and normals of the renders to a prior: that of --start-from, or the embedded one.",
        ),
    ] = False,
    light: Annotated[
        bool,
        typer.Option("--light", help="Add depth, normals, light and words for materials to a prior, in the same way."),
    ] = False,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Add a picture beside the prompt to a prior, in the same way."),
    ] = False,
    scorer: Annotated[
        bool, typer.Option("--scorer", help="Train the scorer, which measures results, instead of the prior.")
    ] = False,
    threads: Threads = 0,
    device: Device = "",
) -> None:
    """Train the embedded prior or the scorer."""
    from sds3d.devices import pick_device, set_threads
    from sds3d.toybox.train import train, train_scorer
    from sds3d.toybox.train_condition import train_condition
    from sds3d.toybox.train_config import TrainConfig
    from sds3d.toybox.train_light import LIT
    from sds3d.toybox.train_pictures import PICTURES
    from sds3d.toybox.train_structure import STRUCTURE

    if structure + light + pictures + scorer > 1:
        raise typer.BadParameter("--structure, --light, --pictures and --scorer are different trainings: choose one")
    set_threads(threads)
    options = {**({"minutes": minutes} if minutes else {}), **({"start_from": start_from} if start_from else {})}
    defaults = {"start_from": "toybox"} if structure or light or pictures else {}
    config = build(TrainConfig, defaults, *(parse_override(text) for text in overrides or []), options)
    with bars_by_stage() as report:
        how = config, report, pick_device(device)
        if structure:
            folder = train_condition(out_dir, STRUCTURE, *how)
        elif light:
            folder = train_condition(out_dir, LIT, *how)
        elif pictures:
            folder = train_condition(out_dir, PICTURES, *how)
        else:
            folder = (train_scorer if scorer else train)(out_dir, *how)
    out.print(f"trained: {folder}", soft_wrap=True)


@toybox.command(
    "sample", epilog=examples("sds3d toybox sample 'a red mug'", "sds3d toybox sample 'a red mug' --seed 1")
)
def toybox_sample(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="DDIM steps.")] = 25,
    scale: Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale.")] = 5.0,
    model: Annotated[str, typer.Option(help="toybox, or a diffusers folder.")] = "toybox",
    out_path: Annotated[Path, typer.Option("--out", help="PNG file.")] = Path("sample.png"),
    device: Device = "",
) -> None:
    """Sample four views from the prior: what distillation can build on."""
    from sds3d.devices import pick_device
    from sds3d.formats.pictures import to_png
    from sds3d.guidance.sampling import sample_views
    from sds3d.priors.diffusers import DiffusersConfig
    from sds3d.prompts.prompt import PromptConfig

    config = DiffusersConfig(model=model)
    warn_of_unknown_words([(config, prompt, "")])
    prior = config.load(pick_device(device))
    pictures = sample_views(prior, prompt, PromptConfig(), seed, steps, scale)
    out_path.write_bytes(to_png(pictures.numpy()))
    out.print(f"front, right, back, left: {out_path}", soft_wrap=True)


@toybox.command("check", epilog=examples("sds3d toybox check  # exit status 1 if something is not up to date"))
def toybox_check() -> None:
    """Show which pictures and tables of a checkout are made from other weights than its prior's, or in another way."""
    from sds3d.evaluation.made_from_prior import check

    states = check(_checkout())
    table = Table("", "state", "made by")
    for status in states:
        item = status.item
        how = item.by_hand or "sds3d toybox refresh " + item.name
        table.add_row(item.name, status.state, escape(how))
    out.print(table)
    if any(status.state != "up to date" for status in states):
        raise typer.Exit(1)


@toybox.command(
    "refresh",
    epilog=examples(
        "sds3d toybox refresh  # all that is not up to date: hours on a CPU; it can be stopped and continued",
        "sds3d toybox refresh gallery presets",
    ),
)
def toybox_refresh(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="What sds3d toybox check lists. Default: the rest.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="The folder for runs and results.")] = Path("toybox-refresh"),
) -> None:
    """Make a checkout's pictures and tables anew from its prior."""
    from sds3d.evaluation.made_from_prior import ITEMS, check, refresh

    root = _checkout()
    known = {item.name: item for item in ITEMS}
    for name in names or []:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
        if known[name].by_hand:
            raise typer.BadParameter(f"{name!r} is made by hand: {known[name].by_hand}")
    left = [status.item for status in check(root) if status.state != "up to date"]
    chosen = [known[name] for name in names] if names else left
    refresh(root, out_dir.resolve(), chosen, lambda line: err.print(line, markup=False, soft_wrap=True))
    remaining = [status.item.name for status in check(root) if status.state != "up to date"]
    out.print(f"not up to date: {', '.join(remaining)}" if remaining else "all is up to date", soft_wrap=True)


@toybox.command("noted", epilog=examples("sds3d toybox noted studio  # after its picture was taken again"))
def toybox_noted(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="What was made by hand.", show_default=False)],
) -> None:
    """Note that files are made from the checkout's prior, by hand or by the commands that refresh runs."""
    from sds3d.evaluation.made_from_prior import ITEMS, write_note

    root = _checkout()
    known = {item.name: item for item in ITEMS}
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
        write_note(known[name], root)


def _checkout() -> Path:
    """Return the folder of the checkout that runs. Raises RunError if sds3d is installed without one."""
    from sds3d.files import RunError

    root = assets_dir().parent
    if not (root / "benchmarks").is_dir():
        raise RunError("this sds3d has no checkout: clone the repository, and install it with pip install -e .")
    return root
