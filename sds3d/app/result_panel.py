"""The panel of a finished object: viewers, turntable, measurements, and files to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sds3d.app import fragments
from sds3d.app.recipes import command_line, python_call, recipe
from sds3d.app.serving import address
from sds3d.app.studio import Studio, files, problem
from sds3d.app.theme import GONE
from sds3d.app.viewing import shown, viewer
from sds3d.config import ConfigError, load_yaml
from sds3d.console import duration
from sds3d.files import RunError, read_plain, write_atomically, zipped
from sds3d.formats.export import asset_files
from sds3d.formats.table import EXPORT_FORMATS, export_format
from sds3d.geometry.splats import Splats
from sds3d.run.config import run_config
from sds3d.run.copies import FOLDER as COPIES
from sds3d.run.copies import with_places
from sds3d.run.folder import Run

Updates = dict[Any, Any]
"""New values by widget."""

MAX_TEXTURE = 4096
MADE = "made"
"""Folder in a run's exports for files that are made on demand."""

MOST_PACKED = 1_000_000_000
"""Limit of a file in the zip of a run, in bytes."""

KINDS = ("Mesh", "Splats")

_SPLAT_BYTES = 32  # a Gaussian in a .splat file


@dataclass(frozen=True)
class ResultPanel:
    """The widgets of a finished object, in a box."""

    box: gr.Column
    kind: gr.Radio
    viewer: gr.HTML
    video: gr.HTML
    measures: gr.HTML
    files: gr.HTML
    recipe: gr.HTML
    pack: gr.Button
    packed: gr.HTML
    format: gr.Dropdown
    faces: gr.Number
    texture: gr.Number
    make: gr.Button
    download: gr.HTML
    message: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `show` and `hide` change."""
        return [
            self.box, self.kind, self.viewer, self.video, self.measures, self.files, self.recipe, self.packed,
            self.download, self.message,
        ]  # fmt: skip

    def show(self, run: Run, studio: Studio) -> Updates:
        """Show the files of a finished run in the viewer, and its recipe."""
        found = files(run)
        own = [path for path in found if path.parent == run.exports]
        kinds = [kind for kind in KINDS if viewed(own, kind)]
        kind = kinds[0] if kinds else KINDS[0]
        video = next((path for path in own if path.suffix == ".mp4"), None)
        return {
            self.box: gr.Column(elem_classes=""),
            self.kind: gr.Radio(kinds, value=kind, elem_classes="" if len(kinds) > 1 else GONE),
            **self.view(run, kind),
            self.video: fragments.video(address(video)) if video else "",
            self.measures: fragments.table(measures(run)),
            self.files: file_list(found),
            self.recipe: recipe_text(studio, run),
            self.packed: gr.HTML("", visible=False),
            self.download: gr.HTML("", visible=False),
            self.message: gr.HTML("", visible=False),
        }

    def view(self, run: Run, kind: str) -> Updates:
        """Show the mesh or the splats in the viewer."""
        own = [path for path in files(run) if path.parent == run.exports]
        poster = next((path for path in own if path.name == "contact_sheet.png"), None)
        return {self.viewer: shown(viewed(own, kind), run.folder.name, poster)}

    def hide(self) -> Updates:
        """Hide the panel."""
        empty: Updates = dict.fromkeys((self.video, self.files, self.recipe), "")
        return {self.box: gr.Column(elem_classes=GONE), self.viewer: None, **empty}


def lay_out() -> ResultPanel:
    """Add the widgets to the open layout."""
    # Hidden by a class instead of `visible`: a viewer that is mounted together with its model stays empty.
    with gr.Column(elem_classes=GONE, elem_id="result") as box:
        kind = gr.Radio(list(KINDS), value="Mesh", show_label=False, container=False, elem_id="kind")
        viewer_ = viewer("viewer")
        with gr.Row():
            with gr.Column(min_width=260):
                video = gr.HTML(elem_id="video")
            with gr.Column(min_width=260):
                measures_ = gr.HTML(elem_id="measures")
        files_ = gr.HTML(elem_id="files")
        with gr.Accordion("Recipe: make it again elsewhere", open=False, elem_id="recipe"):
            recipe_ = gr.HTML()
            pack = gr.Button("All files and settings in one zip", elem_id="pack")
            packed = gr.HTML(visible=False, elem_id="packed")
        with gr.Accordion("Export again, as another format or size", open=False, elem_id="export"):
            with gr.Row():
                format_ = gr.Dropdown(list(EXPORT_FORMATS), value="glb", label="Format", min_width=110)
                faces = gr.Number(0, label="Maximum faces", info="0: all", precision=0, min_width=110)
                # No bounds here: Gradio would reject values without our error message.
                texture = gr.Number(1024, label="Texture", info="pixels per side", precision=0, min_width=110)
            make = gr.Button("Make the file", elem_id="make")
            download = gr.HTML(visible=False, elem_id="made")
            message = gr.HTML(visible=False)
    return ResultPanel(
        box, kind, viewer_, video, measures_, files_, recipe_, pack, packed, format_, faces, texture, make, download,
        message,
    )  # fmt: skip


def wire(result: ResultPanel, studio: Studio, run: gr.Textbox) -> None:
    """Add the events of the viewer switch and of the export form. run: holds the name of the run."""

    def switch(name: str, kind: str) -> Updates:
        try:
            return result.view(studio.open(name), kind)
        except (RunError, OSError) as error:
            raise gr.Error(studio.problem(error), print_exception=False) from None

    def export(name: str, format_: str, faces: float | None, texture: float | None) -> Updates:
        try:
            run = studio.open_own(name)
            path = make_file(run, format_, faces or 0, texture or 0)
            return {
                result.download: gr.HTML(f'<p class="sds-download">{_link(path, "Download ")}</p>', visible=True),
                result.files: file_list(files(run)),
                result.message: gr.HTML("", visible=False),
            }
        except (ValueError, RuntimeError, ImportError, OSError) as error:
            return {
                result.download: gr.HTML("", visible=False),
                result.message: gr.HTML(fragments.error(studio.problem(error)), visible=True),
            }

    def pack(name: str) -> gr.HTML:
        try:
            run = studio.open_own(name)
            return gr.HTML(f'<p class="sds-download">{_link(pack_run(run, studio), "Download ")}</p>', visible=True)
        except (ValueError, RunError, OSError) as error:
            return gr.HTML(fragments.error(studio.problem(error)), visible=True)

    result.pack.click(
        pack, run, result.packed, api_visibility="private", concurrency_limit=1, show_progress_on=result.pack
    )  # fmt: skip
    result.kind.input(switch, [run, result.kind], result.viewer, show_progress="hidden", api_visibility="private")
    result.make.click(
        export, [run, result.format, result.faces, result.texture], [result.download, result.files, result.message],
        api_visibility="private", concurrency_limit=1, show_progress_on=result.make,
    )  # fmt: skip


def viewed(own: list[Path], kind: str) -> Path | None:
    """Return the file that the viewer shows."""
    wanted = ".splat" if kind == "Splats" else ".glb"
    return next((p for p in own if p.suffix == wanted and not p.stem.endswith("-splats")), None)


def file_list(paths: Sequence[Path]) -> str:
    """Return a list of links that download files."""
    rows = "".join(f"<li>{_link(path)}</li>" for path in paths)
    return f'<h2 class="sds-title">Files</h2><ul class="sds-files">{rows}</ul>'


def _link(path: Path, before: str = "") -> str:
    size, name = path.stat().st_size, escape(path.name)
    written = f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size / 1e3:.1f} kB"
    return f'<a href="{escape(address(path))}" download="{name}">{before}{name} <span>{written}</span></a>'


def recipe_text(studio: Studio, run: Run) -> str:
    """Return the command and the call in Python that make a run again, as HTML."""
    try:
        made = recipe(studio, run)
        texts = {"On the command line": command_line(made), "In Python": python_call(made)}
    except ConfigError as error:
        return fragments.error(studio.problem(error))
    return "".join(
        f'<h2 class="sds-title">{title}</h2><pre class="sds-code" tabindex="0">{escape(studio.redacted(text))}</pre>'
        for title, text in texts.items()
    )


def pack_run(run: Run, studio: Studio) -> Path:
    """Write a run's exports, complete settings and recipe as one .zip into its exports. Return its path.

    An uploaded file that the run starts from is in it, too, and so are the pictures and lights that its settings name.
    The settings are a preset, wherever they are unpacked: `sds3d generate PROMPT --preset settings.yaml`. The recipe is
    for the folder where they are. Raises RunError, ConfigError, OSError.
    """
    if run.busy():
        raise RunError("the run is running; wait for it, or pause it")
    made = replace(recipe(studio, run), config=run_config(with_places(load_yaml(run.config_path, follow=False))))
    packed = {path.name: read_plain(path, MOST_PACKED) for path in files(run) if path.parent == run.exports}
    if (own := studio.own_file(run)) is not None:
        packed[own.name] = read_plain(own, MOST_PACKED)
    copies = [path for path in sorted((run.folder / COPIES).rglob("*")) if path.is_file()]
    packed |= {str(path.relative_to(run.folder)): read_plain(path, MOST_PACKED) for path in copies}
    packed["settings.yaml"] = studio.redacted(read_plain(run.config_path).decode()).encode()
    text = f"# In the folder of these files:\n{command_line(made)}\n\n{python_call(made)}\n"
    packed["recipe.txt"] = studio.redacted(text).encode()
    return write_atomically(run.exports / MADE / f"{run.folder.name}.zip", zipped(packed))


def make_file(run: Run, format_: str, faces: float, texture_size: float) -> Path:
    """Write a run's asset in another format or size into its exports; several files are packed into a .zip.

    A file that the run has already is returned as it is.

    faces: maximum number; 0: all. texture_size: pixels per side, 64 to 4096.
    Raises RunError, ValueError, EmptySurfaceError, ImportError (usdz without usd-core) and OSError.
    """
    from sds3d.prompts.prompt import slug
    from sds3d.run.asset import Asset

    of_splats = export_format(format_).holds is Splats
    if run.busy():
        raise RunError("the run is running; wait for it, or pause it")
    asset = Asset(run.folder)
    name = slug(asset.config.prompt)
    if of_splats:
        made = asset_files([format_], name, splats=asset.splats())
    else:
        faces, texture_size = int(faces), int(texture_size)
        if faces and faces < 4:
            raise ValueError(f"{faces} faces are too few; give 4 or more, or 0 for all")
        if not 64 <= texture_size <= MAX_TEXTURE:
            raise ValueError(f"a texture of {texture_size} pixels is not possible; give 64 to {MAX_TEXTURE}")
        mesh = asset.mesh()
        name = f"{name}-{min(faces, len(mesh.faces)) or len(mesh.faces)}-faces-{texture_size}px"
        export = asset.config.export
        made = asset_files(
            [format_],
            name,
            mesh,
            texture_size=texture_size,
            faces=faces,
            occlusion=export.occlusion,
            print_size=export.print_size,
        )
    if len(made) == 1:
        (file, data), *_ = made.items()
    else:
        file, data = f"{name}-{format_}.zip", zipped(made)
    before = run.exports / file
    if before.is_file() and before.read_bytes() == data:
        return before
    return write_atomically(run.exports / MADE / file, data)


def measures(run: Run) -> list[tuple[str, str]]:
    """Return measurements of a finished run: faces, size and so on, and its time."""
    rows: list[tuple[str, str]] = []
    for path in files(run):
        if path.parent == run.exports and path.suffix == ".glb" and not path.stem.endswith("-splats"):
            rows = list(_measured(path, path.stat().st_mtime_ns))
        elif path.suffix == ".splat" and path.parent == run.exports:
            rows.append(("Gaussians", f"{path.stat().st_size // _SPLAT_BYTES:,}"))
    state = run.state
    return [*rows, ("Time", duration(state.seconds)), ("Folder", run.folder.name)]


@lru_cache(maxsize=256)
def _measured(path: Path, changed: int) -> tuple[tuple[str, str], ...]:
    """Measure a mesh file. changed: time of the file, part of the cache key."""
    import trimesh

    from sds3d.formats.load import load_asset
    from sds3d.geometry.mesh import Mesh

    try:
        mesh = load_asset(path)
    except ValueError as error:
        return (("Mesh", problem(error)),)
    if not isinstance(mesh, Mesh):
        return ()
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    body.merge_vertices(merge_tex=True, merge_norm=True)  # seams of a texture are not holes
    size = " × ".join(f"{100 * side:.1f}" for side in body.extents)
    closed = bool(body.is_watertight)
    return (
        ("Vertices", f"{len(body.vertices):,}"),
        ("Faces", f"{len(body.faces):,}"),
        ("Watertight", "yes" if closed else "no"),
        ("Size", f"{size} cm"),
        ("Volume", f"{1000 * abs(float(body.volume)):.2f} l" if closed else "none: not watertight"),
        *((("Texture", f"{mesh.texture.shape[1]} px"),) if mesh.texture is not None else ()),
    )
