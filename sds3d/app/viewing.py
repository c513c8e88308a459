"""The viewer of meshes and splats. Its program is `viewer/viewer.min.js`, built from the files beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.responses import FileResponse
from starlette.routing import Route

from sds3d.app.serving import address
from sds3d.app.studio import Studio
from sds3d.app.theme import GONE
from sds3d.files import RunError
from sds3d.run import live

_PROGRAM = Path(__file__).with_name("viewer") / "viewer.min.js"
_ADDRESS = f"viewer/{hashlib.sha256(_PROGRAM.read_bytes()).hexdigest()[:16]}.js"
"""Address of the program below that of the page. It changes with the program, so that browsers may keep their copy."""


def program() -> Route:
    """Return the route that serves the viewer's program."""
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}

    async def send(_: object) -> FileResponse:
        return FileResponse(_PROGRAM, media_type="text/javascript", headers=headers)

    return Route(f"/{_ADDRESS}", send)


def viewer(elem_id: str) -> gr.HTML:
    """Add a viewer to the open layout. Its values are those of `shown`."""
    return _element("new Viewer(place)", "show(props.value)", elem_id)


def live_view(studio: Studio, elem_id: str) -> gr.HTML:
    """Add a view of a run that is under way, which can be turned. Its value is the run's name, "" for none."""

    def look(given: dict[str, Any]) -> dict[str, str]:
        """Note the view that a visitor asks for. Return the newest picture, unless it was seen before."""
        nothing = {"picture": "", "seen": ""}
        run = studio.find(str(given.get("run")))
        if run is None:
            return nothing
        with suppress(RunError, OSError, ValueError):
            if run.state.status == "running":
                live.ask(run, str(given.get("visitor")), live.View.of(given))
        answer = live.answer(run, str(given.get("visitor")))
        if answer is None or answer[1] == given.get("seen"):
            return nothing
        return {"picture": f"data:image/jpeg;base64,{base64.b64encode(answer[0]).decode()}", "seen": answer[1]}

    return _element("new LiveView(place, server.look)", "follow(props.value || '')", elem_id, look)


def shown(path: Path | None, name: str, poster: Path | None = None) -> dict[str, str]:
    """Return the value of a viewer that shows a .glb or .splat file; without a file it says that there is none.

    name: of the object, for the picture's file and for screen readers. poster: picture for browsers without WebGL.
    """
    return {"url": address(path) if path else "", "name": name, "poster": address(poster) if poster else ""}


def _element(made: str, changed: str, elem_id: str, *functions: Callable[..., Any]) -> gr.HTML:
    """Add an element with an object of the program.

    made: expression that makes it. changed: call for a new value. functions: what it can call here.
    """
    script = f"""const place = element.querySelector('.sds-3d');
import(new URL('{_ADDRESS}', document.baseURI)).then(({{Viewer, LiveView}}) => {{
  const made = {made}, change = () => made.{changed};
  watch('value', change);
  change();
}}).catch(error => {{ place.textContent = `The viewer could not start (${{error.message}}): reload the page.`; }});"""
    place = '<div class="sds-3d"></div>'
    return gr.HTML(
        None,
        html_template=place,
        js_on_load=script,
        apply_default_css=False,
        server_functions=list(functions),
        elem_id=elem_id,
        elem_classes=GONE if functions else None,
    )
