"""The visitor's own pictures, which the object should look like: where they were taken from, and their masks."""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import ValidationError

from sds3d.app import cutting, fragments, uploads
from sds3d.app.cutting import Cut, OwnPicture, OwnPictures
from sds3d.app.own_file import OF_A_RUN, picker
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, block
from sds3d.app.studio import Studio
from sds3d.app.visitors import visitor
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.formats.masks import PICTURES, TOLERANCE, network_remedy
from sds3d.formats.pictures import png, to_uint8
from sds3d.run.reference_config import ReferenceConfig

READ: dict[str, Any] = {**QUIET, "concurrency_limit": 1, "concurrency_id": "read"}
FOUND = {
    "alpha": "The mask is the picture's transparency.",
    "border": "The mask leaves out what has the colour of the border.",
    "network": "A network found the object.",
    "file": "The mask is that of the run.",
}
BY_HAND = "The background could not be told apart: erase it with the brush, or use a picture with transparency"
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


FROM_A_FILE = ("image", "mask", "azimuth", "elevation")
"""What the form holds of a picture whose run is not here."""


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

    def open(self, name: str) -> Updates:
        """Show the pictures of a run, or why its visitor may not use them."""
        try:
            given = self.studio.own_references(self.studio.open(name))
        except (RunError, ConfigError) as error:
            return self.show(OwnPictures(), self.studio.problem(error))
        pictures = tuple(
            OwnPicture.model_validate({"file": f"{OF_A_RUN}{name}:{i}", **_angles(each)})
            for i, each in enumerate(given[: cutting.MOST])
        )
        more = f"The run has {len(given)} pictures; the form has the first {cutting.MOST}"
        return self.show(OwnPictures(pictures=pictures), more if len(given) > cutting.MOST else "")

    def add(self, text: str, tokens: Sequence[str], trouble: str = "") -> Updates:
        """Add uploads to the pictures that the page holds, and show the last one."""
        before = _held(text)
        pictures, troubles = list(before.pictures), [trouble]
        for i, token in enumerate(tokens):
            if len(pictures) == cutting.MOST:
                left = f"{len(tokens) - i} of {len(tokens)} left out, " if len(tokens) > 1 else ""
                troubles.append(f"{cutting.MOST} pictures are the limit: {left}remove one first")
                break
            try:
                pictures.append(OwnPicture(file=kept(self.studio, uploads.find(self.studio, token))))
            except (ValueError, OSError) as error:
                troubles.append(self.studio.problem(error))
        chosen = len(pictures) - 1 if len(pictures) > len(before.pictures) else before.chosen
        return self.show(OwnPictures(pictures=tuple(pictures), chosen=chosen), "\n".join(filter(None, troubles)))

    def bring(self, given: Sequence[ReferenceConfig]) -> Updates:
        """Keep pictures of a run that is not here, with their masks as transparency, and show them.

        The form has no more of each than `FROM_A_FILE`; what else their settings say is named. Raises PictureError,
        OSError.
        """
        usual = ReferenceConfig(image="-", azimuth=0, elevation=0)
        other = {key for each in given for key, value in each if value != getattr(usual, key)} - set(FROM_A_FILE)
        other |= {"camera that is found" for each in given if each.sought}
        troubles = [f"The form cannot show {', '.join(sorted(other))} of these pictures"] if other else []
        if len(given) > cutting.MOST:
            troubles.append(f"The run has {len(given)} pictures; the form has the first {cutting.MOST}")
        return self.show(OwnPictures(pictures=tuple(map(self._brought, given[: cutting.MOST]))), "\n".join(troubles))

    def _brought(self, known: ReferenceConfig) -> OwnPicture:
        data = cutting.masked(Path(known.image), Path(known.mask) if known.mask else None)
        kept = uploads.new_place(self.studio.root, visitor(), f"{Path(known.image).stem}.png")
        kept.write_bytes(data)
        return OwnPicture.model_validate({"file": kept.parent.name, **_angles(known)})

    def edit(self, text: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Updates:
        """Show the pictures that the page holds after a change of the chosen one, or why the change is refused."""
        held = _held(text)
        if held.shown is None:
            return self.show(held)
        picture = held.shown.model_dump()
        try:
            after = held.with_shown(OwnPicture.model_validate(picture | change(picture)))
            return self.show(cutting.read_pictures(after.model_dump_json()))
        except ValidationError as error:
            return self.show(held, f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}")
        except ConfigError as error:
            return self.show(held, str(error))

    def show(self, held: OwnPictures, trouble: str = "") -> Updates:
        """Show the pictures, the mask of the chosen one, and what is to be said, a problem in each line of `trouble`.

        Pictures that cannot be read any more are taken out and named.
        """
        held, cuts, lost = self._readable(held)
        picture = held.shown
        html, note, border = self._drawn(picture, cuts[held.chosen]) if picture else ("", "", False)
        small = [cutting.thumbnail(each) for each in cuts]
        trouble = "\n".join([*lost, *filter(None, [trouble])])
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

    def _readable(self, held: OwnPictures) -> tuple[OwnPictures, list[Cut], list[str]]:
        """Return the pictures that can be read, cut out, and a line about each other one."""
        left: dict[int, OwnPicture] = {}
        cuts, lost = [], []
        for i, picture in enumerate(held.pictures):
            try:
                cuts.append(self._cut(picture))
                left[i] = picture
            except (ValueError, RunError, OSError) as error:
                lost.append(f"Picture {i + 1} was taken out: {self.studio.redacted(str(error))}")
        chosen = max(min(sum(i < held.chosen for i in left), len(left) - 1), 0)
        return OwnPictures(pictures=tuple(left.values()), chosen=chosen), cuts, lost

    def _drawn(self, picture: OwnPicture, found: Cut) -> tuple[str, str, bool]:
        """Return a picture with its mask as HTML, a note about the mask, and whether it follows the border."""
        height, width = found.mask.shape
        share = float(found.mask.mean())
        html = (
            f'<figure class="sds-mask"><div style="aspect-ratio:{width}/{height}"><img src="{cutting.seen(found)}" '
            'alt="Your picture; its background is faint"><canvas aria-hidden="true"></canvas></div><figcaption>'
            f"The object is {share:.0%} of the picture. {FOUND.get(found.how, '')} Correct it with the brush."
            f"</figcaption></figure><!-- {secrets.token_hex(4)} -->"  # always another text, which the script waits for
        )
        note = ""
        if found.how == "nothing" and not picture.strokes:
            note = fragments.note(f"{BY_HAND}, or {network_remedy()}." if self.studio.trusted else f"{BY_HAND}.")
        return html, note, found.how == "border"

    def _cut(self, picture: OwnPicture) -> Cut:
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
                for i, picture in enumerate(cutting.read_pictures(text).pictures)
            )

    def _reference(self, picture: OwnPicture, place: Path) -> ReferenceConfig:
        image, mask, known = file(self.studio, picture)
        angles: dict[str, Any] = {"azimuth": picture.azimuth, "elevation": picture.elevation}
        if known is not None:  # its camera stays what it is, a pose or one to be found, unless the visitor turned it
            angles = {} if angles == _angles(known) else {**angles, "pose": None}
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


def lay_out(studio: Studio) -> OwnPicturesPanel:
    """Add the widgets and their events to the open layout."""
    with gr.Accordion("Pictures: the object looks like these", open=False, elem_id="pictures"):
        sent = picker("Choose pictures of the object", PICTURES, "picture-file", most=cutting.MOST)
        held = gr.Textbox("", visible="hidden", elem_id="pictures-held")
        said = gr.HTML(visible=False, elem_id="picture-said")
        listed = gr.HTML(visible=False, js_on_load=LIST_SCRIPT, elem_id="picture-list")
        shown = gr.HTML(visible=False, js_on_load=PAINT, elem_id="picture-mask")
        tools = gr.HTML(TOOLS, visible=False, js_on_load=TOOLS_SCRIPT, elem_id="mask-tools")
        tolerance = gr.Slider(
            0, 0.3, TOLERANCE, step=0.01, label="Tolerance", visible=False, elem_id="mask-tolerance",
            info="Colours that differ from the border's by less belong to the background.",
        )  # fmt: skip
        with gr.Row():
            azimuth = gr.Number(
                0, label="Azimuth", minimum=-360, maximum=360, min_width=120, visible=False, elem_id="picture-azimuth",
                info="Degrees around the object: 0 sees its front, 90 the side that is right in that view.",
            )  # fmt: skip
            elevation = gr.Number(
                cutting.ELEVATION, label="Elevation", minimum=-90, maximum=90, min_width=120, visible=False,
                elem_id="picture-elevation", info="Degrees of the camera above the horizon.",
            )  # fmt: skip
        remove = gr.Button("Remove this picture", size="sm", visible=False, elem_id="picture-remove")
        gr.HTML(
            '<p class="sds-caption">The object is pulled towards the pictures, from the sides that you give, while the '
            "prompt shapes the rest of it. Write a prompt that describes them.</p>"
        )
    panel = OwnPicturesPanel(studio, held, listed, shown, tools, tolerance, azimuth, elevation, remove, said)
    _wire(panel, sent)
    return panel


def _wire(panel: OwnPicturesPanel, sent: gr.HTML) -> None:
    held = panel.held

    def take(event: gr.EventData, text: str) -> Updates:
        tokens = str(getattr(event, "token", "")).split()
        return panel.add(text, tokens, str(getattr(event, "problem", "")))

    def paint(event: gr.EventData, text: str) -> Updates:
        drawn = getattr(event, "strokes", [])
        return panel.edit(text, lambda picture: {"strokes": [*picture["strokes"], *drawn]})

    def use(event: gr.EventData, text: str) -> Updates:
        last = -1 if event.action == "undo" else 0
        return panel.edit(text, lambda picture: {"strokes": picture["strokes"][:last]})

    def choose(event: gr.EventData, text: str) -> Updates:
        return panel.show(_held(text).model_copy(update={"chosen": int(event.index)}))

    def tolerate(tolerance: float, text: str) -> Updates:
        return panel.edit(text, lambda picture: {"tolerance": tolerance})

    def place(azimuth: float | None, elevation: float | None, text: str) -> Updates:
        if azimuth is None or elevation is None:  # the visitor is still typing
            return {}
        edited = panel.edit(text, lambda picture: {"azimuth": azimuth, "elevation": elevation})
        if len(_held(edited[panel.held]).pictures) < len(_held(text).pictures):  # some are gone
            return edited
        return {key: value for key, value in edited.items() if key in (panel.held, panel.said)}

    sent.select(take, held, panel.outputs, **READ)
    panel.shown.select(paint, held, panel.outputs, **READ)
    panel.tools.select(use, held, panel.outputs, **READ)
    panel.listed.select(choose, held, panel.outputs, **READ)
    panel.tolerance.input(tolerate, [panel.tolerance, held], panel.outputs, trigger_mode="always_last", **READ)
    panel.remove.click(lambda text: panel.show(_held(text).without_shown()), held, panel.outputs, **READ)
    gr.on(
        [panel.azimuth.input, panel.elevation.input], place, [panel.azimuth, panel.elevation, held],
        panel.outputs, trigger_mode="always_last", **READ,
    )  # fmt: skip


def _held(text: str) -> OwnPictures:
    """Return the pictures that the page holds; none if it holds what the form has not."""
    with suppress(ConfigError):
        return cutting.read_pictures(text)
    return OwnPictures()


def kept(studio: Studio, path: Path) -> str:
    """Keep an uploaded picture as `cutting.normalised`, and return its token. Raises PictureError, OSError."""
    try:
        data = cutting.normalised(path)
        place = uploads.new_place(studio.root, visitor(), f"{path.stem}.png")
        place.write_bytes(data)
        return place.parent.name
    finally:
        uploads.remove(path)


def file(studio: Studio, picture: OwnPicture) -> tuple[Path, Path | None, ReferenceConfig | None]:
    """Return the files of a picture and its mask, if it has one, and what the run that it comes from says of it.

    Raises ConfigError or RunError if they are not the visitor's.
    """
    if not picture.file.startswith(OF_A_RUN):
        return uploads.find(studio, picture.file), None, None
    name, _, index = picture.file.removeprefix(OF_A_RUN).rpartition(":")
    run = studio.open(name)
    known = studio.own_references(run)
    if not (index.isdecimal() and int(index) < len(known)):
        raise RunError("the run has no such picture: add it again")
    reference = known[int(index)]
    return Path(reference.image), Path(reference.mask) if reference.mask else None, reference


def _angles(known: ReferenceConfig) -> dict[str, float]:
    """Return the azimuth and elevation that the form shows for a picture of a run, from its pose if it has one."""
    if known.pose is not None:
        x, y, z = (row[3] for row in known.pose[:3])
        radians = math.atan2(x, z) % math.tau, math.atan2(y, math.hypot(x, z))
        return dict(zip(("azimuth", "elevation"), (round(math.degrees(angle), 1) for angle in radians), strict=True))
    return {
        "azimuth": known.azimuth or 0.0,
        "elevation": cutting.ELEVATION if known.elevation is None else known.elevation,
    }


def _list(small: Sequence[str], chosen: int) -> str:
    """Return buttons that choose a picture."""
    buttons = "".join(
        f'<button type="button" data-index="{i}" aria-pressed="{str(i == chosen).lower()}" '
        f'aria-label="Picture {i + 1}"><img src="{source}" alt=""></button>'
        for i, source in enumerate(small)
    )
    return f'<div class="sds-shots" role="group" aria-label="Pictures">{buttons}</div>'
