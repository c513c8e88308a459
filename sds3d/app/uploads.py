"""Files that visitors bring: each is its visitor's alone, and is kept for some hours until a run takes a copy.

    runs/.uploads/<visitor>/<token>/<name>

The browser sends a file's bytes, and then knows it by its token. No path from the browser is ever opened.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sds3d.app.studio import Studio
from sds3d.app.visitors import login_of, visitor
from sds3d.config import ConfigError
from sds3d.formats.masks import PICTURES
from sds3d.formats.table import EXTENSIONS
from sds3d.prompts.prompt import slug

PLACE = "uploads"
"""Address of uploads, below that of the page. Each is a POST of a file's bytes, with its name in the header NAME."""
NAME = "x-file-name"
"""A browser asks before it sends a header of its own to another site, so a foreign page cannot upload."""

RECIPES = (".zip", ".yaml", ".yml", ".txt")
"""Extensions of files with settings."""
KEPT = 64
"""Files of a login that are kept; an older one gives way. Without logins, all visitors share them."""
ROOM = 2_000_000_000
"""Bytes of all uploads that are kept."""
HOURS = 6
"""Hours that a file is kept."""


def routes(studio: Studio) -> list[Route]:
    """Return the route that takes uploads. It answers with a token, or with why the file was refused."""

    async def take(request: Request) -> Response:
        login = login_of(request)
        if studio.users and login is None:
            return PlainTextResponse("log in first", 401)
        try:
            path = new_place(studio.root, login, unquote(request.headers.get(NAME, "")))
        except ConfigError as error:
            return PlainTextResponse(str(error), 415)
        except OSError as error:
            return PlainTextResponse(str(error), 507)
        try:
            with path.open("xb") as file:
                async for part in request.stream():
                    file.write(part)
        except (OSError, ClientDisconnect) as error:
            shutil.rmtree(path.parent, ignore_errors=True)
            return PlainTextResponse(f"the file could not be kept: {error}", 507)
        return PlainTextResponse(path.parent.name)

    return [Route(f"/{PLACE}", take, methods=["POST"])]


def new_place(root: Path, login: str | None, name: str) -> Path:
    """Make room for a file of a visitor. Return its path, which does not exist yet.

    Raises ConfigError if files of this kind cannot be read, and OSError if there is no room.
    """
    path = Path(re.split(r"[\\/]", name)[-1])
    extension = path.suffix.lower()
    if extension not in (*EXTENSIONS, *PICTURES, *RECIPES):
        raise ConfigError(f'files ending in "{extension[:20]}" cannot be read: use {", ".join(EXTENSIONS)}')
    return new_folder(root, login) / f"{slug(path.stem)}{extension}"


def new_folder(root: Path, login: str | None) -> Path:
    """Make a folder for files of a visitor, which counts as one upload. Raises OSError if there is no room."""
    sweep(root)
    if sum(file.stat().st_size for file in (root / ".uploads").rglob("*") if file.is_file()) > ROOM:
        raise OSError("too many files were uploaded: try again in some hours")
    mine = _folder(root, login)
    mine.mkdir(parents=True, exist_ok=True)
    before = sorted(mine.iterdir(), key=lambda folder: folder.stat().st_mtime)
    for old in before[: max(0, len(before) - KEPT + 1)]:
        shutil.rmtree(old, ignore_errors=True)
    place = mine / secrets.token_hex(16)
    place.mkdir()
    return place


def find(studio: Studio, token: str) -> Path:
    """Return the visitor's own file with this token. Raises ConfigError if there is none."""
    folder = _folder(studio.root, visitor()) / token
    if re.fullmatch(r"[0-9a-f]{32}", token) and folder.is_dir():
        for path in folder.iterdir():
            return path
    raise ConfigError("the file is no longer here: choose it again")


def remove(path: Path) -> None:
    """Remove an uploaded file."""
    shutil.rmtree(path.parent, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove files that were kept for long enough."""
    for folder in (root / ".uploads").glob("*/*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > 3600 * HOURS:
                shutil.rmtree(folder, ignore_errors=True)


def _folder(root: Path, login: str | None) -> Path:
    return root / ".uploads" / hashlib.sha256((login or "").encode()).hexdigest()[:16]
