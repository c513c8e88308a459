"""The command line. Nothing heavy is imported before a command needs it, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from sds3d.cli import bench, jobs, listings, toybox
from sds3d.cli.options import Device, Overrides, Threads, examples, warn_of_unknown_words
from sds3d.config import ConfigError, build, parse_override
from sds3d.console import bars_by_stage, err, out, progress_bar
from sds3d.presets import load_preset
from sds3d.run.folder import Run, open_run

if TYPE_CHECKING:
    from sds3d.run.optimize import Step

# Waiting threads sleep instead of spinning: numba's and torch's pools share the cores. Read when OpenMP starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Their remarks on harmless details of a model's files would bury ours.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="sds3d",
    help="Text to 3D by score distillation. [bold]sds3d generate[/bold] 'a red mug' makes a mesh on a laptop.",
    epilog=examples(
        "sds3d generate 'a red mug'",
        "sds3d settings  # what can be set",
        "sds3d doctor  # what this machine can do",
        "Add --debug to any command to see the traceback of an error.",
    ),
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(toybox.toybox, name="toybox", rich_help_panel="More")
app.add_typer(bench.bench, name="bench", rich_help_panel="More")


@app.command(
    epilog=examples(
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
        "sds3d presets lists the presets, sds3d settings the settings; a wrong key names the nearest valid one.",
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
    from sds3d.run.config import make_config, new_run

    config = make_config(prompt, preset, [*(overrides or []), *short])
    warn_of_unknown_words([(config, "")])
    _carry_out(new_run(out_dir, config), device, threads)


@app.command(
    epilog=examples(
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
    from sds3d.formats.load import load_asset
    from sds3d.geometry.mesh import Mesh
    from sds3d.run.config import make_config, new_run

    if not isinstance(load_asset(mesh), Mesh):
        raise ValueError(f"{mesh} holds no triangles to paint: sds3d generate PROMPT start_from={mesh}")
    config = make_config(prompt, preset, [f"start_from={json.dumps(str(mesh.resolve()))}", *(overrides or [])])
    warn_of_unknown_words([(config, "")])
    _carry_out(new_run(out_dir, config), device, threads)


@app.command(
    epilog=examples(
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
    epilog=examples(
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
    from sds3d.run.config import ExportConfig, read_config
    from sds3d.run.outputs import export_run

    began = time.monotonic()
    options = build(ExportConfig, read_config(folder).export.model_dump(), *layers)
    with folder.locked(), err.status("exporting"):
        export_run(folder, options, device)
    _list_files(folder, time.monotonic() - began)


@app.command(epilog=examples("sds3d doctor", "sds3d doctor && sds3d generate 'a red mug'"))
def doctor() -> None:
    """Say what this machine can do and why not more; exit code 0 when generate can run."""
    from sds3d.run.doctor import can_generate, examine

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
    "playground2d",
    epilog=examples(
        "sds3d playground2d 'a red mug' --rule sds --rule cfd-ode  # two rules, by name or by preset",
        "sds3d playground2d 'a red mug' --rule all --steps 150  # every rule there is",
        "sds3d playground2d 'a red mug' --rule sds guidance.scale=7.5 --pictures 4  # four at a time",
        "sds3d playground2d 'a corgi' --rule vsd --space latents prior.model=FOLDER  # a large model",
    ),
)
def playground(
    prompt: Annotated[str, typer.Argument(help="What to draw, for example 'a red mug'.", show_default=False)],
    overrides: Overrides = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule", help="A rule as its paper has it, or a preset; several are compared; all for every rule."
        ),
    ] = None,
    space: Annotated[str, typer.Option(help="What is optimised: latents or pixels.")] = "latents",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of each rule, optimised together.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Optimisation steps.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the pictures.")] = Path("playground2d"),
    device: Device = "",
    threads: Threads = 0,
) -> None:
    """Let guidance rules draw plain pictures, side by side: no 3D, seconds each."""
    with err.status("loading the prior"):
        from sds3d.evaluation.playground2d import compare

    with bars_by_stage() as report:
        wanted = [*(overrides or []), f"steps={steps}", f"seed={seed}"]
        written = compare(
            prompt,
            rules or ["sds"],
            out_dir,
            wanted,
            space=space,
            count=pictures,
            report=report,
            device=device,
            threads=threads,
        )
    for path, seconds in written.items():
        out.print(f"{escape(str(path))}  {seconds:.1f} s", soft_wrap=True)


@app.command(
    "app",
    epilog=examples(
        "sds3d app",
        "sds3d app --out my-runs --port 8000",
        "sds3d app steps=200  # on top of every preset",
        "sds3d app --host 0.0.0.0 --auth ada:lovelace  # for others, with a password",
    ),
)
def web_app(
    overrides: Overrides = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where run folders are made.")] = Path("runs"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network, and needs --auth.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="A public address as well, through Gradio's servers; it needs --auth.")
    ] = False,
    auth: Annotated[
        list[str] | None,
        typer.Option(metavar="USER:PASSWORD", envvar="SDS3D_AUTH", help="Who may come; may be given several times."),
    ] = None,
) -> None:
    """Start the studio, in the browser."""
    from sds3d.app import launch

    launch(out_dir, host, port, overrides or [], share=share, auth=auth or [])


listings.add_commands(app)
jobs.add_commands(app)


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors become one line on stderr and exit code 1; --debug shows where they came from."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    warnings.showwarning = _show_warning
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


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning in one line; Python's own way adds the line of code that it comes from."""
    err.print(f"[yellow]warning:[/yellow] {escape(str(message))}", soft_wrap=True)


def _carry_out(run: Run, device: str, threads: int) -> None:
    """Drive a run with a progress bar; tell what was written, or how to go on."""
    if run.state.status == "done":
        out.print(f"finished already, in {run.state.seconds:.0f} s: {escape(str(run.folder))}", soft_wrap=True)
        _list_files(run, run.state.seconds)
        return
    out.print(f"run folder  {escape(str(run.folder))}", soft_wrap=True)
    try:
        with err.status("loading the prior"):
            from sds3d.run.drive import drive

            steps = drive(run, device=device, threads=threads)
            first = next(steps, None)
        if first is not None:
            with _pause_on_interrupt(run):
                _show(first, steps)
    except KeyboardInterrupt:
        _tell_how_to_resume(run)
        raise typer.Exit(INTERRUPTED) from None
    state = run.state
    if state.status == "done":
        _list_files(run, state.seconds)
    else:
        _tell_how_to_resume(run)
        raise typer.Exit(INTERRUPTED if state.status == "paused" else 1)


def _show(first: Step, steps: Iterator[Step]) -> None:
    """A progress bar on a terminal, a line every tenth of the way elsewhere."""
    total = first.total
    said = 0
    with progress_bar() as progress:
        task = progress.add_task("optimising", total=total, completed=first.step)
        for step in steps:
            progress.update(task, completed=step.step, description=f"{step.seconds:.2f} s/step")
            if not err.is_terminal and step.step * 10 // total > said:
                said = step.step * 10 // total
                err.print(f"step {step.step}/{total}, {step.seconds:.2f} s/step")
            if step.step == total:
                progress.update(task, description="exporting")


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
    err.print(f"  sds3d resume {escape(shlex.quote(str(run.folder)))}", soft_wrap=True)


def _list_files(run: Run, seconds: float) -> None:
    files = [path for path in [run.previews / "latest.png", *sorted(run.exports.glob("[!.]*"))] if path.exists()]
    width = max((len(str(path)) for path in files), default=0)
    for path in files:
        out.print(f"{escape(str(path)):{width}}  {_size(path.stat().st_size)}", soft_wrap=True)
    out.print(f"{seconds:.1f} s in total")


def _size(n: float) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{max(n / 1e3, 0.1):.1f} kB"
