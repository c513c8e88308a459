"""Commands about one asset: generate, texture, resume, export."""

from __future__ import annotations

import re
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import ProgressColumn, Task

from sds3d.cli.exits import Exit
from sds3d.cli.options import (
    Device,
    Json,
    Overrides,
    PresetName,
    RunFolder,
    RunsFolder,
    Threads,
    examples,
    warn_of_unknown_words,
)
from sds3d.config import build, parse_override
from sds3d.console import err, out, print_json, progress_bar
from sds3d.garbage import importing
from sds3d.presets import DEFAULT_PRESET, load_preset
from sds3d.run.folder import Machine, Run, open_run

if TYPE_CHECKING:
    from sds3d.run.optimize import Step

PANEL = "One asset"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "sds3d generate 'a red mug'",
            "sds3d generate 'a yellow snowman with a green hat' --seed 3  # another seed, another object",
            "sds3d generate 'a blue chair' --steps 150  # a draft in half the time",
            "sds3d generate 'a red mug' --drafts 4  # the first steps of four seeds; then: sds3d resume the best",
            "sds3d generate 'a red mug' --preset splats  # Gaussian splats",
            "sds3d generate 'a red mug' --preset dreamfusion guidance.scale=50  # another rule and scale",
            "sds3d generate 'a blue mug' start_from=mug.glb  # start from your own mesh, splats or points",
            "sds3d generate 'a red mug' --image mug.png --azimuth 30 --elevation 15  # that very mug, from one picture",
            "sds3d generate 'a red mug' --image mug.png  # its camera is searched for, and can be found wrong",
            "sds3d generate 'a red mug' --preset toybox  # a NeRF instead of splats and then a mesh",
            "sds3d generate 'a red mug' representation.geometry.resolution=64 export.texture_size=2048  # finer",
            "sds3d generate 'a corgi' --preset dreamfusion-sd prior.model=FOLDER  # a large model, published settings",
            notes=(
                "The same command continues a stopped run, and reports a finished one. The run folder holds the "
                "settings, previews and exports: .glb, .obj, .ply, splat files, a turntable and a contact sheet.",
                "sds3d presets lists the presets; sds3d settings lists the settings.",
            ),
        ),
    )(generate)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "sds3d texture mug.obj 'a red mug'",
            "sds3d texture statue.glb 'a wooden statue' prior.model=FOLDER  # a large model in diffusers format",
            "sds3d texture mug.obj 'a red mug' representation.appearance.size=1024  # finer",
            "sds3d texture mug.obj 'a red mug' up_axis=z  # a mesh that lies on its back otherwise",
            notes=(
                "The mesh keeps its triangles and its UVs, if it has any. In STL files +Z is up and -Y the front, in "
                "others +Y and +Z; up_axis=y or up_axis=z says otherwise.",
            ),
        ),
    )(texture)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "sds3d resume runs/a-red-mug-1a2b3c4d",
            notes=("On a CPU with the same number of threads the result is bit-identical to an uninterrupted run.",),
        ),
    )(resume)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "sds3d export runs/a-red-mug-1a2b3c4d",
            "sds3d export runs/a-red-mug-1a2b3c4d --format usdz,spz  # only these, and the pictures",
            "sds3d export runs/a-red-mug-1a2b3c4d resolution=192 texture_size=2048  # finer",
            "sds3d export runs/a-red-mug-1a2b3c4d frames=120 picture_size=512  # a longer, larger video",
            notes=("sds3d settings export lists the settings of exports.",),
        ),
    )(export)


def generate(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT",
            help="The object, for example 'a red mug'. With --image, the default is the picture's name in words.",
            show_default=False,
        ),
    ] = "",
    overrides: Overrides = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture of the object, which the run follows.")
    ] = None,
    azimuth: Annotated[
        float | None,
        typer.Option(
            help="Degrees around the object of the picture's camera; 0 is its front. With both "
            "angles missing, the camera is found."
        ),
    ] = None,
    elevation: Annotated[float | None, typer.Option(help="Degrees of the picture's camera above the horizon.")] = None,
    preset: PresetName = DEFAULT_PRESET,
    out_dir: RunsFolder = Path("runs"),
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all random choices.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Optimisation steps. Default: the preset's.")] = None,
    device: Device = "",
    threads: Threads = 0,
    drafts: Annotated[
        int, typer.Option(min=0, max=16, help="Make only the first steps, with this many seeds; resume the best one.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Make a 3D asset from a prompt."""
    short = [f"{key}={value}" for key, value in (("seed", seed), ("steps", steps)) if value is not None]
    load_preset(preset)  # report a misspelt preset before the slow imports
    if image is None and not (azimuth is elevation is None):
        raise typer.BadParameter("--azimuth and --elevation are those of a picture's camera: give --image")
    pictures = {}
    if image is not None:
        prompt, overrides = split(prompt, overrides)
        prompt = prompt or named_by(image)
        pictures = {"reference": [{"image": str(image.resolve()), "azimuth": azimuth, "elevation": elevation}]}
        check_no_reference(overrides, "--image")
    elif not prompt:
        raise typer.BadParameter("give a PROMPT, for example 'a red mug', or --image FILE")
    for text in overrides or []:
        parse_override(text)
    with loading_libraries():
        from sds3d.run.config import draft_steps, make_config, new_run

    config = make_config(prompt, preset, [*(overrides or []), *short], pictures)
    warn_of_unknown_words([(config.prior, config.prompt, "")])
    if drafts:
        configs = [config.model_copy(update={"seed": config.seed + i}) for i in range(drafts)]
        _make_drafts([(new_run(out_dir, each), draft_steps(each)) for each in configs], device, threads, as_json)
    else:
        carry_out(new_run(out_dir, config), device, threads, as_json)


def named_by(path: Path) -> str:
    """Return the prompt that the name of a picture or folder gives: "a red mug" for red-mug.png; print it."""
    words = re.sub(r"[\W_]+", " ", path.stem).strip().lower()
    if not re.search("[a-z]", words):
        raise typer.BadParameter(f"{path.name} says nothing of the object: give a PROMPT, for example 'a red mug'")
    prompt = words if words.split()[0] in ("a", "an", "the") else f"a {words}"
    err.print(f'the prompt is "{escape(prompt)}", by the name of {escape(path.name)}', soft_wrap=True)
    return prompt


def split(prompt: str, overrides: Sequence[str] | None) -> tuple[str, list[str]]:
    """Return the prompt and the settings of a command. Without a prompt, the first setting is in its place."""
    given = list(overrides or [])
    return ("", [prompt, *given]) if re.match(r"[a-z][a-z0-9_.]*=", prompt) else (prompt, given)


def check_no_reference(overrides: Sequence[str], given: str) -> None:
    """Raise BadParameter if settings name pictures that those of `given` would replace or be replaced by."""
    if any("reference" in parse_override(text) for text in overrides):
        raise typer.BadParameter(f"give either {given} or reference=, which lists all pictures")


def texture(
    mesh: Annotated[
        Path,
        typer.Argument(
            metavar="MESH", help="A file with the mesh: .glb, .gltf, .obj, .ply, .stl or .3mf.", show_default=False
        ),
    ],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What it becomes, for example 'a red mug'.", show_default=False)
    ],
    overrides: Overrides = None,
    preset: PresetName = "texture",
    out_dir: RunsFolder = Path("runs"),
    device: Device = "",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Paint your own mesh (as in Latent-Paint, arXiv:2211.07600)."""
    with loading_libraries():
        from sds3d.formats.load import load_asset
        from sds3d.formats.table import FORMATS
        from sds3d.geometry.mesh import Mesh
        from sds3d.run.config import make_config, new_run

    config = make_config(prompt, preset, overrides or [], {"start_from": str(mesh.resolve())})
    if not isinstance(load_asset(mesh, config.up_axis), Mesh):
        raise ValueError(f"{mesh} has no triangles to paint; use: sds3d generate PROMPT start_from={mesh}")
    z_up = {format_.extension for format_ in FORMATS.values() if format_.up == "z"}
    if config.up_axis == "auto" and mesh.suffix.lower() not in z_up:
        err.print("+Y is taken to be up; up_axis=z if the mesh lies on its back")
    warn_of_unknown_words([(config.prior, config.prompt, "")])
    carry_out(new_run(out_dir, config), device, threads, as_json)


def resume(
    run: RunFolder,
    device: Device = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads. 0: as many as the run started with.")] = 0,
    as_json: Json = False,
) -> None:
    """Continue a run that was paused, cancelled or killed."""
    carry_out(open_run(run), device, threads, as_json)


def export(
    run: RunFolder,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="resolution, texture_size, print_size, picture_size or frames."),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME,...",
            help="Formats, separated by commas; sds3d settings export lists them. Default: the run's.",
        ),
    ] = "",
    device: Device = "",
    as_json: Json = False,
) -> None:
    """Write the exports of a run again, from its newest checkpoint."""
    opened = open_run(run)
    layers = [parse_override(text) for text in settings or []]
    if formats:
        layers.append({"formats": [name.strip() for name in formats.split(",")]})
    with loading_libraries():
        from sds3d.run.config import ExportConfig, read_config
        from sds3d.run.outputs import export_run

    began = time.monotonic()
    options = build(ExportConfig, read_config(opened).export.model_dump(), *layers)
    with opened.locked(), err.status("exporting"):
        export_run(opened, options, device)
    _print_result(opened, time.monotonic() - began, as_json)


def _make_drafts(drafts: Sequence[tuple[Run, int]], device: str, threads: int, as_json: bool) -> None:
    """Drive each run up to its number of steps; print where its pictures are, and how to continue it."""
    with loading_libraries():
        from sds3d.jobs.queue import enqueue
        from sds3d.run.drive import drive

    for run, until in drafts:
        if run.state.status == "done" or 0 < until <= run.state.step:
            continue
        enqueue(run, until)
        steps = drive(run, device=device, threads=threads)
        first = next(steps, None)
        if first is not None:
            with _pause_on_interrupt(run):
                _show(run, replace(first, total=until), (replace(step, total=until) for step in steps))
        if run.state.step < until:
            _say_how_to_resume(run, as_json)
            raise typer.Exit(Exit.INTERRUPTED)
    if as_json:
        print_json([{"folder": str(run.folder), "picture": str(run.preview)} for run, _ in drafts])
        return
    for run, _ in drafts:
        out.print(escape(str(run.preview)), soft_wrap=True)
    unfinished = [run for run, _ in drafts if run.state.status != "done"]  # without steps, drafts are done already
    if unfinished:
        out.print("look at the pictures, then continue the draft that you like")
    for run in unfinished:
        out.print(f"  sds3d resume {escape(shlex.quote(str(run.folder)))}", soft_wrap=True)


def carry_out(run: Run, device: str, threads: int, as_json: bool) -> None:
    """Drive a run with a progress bar; print its files, or how to continue it."""
    if run.state.status == "done":
        if not as_json:
            out.print(f"already finished, in {run.state.seconds:.0f} s: {escape(str(run.folder))}", soft_wrap=True)
        _print_result(run, run.state.seconds, as_json)
        return
    if threads or device:  # noted now: the imports below take seconds, in which it may be killed
        with run.locked():
            before = run.machine
            run.start_on(Machine(threads or before.threads, device or before.device))
    if not as_json:
        out.print(f"run folder  {escape(str(run.folder))}", soft_wrap=True)
    try:
        with loading_libraries():
            from sds3d.run.drive import drive
        with err.status(_Doing(run)):
            steps = drive(run, device=device, threads=threads)
            first = next(steps, None)
        if first is not None:
            with _pause_on_interrupt(run):
                _show(run, first, steps)
    except KeyboardInterrupt:
        _say_how_to_resume(run, as_json)
        raise typer.Exit(Exit.INTERRUPTED) from None
    state = run.state
    if state.status == "done":
        _print_result(run, state.seconds, as_json)
    else:
        _say_how_to_resume(run, as_json)
        raise typer.Exit(Exit.INTERRUPTED if state.status == "paused" else Exit.FAILED)


@contextmanager
def loading_libraries() -> Iterator[None]:
    """Show on a terminal that imports take seconds."""
    with importing(), err.status("loading PyTorch"):
        yield


@dataclass(frozen=True)
class _Doing:
    """What a run does before its first step, or without any, as text that follows the run."""

    run: Run

    def __rich__(self) -> str:
        part = self.run.state.exporting
        return f"exporting: {part}" if part else "loading the prior"


class _Part(ProgressColumn):
    """The part of the export that is under way."""

    max_refresh = 0.2  # seconds

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def render(self, task: Task) -> str:
        """Return the part, once the steps are done."""
        return self.run.state.exporting if task.finished else ""


def _show(run: Run, first: Step, steps: Iterator[Step]) -> None:
    """Show a progress bar on a terminal; elsewhere, print a line after every tenth of the steps."""
    total = first.total
    tenths = 0
    with progress_bar() as progress:
        progress.columns += (_Part(run),)
        task = progress.add_task("optimising", total=total, completed=first.step)
        for step in steps:
            progress.update(task, completed=step.step, description=f"{step.seconds:.2f} s/step")
            if not err.is_terminal and step.step * 10 // total > tenths:
                tenths = step.step * 10 // total
                err.print(f"step {step.step}/{total}, {step.seconds:.2f} s/step")
            if step.step == total:
                progress.update(task, description="exporting")


@contextmanager
def _pause_on_interrupt(run: Run) -> Iterator[None]:
    """Pause the run after its current step at the first Ctrl-C; the second Ctrl-C stops it at once."""

    def pause(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        run.request("pause")

    before = signal.signal(signal.SIGINT, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say_how_to_resume(run: Run, as_json: bool) -> None:
    state = run.state
    err.print(f"{state.status} at step {state.step} of {state.total}; continue with")
    err.print(f"  sds3d resume {escape(shlex.quote(str(run.folder)))}", soft_wrap=True)
    if as_json:
        _print_result(run, state.seconds, as_json)


def _print_result(run: Run, seconds: float, as_json: bool) -> None:
    """Print the run's state and files. seconds: duration of the command, or of the whole run."""
    files = [path for path in [run.previews / "latest.png", *sorted(run.exports.glob("[!.]*"))] if path.exists()]
    if as_json:
        state = run.state
        print_json({
            "folder": str(run.folder), "status": state.status, "step": state.step, "total": state.total,
            "seconds": round(seconds, 2), "files": [str(path) for path in files],
        })  # fmt: skip
        return
    width = max((len(str(path)) for path in files), default=0)
    for path in files:
        out.print(f"{escape(str(path)):{width}}  {_size(path.stat().st_size)}", soft_wrap=True)
    out.print(f"{seconds:.1f} s in total")


def _size(n: float) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{max(n / 1e3, 0.1):.1f} kB"
