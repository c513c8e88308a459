"""The command line. Nothing heavy is imported before a command needs it, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from sds3d.config import ConfigError, build, load_preset, nearest, parse_override, presets
from sds3d.runs import Run, open_run

if TYPE_CHECKING:
    from sds3d.optimize import Step
    from sds3d.run_config import RunConfig

# Waiting threads sleep instead of spinning: numba's and torch's pools share the cores. Read when OpenMP starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Their remarks on harmless details of a model's files would bury ours.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def _examples(*lines: str) -> str:
    """The end of a help page: commands to copy, each on its own line, what follows # dimmed."""
    parts = [line.partition("#") for line in lines]
    return "\n\n".join(
        ["[bold]Examples[/bold]", *(f"{command}[dim]{mark}{text}[/dim]" for command, mark, text in parts)]
    )


app = typer.Typer(
    name="sds3d",
    help="Text to 3D by score distillation. [bold]sds3d generate[/bold] 'a red mug' makes a mesh on a laptop.",
    epilog=_examples(
        "sds3d generate 'a red mug'",
        "sds3d generate --help  # what can be set",
        "sds3d doctor  # what this machine can do",
        "Add --debug to any command to see the traceback of an error.",
    ),
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
toybox = typer.Typer(help="The procedural toy world and its embedded prior.", no_args_is_help=True)
bench = typer.Typer(help="Measurements that can be repeated.", no_args_is_help=True)
app.add_typer(toybox, name="toybox", rich_help_panel="More")
app.add_typer(bench, name="bench", rich_help_panel="More")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings by their dotted name, values as in YAML."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; the fastest there is when left out.")]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0 takes the physical cores, at most 8. The result depends on it.")
]


@app.command(
    epilog=_examples(
        "sds3d generate 'a red mug'",
        "sds3d generate 'a snowman with a green hat' --seed 3  # another one",
        "sds3d generate 'a blue chair' --steps 150  # a draft in half the time",
        "sds3d generate 'a red mug' --preset splats  # Gaussian splats, for splat viewers",
        "sds3d generate 'a red mug' --preset dreamfusion guidance.scale=50  # another rule, another scale",
        "sds3d generate 'a blue mug' start_from=mug.glb  # begin as a mesh, splats or points of your own",
        "sds3d generate 'a red mug' representation.resolution=64 export.texture_size=2048  # finer",
        "sds3d generate 'a corgi' --preset dreamfusion prior.model=FOLDER  # a large model's diffusers folder",
        "The same command again goes on where the run was stopped, or says that it is finished. Every run is a folder "
        "with its config.yaml, previews and exports: .glb, .obj, .ply, splat files, a turntable and a contact sheet.",
        "sds3d presets  # lists the presets; a wrong key names the nearest valid one.",
    )
)
def generate(
    prompt: Annotated[str, typer.Argument(help="The object, for example 'a red mug'.", show_default=False)],
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="A preset's name, or a YAML file.")] = "toybox",
    out_dir: Annotated[Path, typer.Option("--out", help="Where run folders are made.")] = Path("runs"),
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of every random choice: another seed, another object.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimisation steps.")] = None,
    device: Device = "",
    threads: Threads = 0,
) -> None:
    """Make a 3D asset from a prompt."""
    short = [f"{key}={value}" for key, value in (("seed", seed), ("steps", steps)) if value is not None]
    load_preset(preset)  # a misspelt preset is told before anything slow is imported
    for text in overrides or []:
        parse_override(text)
    from sds3d.run_config import make_config, new_run

    config = make_config(prompt, preset, [*(overrides or []), *short])
    _warn_of_unknown_words(config)
    _carry_out(new_run(out_dir, config), device, threads)


@app.command(
    epilog=_examples(
        "sds3d texture mug.obj 'a red mug'",
        "sds3d texture statue.glb 'a wooden statue' prior.model=FOLDER  # a large model's diffusers folder",
        "sds3d texture mug.obj 'a red mug' representation.texture_size=1024  # finer",
        "The mesh keeps its triangles, and its UVs if it has any. Its front must face +Z and its top +Y.",
    )
)
def texture(
    mesh: Annotated[Path, typer.Argument(help="The mesh: .glb, .obj, .ply or .stl.", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="What it shall be, for example 'a red mug'.", show_default=False)],
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="A preset's name, or a YAML file.")] = "texture",
    out_dir: Annotated[Path, typer.Option("--out", help="Where run folders are made.")] = Path("runs"),
    device: Device = "",
    threads: Threads = 0,
) -> None:
    """Paint a mesh that you bring (as Latent-Paint, 2211.07600)."""
    from sds3d.importers import load_asset
    from sds3d.mesh import Mesh
    from sds3d.run_config import make_config, new_run

    if not isinstance(load_asset(mesh), Mesh):
        raise ValueError(f"{mesh} holds no triangles to paint: sds3d generate PROMPT start_from={mesh}")
    config = make_config(prompt, preset, [f"start_from={json.dumps(str(mesh.resolve()))}", *(overrides or [])])
    _warn_of_unknown_words(config)
    _carry_out(new_run(out_dir, config), device, threads)


@app.command(
    epilog=_examples(
        "sds3d resume runs/a-red-mug-1a2b3c4d",
        "The result is the same, bit for bit, as without the stop (on a CPU, with the same number of threads).",
    )
)
def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    device: Device = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes those that the run began with.")] = 0,
) -> None:
    """Go on with a run that was stopped, paused or killed."""
    _carry_out(open_run(run), device, threads)


@app.command(
    epilog=_examples(
        "sds3d export runs/a-red-mug-1a2b3c4d",
        "sds3d export runs/a-red-mug-1a2b3c4d --format usdz,spz  # these alone, and the pictures",
        "sds3d export runs/a-red-mug-1a2b3c4d resolution=192 texture_size=2048  # finer than at first",
        "sds3d export runs/a-red-mug-1a2b3c4d frames=120 picture_size=512  # a longer, larger video",
    )
)
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="resolution, texture_size, picture_size, frames."),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME,...",
            help="glb, obj, ply, stl, usdz, splat-ply, splat, spz, splat-glb; the run's own when left out.",
        ),
    ] = "",
    device: Device = "",
) -> None:
    """Write the exports of a run again, from its newest checkpoint."""
    folder = open_run(run)
    layers = [parse_override(text) for text in settings or []]
    if formats:
        layers.append({"formats": [name.strip() for name in formats.split(",")]})
    from sds3d.outputs import export_run
    from sds3d.run_config import ExportConfig, read_config

    began = time.monotonic()
    options = build(ExportConfig, read_config(folder).export.model_dump(), *layers)
    with folder.locked(), err.status("exporting"):
        export_run(folder, options, device)
    _list_files(folder, time.monotonic() - began)


@app.command("presets", epilog=_examples("sds3d presets", "sds3d generate 'a red mug' --preset dreamfusion"))
def list_presets() -> None:
    """List the presets."""
    table = Table.grid(padding=(0, 2))
    for preset in presets():
        table.add_row(f"[bold]{preset.name}[/bold]", preset.description)
    out.print(table)


@app.command(epilog=_examples("sds3d doctor", "sds3d doctor && sds3d generate 'a red mug'"))
def doctor() -> None:
    """Say what this machine can do and why not more; exit code 0 when generate can run."""
    from sds3d.doctor import can_generate, examine

    with err.status("looking"):
        findings = examine()
    table = Table.grid("", "", Column(overflow="fold"), padding=(0, 2))
    for finding in findings:
        mark = "[green]ok[/green]" if finding.ok else "[red]missing[/red]" if finding.needed else "[yellow]no[/yellow]"
        table.add_row(mark, finding.name, escape(finding.detail))
    out.print(table)
    if not can_generate(findings):
        raise typer.Exit(1)


@app.command(
    "app",
    epilog=_examples(
        "sds3d app", "sds3d app --out my-runs --port 8000", "sds3d app steps=200  # on top of every preset"
    ),
)
def web_app(
    overrides: Overrides = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where run folders are made.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Start the web app."""
    _import_app().launch(out_dir, host, port, overrides or [])


@toybox.command(
    "render",
    epilog=_examples(
        "sds3d toybox render 'a red mug'  # true views of one object",
        "sds3d toybox render --objects 1000 --out dataset  # pictures with captions and cameras",
    ),
)
def toybox_render(
    prompt: Annotated[str, typer.Argument(help="A toy prompt; leave it out to write a data set.")] = "",
    objects: Annotated[int, typer.Option(min=1, help="Objects of the data set.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Which of the many objects of a prompt.")] = 0,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    out_path: Annotated[Path | None, typer.Option("--out", help="PNG file, or folder of the data set.")] = None,
) -> None:
    """Draw true views of a toy object, or write a data set of many."""
    from sds3d.export.pictures import contact_sheet
    from sds3d.toybox.render import iterate_objects, render_prompt, save_dataset

    if prompt:
        path = out_path or Path("toybox.png")
        azimuths = [45.0 * i for i in range(8)]
        pictures = (render_prompt(prompt, azimuths, seed, size=size) / 255).astype("float32")
        headings = [f"{azimuth:.0f}°" for azimuth in azimuths]
        contact_sheet([("", pictures)], headings, prompt, size=size).save(path)
        out.print(f"8 views of {escape(prompt)}: {path}", soft_wrap=True)
        return
    folder = out_path or Path("toybox")
    with _progress("rendering") as progress:
        task = progress.add_task("rendering", total=objects)
        views = iterate_objects(objects, seed, workers, size=size)
        count = save_dataset(folder, views, seed, lambda done: progress.update(task, completed=done))
    out.print(f"{count} pictures and metadata.jsonl: {folder}", soft_wrap=True)


@toybox.command(
    "train",
    epilog=_examples(
        "sds3d toybox train",
        "sds3d toybox train --out my-prior objects=2000 unet_steps=1000  # a small one",
        "sds3d generate 'a red mug' prior.model=my-prior/prior  # use it",
        "sds3d toybox train --out longer start_from=my-prior/prior unet_steps=20000  # train it further",
        "sds3d toybox train --scorer --out my-scorer  # the network that measures",
        "Killed at any instant, the same command goes on.",
    ),
)
def toybox_train(
    overrides: Overrides = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the training.")] = Path("toybox-prior"),
    scorer: Annotated[bool, typer.Option("--scorer", help="Train the scorer that measures, not the prior.")] = False,
    threads: Threads = 0,
) -> None:
    """Train the embedded prior, or the scorer."""
    from sds3d.devices import set_threads
    from sds3d.toybox.train import TrainConfig, train, train_scorer

    set_threads(threads)
    config = build(TrainConfig, *(parse_override(text) for text in overrides or []))
    with _progress("training") as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            progress.update(tasks[stage], completed=step, total=total, description=f"{stage}  {numbers}")

        folder = (train_scorer if scorer else train)(out_dir, config, report)
    out.print(f"trained: {folder}", soft_wrap=True)


@toybox.command(
    "sample", epilog=_examples("sds3d toybox sample 'a red mug'", "sds3d toybox sample 'a red mug' --seed 1")
)
def toybox_sample(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int, typer.Option(min=1, help="DDIM steps.")] = 25,
    scale: Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale.")] = 5.0,
    model: Annotated[str, typer.Option(help="toybox, or a diffusers folder.")] = "toybox",
    out_path: Annotated[Path, typer.Option("--out", help="PNG file.")] = Path("sample.png"),
    device: Device = "",
) -> None:
    """Let the prior draw four views: what distillation has to work with."""
    from sds3d.devices import pick_device
    from sds3d.export.pictures import to_png
    from sds3d.priors.diffusers import DiffusersConfig, load_prior
    from sds3d.priors.sampling import sample_views
    from sds3d.prompts import PromptConfig

    prior = load_prior(DiffusersConfig(model=model), pick_device(device))
    pictures = sample_views(prior, prompt, PromptConfig(view_dependent=prior.n_views == 1), seed, steps, scale)
    out_path.write_bytes(to_png(pictures.numpy()))
    out.print(f"front, right, back, left: {out_path}", soft_wrap=True)


@bench.command(
    "toybox",
    epilog=_examples(
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

    with _progress("measuring") as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, step: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(escape(stage), total=total)
            progress.update(tasks[stage], completed=step)

        results = run_bench(chosen, out_dir, prompts, settings, report)
    table = Table("preset", *next(iter(results.values())))
    for name, figures in results.items():
        table.add_row(name, *(f"{value:.3g}" for value in figures.values()))
    out.print(table)
    out.print(f"details and contact sheets: {out_dir}", soft_wrap=True)


@bench.command(
    "rendering",
    epilog=_examples(
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

    with _progress("measuring") as progress:
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


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors become one line on stderr and exit code 1; --debug shows where they came from."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="sds3d")
    except Exception as error:
        if debug:
            raise
        lines = str(error).strip() or type(error).__name__
        unforeseen = not isinstance(error, (ValueError, RuntimeError, ArithmeticError, OSError))
        name = f"{type(error).__name__}: " if unforeseen else ""
        for line in lines.splitlines() if isinstance(error, ConfigError) else lines.splitlines()[:1]:
            err.print(f"[red]error:[/red] {name}{escape(line)}", soft_wrap=True)
        sys.exit(1)


def _carry_out(run: Run, device: str, threads: int) -> None:
    """Drive a run with a progress bar; tell what was written, or how to go on."""
    if run.state.status == "finished":
        out.print(f"finished already, in {run.state.seconds:.0f} s: {run.folder}", soft_wrap=True)
        _list_files(run, run.state.seconds)
        return
    out.print(f"run folder  {run.folder}", soft_wrap=True)
    try:
        with err.status("loading the prior"):
            from sds3d.generate import drive

            steps = drive(run, device=device, threads=threads)
            first = next(steps, None)
        if first is not None:
            with _pause_on_interrupt(run):
                _show(run, first, steps)
    except KeyboardInterrupt:
        _tell_how_to_resume(run)
        raise typer.Exit(INTERRUPTED) from None
    state = run.state
    if state.status == "finished":
        _list_files(run, state.seconds)
    else:
        _tell_how_to_resume(run)
        raise typer.Exit(INTERRUPTED if state.status == "paused" else 1)


def _show(run: Run, first: Step, steps: Iterator[Step]) -> None:
    """A progress bar on a terminal, a line every tenth of the way elsewhere."""
    total = first.total
    said = 0
    with _progress("") as progress:
        task = progress.add_task("optimising", total=total, completed=first.step)
        for step in steps:
            progress.update(task, completed=step.step, description=f"{step.seconds:.2f} s/step")
            if not err.is_terminal and step.step * 10 // total > said:
                said = step.step * 10 // total
                err.print(f"step {step.step}/{total}, {step.seconds:.2f} s/step")
            if step.step == total:
                progress.update(task, description="exporting")


def _progress(description: str) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


@contextmanager
def _pause_on_interrupt(run: Run) -> Iterator[None]:
    """Ctrl-C asks the run to pause after its current step; a second one stops at once."""

    def ask(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        run.request("pause")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tell_how_to_resume(run: Run) -> None:
    state = run.state
    err.print(f"{state.status} at step {state.step} of {state.total}; go on with")
    err.print(f"  sds3d resume {run.folder}", soft_wrap=True)


def _list_files(run: Run, seconds: float) -> None:
    files = [path for path in [run.previews / "latest.png", *sorted(run.exports.glob("[!.]*"))] if path.exists()]
    width = max((len(str(path)) for path in files), default=0)
    for path in files:
        out.print(f"{escape(str(path)):{width}}  {_size(path.stat().st_size)}", soft_wrap=True)
    out.print(f"{seconds:.1f} s in total")


def _size(n: float) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{max(n / 1e3, 0.1):.1f} kB"


def _warn_of_unknown_words(config: RunConfig) -> None:
    """The embedded prior knows few words and draws something else for the others."""
    if config.prior.model != "toybox":
        return
    from sds3d.toybox.captions import VOCABULARY, unknown_words

    words = unknown_words(config.prompt)
    if not words:
        return
    meant = [
        f"{word} (like {', '.join(close)}?)" if (close := nearest(word, VOCABULARY, 2)) else word for word in words
    ]
    err.print(
        f"[yellow]warning:[/yellow] the embedded prior does not know: {escape('; '.join(meant))}. It will draw what it "
        "knows. For anything else give a large model: prior.model=PATH/TO/DIFFUSERS/FOLDER --preset dreamfusion",
        soft_wrap=True,
    )


def _import_app() -> Any:
    """The web app's module: inside the package when installed, beside it in a checkout."""
    import importlib

    try:
        return importlib.import_module("sds3d.app")
    except ModuleNotFoundError as error:
        if error.name != "sds3d.app":
            raise
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        return importlib.import_module("app")


if __name__ == "__main__":
    main()
