"""Who visits the studio, and who owns a run. Without logins, everybody counts as the machine's owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from gradio.context import LocalContext
from starlette.requests import Request

from sds3d.files import read_plain, write_atomically
from sds3d.run.folder import Run

_visiting: ContextVar[str | None] = ContextVar("visiting", default=None)


def visitor() -> str | None:
    """Return the login of the request that is processed; None without logins, and outside of requests."""
    request = LocalContext.request.get(None)
    if isinstance(request, Request):  # Gradio does not look up the login of a call from `gr.HTML`
        return login_of(request)
    return getattr(request, "username", None) or _visiting.get()


@contextmanager
def visiting(login: str | None) -> Iterator[None]:
    """Process a request outside of Gradio's events as this login."""
    token = _visiting.set(login)
    try:
        yield
    finally:
        _visiting.reset(token)


def login_of(request: Request) -> str | None:
    """Return the login of a request to the server of a page; None if it has none."""
    app = request.app
    cookies = [request.cookies.get(f"access-token-{kind}{app.cookie_id}") for kind in ("", "unsecure-")]
    return next((app.tokens[cookie] for cookie in cookies if cookie in app.tokens), None)


@dataclass(frozen=True)
class Access:
    """The contents of a run's `access.json`. owner: a login; "": the machine's owner. shared: others may see it."""

    owner: str = ""
    shared: bool = False


def access_of(run: Run) -> Access:
    """Return who owns a run. If the file is damaged, the run belongs to the machine's owner."""
    with suppress(OSError, ValueError, TypeError):
        values = json.loads(read_plain(_path(run)))
        access = Access(**values)
        if isinstance(access.owner, str) and isinstance(access.shared, bool):
            return access
    return Access()


def has_access(run: Run) -> bool:
    """Return whether a run has a recorded owner."""
    return _path(run).exists()


def give_access(run: Run, access: Access) -> None:
    """Record who owns a run. Raises OSError."""
    write_atomically(_path(run), (json.dumps(asdict(access)) + "\n").encode())


def _path(run: Run) -> Path:
    return run.folder / "access.json"
