"""The visitor's own pictures, which the object should look like: where they were taken from, and their masks."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sds3d.app import cutting, fragments, uploads
from sds3d.app.cutting import OwnPicture, OwnPictures, Stroke
from sds3d.app.own_file import OF_A_RUN, picker
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, block
from sds3d.app.studio import Studio
from sds3d.app.visitors import visitor
from sds3d.config import ConfigError, problem_of
from sds3d.files import RunError
from sds3d.formats.masks import PICTURES, TOLERANCE, remedy
from sds3d.formats.pictures import png, to_uint8
from sds3d.run.config import RunConfig
from sds3d.run.reference_config import ReferenceConfig

READ: dict[str, Any] = {**QUIET, "concurrency_limit": 1, "concurrency_id": "read"}
FOUND = {
    "alpha": "The mask is the picture's transparency.",
    "border": "The mask leaves out what has the colour of the border.",
    "network": "A network found the object.",
    "file": "The mask is that of the run.",
}
BY_HAND = "The background could not be told apart: erase it with the brush"
"""Where nothing made a mask."""

TOOLS = """<div class="sds-tools" role="group" aria-label="Brush">
<label><input type="radio" name="sds-brush" value="erase" checked> Erase</label>
<label><input type="radio" name="sds-brush" value="keep"> Keep</label>
<label>Size <input type="range" name="sds-width" min="1" max="25" value="6" aria-label="Size of the brush"></label>
<button type="button" data-action="undo">Undo</button><button type="button" data-action="clear">Start again</button>
</div>"""

TOOLS_SCRIPT = """element.addEventListener('click', event => {
const button = event.target.closest('[data-action]');
if (button) trigger('select', {action: button.dataset.action}); });"""

LIST_SCRIPT = """element.addEventListener('click', event => {
const button = event.target.closest('[data-index]');
if (button) trigger('select', {index: Number(button.dataset.index)}); });"""

# Draws strokes as they are made, and sends them. The next ones wait until the page shows the picture with the former:
# an event that is triggered while another is processed would be lost, or start from the former mask.
PAINT = """const brush = () => {
  const tools = document.querySelector('#mask-tools');
  return {keep: !!tools?.querySelector('[value=keep]:checked'),
          width: Number(tools?.querySelector('[type=range]').value ?? 6) / 100};
};
let stroke = null, waiting = [], sent = 0;
const draw = (canvas, {keep, width, points}) => {
  const pen = canvas.getContext('2d');
  pen.lineCap = pen.lineJoin = 'round';
  pen.lineWidth = width * Math.max(canvas.width, canvas.height);
  pen.strokeStyle = keep ? '#16a34a99' : '#dc262699';
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.beginPath();
  for (const [x, y] of [points[0], ...points]) pen.lineTo(x * canvas.width, y * canvas.height);
  pen.stroke();
};
const flush = () => {
  if (!waiting.length || Date.now() - sent < 8000) return;
  sent = Date.now();
  trigger('select', {strokes: waiting});
  waiting = [];
};
const point = (event, canvas) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
    .map(share => Number(Math.min(Math.max(share, -0.2), 1.2).toFixed(4)));
};
element.addEventListener('pointerdown', event => {
  const canvas = event.target.closest('canvas');
  if (!canvas || event.button) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  canvas.width = canvas.clientWidth;
  canvas.height = canvas.clientHeight;
  stroke = {...brush(), points: [point(event, canvas)]};
  draw(canvas, stroke);
});
element.addEventListener('pointermove', event => {
  const canvas = event.target.closest('canvas');
  if (!canvas || !stroke) return;
  const [x, y] = point(event, canvas), [u, v] = stroke.points.at(-1);
  if (Math.hypot(x - u, y - v) < 0.004) return;
  stroke.points.push([x, y]);
  draw(canvas, stroke);
});
for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => {
  if (stroke) waiting.push(stroke);
  stroke = null;
  flush();
});
new MutationObserver(() => { sent = 0; setTimeout(flush, 100); }).observe(element, {childList: true, subtree: true});"""


@dataclass(frozen=True)
class OwnPicturesPanel:
    """The widgets. held: holds the pictures as JSON, see `cutting.OwnPictures`."""

    studio: Studio
    held: gr.Textbox
    listed: gr.HTML
    shown: gr.HTML
    tools: gr.HTML
    tolerance: gr.Slider
    azimuth: gr.Number
    elevation: gr.Number
    remove: gr.Button
    said: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `open` changes."""
        return [
            self.held, self.listed, self.shown, self.tools, self.tolerance, self.azimuth, self.elevation, self.remove,
            self.said,
        ]  # fmt: skip

    def open(self, name: str, config: RunConfig) -> Updates:
        """Show the pictures of a run, or none if it has none or its visitor may not use them. name: "" for no run."""
        try:
            count = len(self.studio.own_references(self.studio.open(name), config)) if name else 0
        except RunError as error:
            return {**self.show(OwnPictures()), self.said: block(fragments.error(self.studio.problem(error)))}
        given = config.reference[: min(count, cutting.MOST)]
        return self.show(
            OwnPictures(
                pictures=tuple(
                    OwnPicture(
                        file=f"{OF_A_RUN}{name}:{i}",
                        azimuth=each.azimuth or 0.0,
                        elevation=cutting.ELEVATION if each.elevation is None else each.elevation,
                    )
                    for i, each in enumerate(given)
                )
            )
        )

    def show(self, held: OwnPictures, trouble: str = "") -> Updates:
        """Show the pictures, the mask of the chosen one, and what is to be said."""
        picture = held.shown
        try:
            html, note, border = self._drawn(picture) if picture else ("", "", False)
            small = [cutting.thumbnail(self._cut(each)) for each in held.pictures]
        except (ValueError, RunError, OSError) as error:
            return {**self.show(OwnPictures()), self.said: block(fragments.error(self.studio.problem(error)))}
        trouble = fragments.error(trouble) if trouble else ""
        return {
            self.held: held.model_dump_json(exclude_defaults=True) if picture else "",
            self.listed: block(_list(small, held.chosen) if len(small) > 1 else ""),
            self.shown: block(html),
            self.tools: gr.HTML(visible=picture is not None),
            self.tolerance: gr.Slider(value=picture.tolerance if picture else TOLERANCE, visible=border),
            self.azimuth: gr.Number(value=picture.azimuth if picture else 0, visible=picture is not None),
            self.elevation: gr.Number(
                value=picture.elevation if picture else cutting.ELEVATION, visible=picture is not None
            ),
            self.remove: gr.Button(visible=picture is not None),
            self.said: block(note + trouble),
        }

    def _drawn(self, picture: OwnPicture) -> tuple[str, str, bool]:
        """Return a picture with its mask as HTML, a note about the mask, and whether it follows the border."""
        found = self._cut(picture)
        height, width = found.mask.shape
        share = float(found.mask.mean())
        html = (
            f'<figure class="sds-mask"><div style="aspect-ratio:{width}/{height}"><img src="{cutting.seen(found)}" '
            'alt="Your picture; its background is faint"><canvas aria-hidden="true"></canvas></div><figcaption>The object '
            f"is {share:.0%} of the picture. {FOUND.get(found.how, '')} Correct it with the brush.</figcaption>"
            f"</figure><!-- {secrets.token_hex(4)} -->"  # always another text, which the script waits for
        )
        note = fragments.note(f"{BY_HAND}, or {remedy()}.") if found.how == "nothing" and not picture.strokes else ""
        return html, note, found.how == "border"

    def _cut(self, picture: OwnPicture) -> cutting.Cut:
        image, mask, _ = file(self.studio, picture)
        return cutting.cut(image, mask, picture.tolerance, picture.strokes)

    @contextmanager
    def references(self, text: str) -> Iterator[tuple[ReferenceConfig, ...]]:
        """Yield the references of a run with these pictures. Their files exist only meanwhile: a run copies them.

        Raises ConfigError, RunError, PictureError, OSError.
        """
        with tempfile.TemporaryDirectory(prefix="sds3d-") as folder:
            yield tuple(
                self._reference(picture, Path(folder) / str(i))
                for i, picture in enumerate(read_held(text).pictures)
            )

    def _reference(self, picture: OwnPicture, place: Path) -> ReferenceConfig:
        image, mask, known = file(self.studio, picture)
        angles = {"azimuth": picture.azimuth, "elevation": picture.elevation}
        if known is not None and known.pose is not None:
            angles = {}
        if known is not None and not picture.strokes and picture.tolerance == TOLERANCE:
            return known.model_copy(update=angles)
        found = cutting.cut(image, mask, picture.tolerance, picture.strokes)
        if found.mask.max() < 0.5:
            raise ConfigError("nothing of a picture is left of its mask: keep the object with the brush")
        place.mkdir()
        masked = {**angles, "mask": str(place / "mask.png")}
        (place / "mask.png").write_bytes(png(to_uint8(found.mask)))
        if known is not None:  # its image stays as it is
            return known.model_copy(update=masked)
        (place / "picture.png").write_bytes(png(to_uint8(found.rgb)))
        return ReferenceConfig(image=str(place / "picture.png"), **masked)


def read_held(text: str) -> OwnPictures:
    """Like `cutting.read_pictures`."""
    return cutting.read_pictures(text)
