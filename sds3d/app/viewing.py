"""The viewer of meshes and splats. Its program is `viewer/viewer.min.js`, built from the files beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gradio as gr
from starlette.responses import FileResponse
from starlette.routing import Route

from sds3d.app.serving import address

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


def shown(path: Path | None, name: str, poster: Path | None = None) -> dict[str, str]:
    """Return the value of a viewer that shows a .glb or .splat file; without a file it says that there is none.

    name: of the object, for the picture's file and for screen readers. poster: picture for browsers without WebGL.
    """
    return {"url": address(path) if path else "", "name": name, "poster": address(poster) if poster else ""}


def _element(made: str, changed: str, elem_id: str) -> gr.HTML:
    """Add an element with an object of the program. made: expression that makes it. changed: call for a new value."""
    script = f"""const place = element.querySelector('.sds-3d');
import(new URL('{_ADDRESS}', document.baseURI)).then(({{Viewer, LiveView}}) => {{
  const made = {made}, change = () => made.{changed};
  watch('value', change);
  change();
}}).catch(error => {{ place.textContent = `The viewer could not start (${{error.message}}): reload the page.`; }});"""
    place = '<div class="sds-3d"></div>'
    return gr.HTML(None, html_template=place, js_on_load=script, apply_default_css=False, elem_id=elem_id)
