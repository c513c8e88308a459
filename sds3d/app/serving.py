"""Run files over HTTP, by the run's name and their place in its exports. Nothing else of a run is served."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from sds3d.app.studio import Studio, files
from sds3d.app.visitors import login_of, visiting

DOWNLOADS = "gradio_api/stream"
"""Where `gradio_client` looks for files that are no copies in Gradio's own folder."""


def address(path: Path) -> str:
    """Return the address of a run's file, below that of the page."""
    return f"files/{name_of(path)}"


def name_of(path: Path) -> str:
    """Return how a run's file is named to visitors: by the run and the place in its exports."""
    exports = next(folder for folder in path.parents if folder.name == "exports")
    return quote(f"{exports.parent.name}/{path.relative_to(exports).as_posix()}")


def routes(studio: Studio) -> list[Route]:
    """Return the routes that serve files to those who may see their run."""

    def send(request: Request) -> Response:
        login = login_of(request)
        if studio.users and login is None:
            return PlainTextResponse("log in first", 401)
        with visiting(login):
            run = studio.find(request.path_params["run"])
        wanted = run and run.exports / request.path_params["path"]
        if run is None or wanted not in files(run):
            return PlainTextResponse("there is no such file; the run may have been deleted", 404)
        # The page shows pictures, videos and objects itself; a browser that is sent here alone saves the file.
        return FileResponse(
            wanted,
            filename=wanted.name,
            content_disposition_type="inline" if wanted.suffix in (".png", ".mp4") else "attachment",
            headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache"},
        )

    return [Route(f"/{place}/{{run}}/{{path:path}}", send) for place in ("files", DOWNLOADS)]
