"""Serving the page: to this machine unless asked otherwise, and nothing but the page and files handed out."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sds3d.app.page import build_page
from sds3d.app.studio import Studio
from sds3d.app.theme import CSS, THEME
from sds3d.config import ConfigError
from sds3d.jobs.supervisor import keep_workers


def launch(
    runs: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    overrides: Sequence[str] = (),
    *,
    share: bool = False,
    auth: Sequence[str] = (),
    block: bool = True,
) -> str:
    """Serve the page on `host`:`port` until interrupted; runs that are going on then go on.

    runs: the folder of run folders; only files that the page hands out are served. overrides: KEY=VALUE laid over every
    preset. share: a public address through Gradio's servers. auth: USER:PASSWORD of those who may come, needed unless
    only this machine reaches the address. block: wait until interrupted.

    Returns the address. Raises OSError when the port is taken, ConfigError when an override or a login is wrong.
    """
    users = [login(text) for text in auth]
    if (share or not is_local(host)) and not users:
        where = "a public address" if share else f"the address {host}"
        raise ConfigError(f"{where} without a password lets anybody in: add --auth USER:PASSWORD")
    root = runs.resolve()
    root.mkdir(parents=True, exist_ok=True)
    # Behind a proxy this machine's address is everybody's: a password says so.
    local = is_local(host) and not share and not users
    # A page from elsewhere, whose name is made to mean this machine, shall not speak for who sits at it.
    hosts = (
        [Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])] if local else []
    )
    # What is handed out lies beside the runs, and not with what other programs of this machine hand out.
    os.environ["GRADIO_TEMP_DIR"] = str(root / ".served")
    page = build_page(Studio(root, tuple(overrides), local=local))
    threading.Thread(target=keep_workers, args=(root,), daemon=True).start()
    page.queue(default_concurrency_limit=None)
    try:
        _, address, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=users or None,
            app_kwargs={"middleware": [Middleware(NoUploads), *hosts]},
            theme=THEME,
            css=CSS,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise OSError(f"cannot serve on {host}:{port}: is it taken? choose another with --port") from error
    if block:
        print(f"the studio is at {public or address}  (Ctrl-C ends it; runs that are going on go on)", flush=True)
        page.block_thread()
    return address


class NoUploads:
    """Middleware that refuses files: the page takes none, and the server would keep whatever comes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the server's upload addresses with 403."""
        refused = scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload")
        await (PlainTextResponse("the studio takes no files", 403) if refused else self.app)(scope, receive, send)


def login(text: str) -> tuple[str, str]:
    """The user and the password of USER:PASSWORD. Raises ConfigError, which does not repeat what was given."""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ConfigError("--auth wants USER:PASSWORD, both of them not empty")
    return user, password


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
