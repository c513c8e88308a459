"""The visitor's own file: a mesh to paint, or something to start from, with a picture of what was read."""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sds3d.app import fragments, uploads
from sds3d.app.guards import UPLOAD
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, block
from sds3d.app.studio import Studio, problem
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.formats.base import UpAxis
from sds3d.formats.table import EXTENSIONS

OF_A_RUN = "run:"
"""Start of a reference to the file of a run; other references are tokens of uploads."""

UP: list[tuple[str, UpAxis]] = [("As usual for its format", "auto"), ("Y", "y"), ("Z", "z")]
SIDES = 4
SIZE = 160
"""Number and size in pixels of the pictures."""

# Sends chosen, dropped or pasted files, then reports their tokens, with spaces between them, and why others were
# refused, a line for each. Of more files than the field takes, none is sent where it takes one, and else the first.
SEND = """const input = element.querySelector('input'), place = element.querySelector('.sds-drop');
const progress = element.querySelector('progress');
const deliver = file => new Promise(ended => {
  const most = place.dataset.most, ending = file.name.match(/\\.\\w+$/)?.[0] ?? '';
  if (!input.accept.split(',').includes(ending.toLowerCase())) return ended({problem:
    `${file.name}: files ending in "${ending}" cannot be read: use ${input.accept.replaceAll(',', ', ')}`});
  if (file.size > most) return ended({problem: `${file.name} is too large: ${most / 1e6} MB are the limit`});
  const request = new XMLHttpRequest();
  request.open('POST', new URL(place.dataset.place, document.baseURI));
  request.setRequestHeader(place.dataset.header, encodeURIComponent(file.name));
  request.upload.onprogress = event => { progress.value = event.loaded / event.total; };
  request.onload = () => ended(
    request.status === 200 ? {token: request.responseText} : {problem: `${file.name}: ${request.responseText}`});
  request.onerror = () => ended({problem: `${file.name} could not be sent: the connection was lost`});
  progress.hidden = false;
  progress.value = 0;
  request.send(file);
});
const send = async given => {
  const files = [...given], tokens = [], problems = [], room = Number(place.dataset.files);
  if (files.length > room) problems.push(room === 1
    ? `${files.length} files are too many: choose one`
    : `${room} files at a time are the limit: ${files.length - room} of ${files.length} left out`);
  for (const file of room === 1 && problems.length ? [] : files.slice(0, room)) {
    const answer = await deliver(file);
    if (answer.token) tokens.push(answer.token);
    else problems.push(answer.problem);
  }
  progress.hidden = true;
  input.value = '';
  if (tokens.length || problems.length) trigger('select', {token: tokens.join(' '), problem: problems.join('\\n')});
};
input.addEventListener('change', () => send(input.files));
for (const kind of ['dragover', 'dragleave', 'drop']) place.addEventListener(kind, event => {
  event.preventDefault();
  place.classList.toggle('over', kind === 'dragover');
  if (kind === 'drop') send(event.dataTransfer.files);
});
if (input.multiple) document.addEventListener('paste', event => {
  const pictures = [...event.clipboardData.files].filter(file => file.type.startsWith('image/'));
  if (!element.isConnected || !pictures.length || event.clipboardData.types.includes('text/plain')) return;
  event.preventDefault();
  send(pictures);
});"""


@dataclass(frozen=True)
class OwnFile:
    """The widgets. reference: holds a token or the name of a run, see `file`."""

    studio: Studio
    reference: gr.Textbox
    up: gr.Radio
    shown: gr.HTML
    remove: gr.Button

    @property
    def inputs(self) -> list[Any]:
        """The widgets that say what to start from."""
        return [self.reference, self.up]

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `open` changes."""
        return [self.reference, self.up, self.shown, self.remove]

    def open(self, reference: str, up: UpAxis) -> Updates:
        """Show a file; no reference: none."""
        return {self.up: up, **self.look(reference, up)}

    def look(self, reference: str, up: UpAxis) -> Updates:
        """Read a file and show it, or forget it and say why it cannot be read."""
        try:
            path = file(self.studio, reference)
            html = seen(path, up) if path else ""
        except (ValueError, RunError, OSError) as error:
            return self.refused(self.studio.problem(error))
        return {self.reference: reference, self.shown: block(html), self.remove: gr.Button(visible=bool(html))}

    def refused(self, why: str) -> Updates:
        """Show why there is no file."""
        return {self.reference: "", self.shown: block(fragments.error(why)), self.remove: gr.Button(visible=False)}


def lay_out(studio: Studio) -> OwnFile:
    """Add the widgets and their events to the open layout."""
    with gr.Accordion("Your own file: paint it, or start from it", open=False, elem_id="own"):
        sent = picker("Choose a mesh, splats or points", EXTENSIONS, "own-file")
        reference = gr.Textbox("", visible="hidden", elem_id="own-reference")
        shown = gr.HTML(visible=False, elem_id="own-shown")
        up = gr.Radio(UP, value="auto", label="Axis that points up in the file", elem_id="own-up")
        remove = gr.Button("Start without the file", size="sm", visible=False, elem_id="own-remove")
        gr.HTML(
            '<p class="sds-caption">The object starts from the file. With the preset <b>texture</b> the mesh keeps its '
            "triangles and is only painted. A .gltf or .obj file cannot bring its textures along: use .glb.</p>"
        )
    own = OwnFile(studio, reference, up, shown, remove)

    def take(event: gr.EventData, up: UpAxis) -> Updates:
        if why := getattr(event, "problem", ""):
            return own.refused(str(why))
        return own.look(str(getattr(event, "token", "")), up)

    sent.select(take, up, own.outputs, **QUIET, concurrency_limit=1, concurrency_id="read")
    up.input(own.look, [reference, up], own.outputs, **QUIET, concurrency_limit=1, concurrency_id="read")
    remove.click(lambda up: own.look("", up), up, own.outputs, **QUIET)
    return own


def picker(label: str, extensions: tuple[str, ...], elem_id: str, most: int = 1) -> gr.HTML:
    """Add a field for a file to the open layout. Its event `select` has the upload's token, or a problem.

    most: largest number of files. Where it is above 1, they are pictures, which can also be pasted, and the event has
    the tokens of all, with spaces between them, and a line for each problem.
    """
    drop = "or drop them here, or paste one" if most > 1 else "or drop it here"
    return gr.HTML(
        f'<label class="sds-drop" data-most="{UPLOAD}" data-files="{most}" data-place="{uploads.PLACE}" '
        f'data-header="{uploads.NAME}">'
        f"<b>{label}</b><span>{drop}; up to {UPLOAD // 1_000_000} MB</span>"
        f'<input type="file"{" multiple" * (most > 1)} accept="{",".join(extensions)}" aria-label="{label}">'
        '<progress hidden max="1" aria-label="Upload"></progress></label>',
        js_on_load=SEND,
        elem_id=elem_id,
    )


def file(studio: Studio, reference: str) -> Path | None:
    """Return the file that a reference of the form names; None for an empty one.

    Raises ConfigError or RunError if it is not the visitor's.
    """
    if reference.startswith(OF_A_RUN):
        return studio.own_file(studio.open(reference.removeprefix(OF_A_RUN)))
    return uploads.find(studio, reference) if reference else None


def seen(path: Path, up: UpAxis) -> str:
    """Return pictures of what was read, its figures, and what was left out, as HTML. Raises ValueError, OSError."""
    from sds3d.formats.load import fit_to_cube, load_asset
    from sds3d.formats.pictures import to_png
    from sds3d.geometry.mesh import Mesh

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        try:
            asset, _ = fit_to_cube(load_asset(path, up))
        except ValueError as error:
            raise ConfigError(problem(error).replace(f"{path.parent}/", "")) from None
    if isinstance(asset, Mesh):
        about = f"a mesh of {len(asset.faces):,} triangles" + (", with a texture" if asset.texture is not None else "")
    else:
        about = f"{len(asset):,} Gaussians"
    url = base64.b64encode(to_png(_pictures(asset))).decode()
    notes = "".join(f"<li>{escape(str(each.message))}</li>" for each in said if each.category is UserWarning)
    return (
        f'<figure class="sds-own"><img src="data:image/png;base64,{url}" alt="{escape(path.name)} from the front, the '
        f'right, the back and the left"><figcaption><b>{escape(path.name)}</b>: {about}. From the front, right, back '
        f"and left.</figcaption></figure>" + (f'<ul class="sds-found">{notes}</ul>' if notes else "")
    )


def _pictures(asset: Any) -> Any:
    """Draw a mesh or splats from the front, right, back and left, (4, H, W, 3)."""
    import torch

    from sds3d.cameras import turntable
    from sds3d.geometry.splats import Splats
    from sds3d.rendering.shading import shade_mesh
    from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
    from sds3d.run.outputs import pictures

    cameras = turntable(SIDES, size=SIZE)
    if isinstance(asset, Splats):
        cpu = torch.device("cpu")
        scene = GaussiansScene.from_splats(asset, GaussiansConfig(), torch.Generator(), cpu, 1)
        return pictures(scene, cameras, cpu)
    return shade_mesh(asset, cameras)[0]
