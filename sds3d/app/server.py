"""Serve the page: by default only to this machine, and only the page and copies of run files."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from gradio.blocks import Block, BlockFunction
from gradio.queueing import ProcessTime
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sds3d.app import uploads
from sds3d.app.guards import LimitBodies, SlowLogins
from sds3d.app.memory import return_freed_blocks
from sds3d.app.page import build_page
from sds3d.app.proxies import exempt_from_proxies
from sds3d.app.serving import routes
from sds3d.app.studio import Studio
from sds3d.app.theme import CSS, THEME
from sds3d.app.viewing import program
from sds3d.config import ConfigError
from sds3d.jobs.supervisor import keep_workers

THREADS = 16
"""Events that are processed at the same time."""
SESSIONS = 100
"""Visitors whose forms are remembered. A page that is reloaded gets a new one."""
RESPONSE = 0.02
"""Seconds between looks at the events that wait. Gradio looks a thousand times a second, 8 % of a core for nothing."""


def launch(
    runs: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    overrides: Sequence[str] = (),
    *,
    share: bool = False,
    auth: Sequence[str] = (),
    owner: str = "",
    block: bool = True,
) -> str:
    """Serve the page on `host`:`port` until interrupted. Runs continue when it ends.

    runs: the folder of run folders. overrides: KEY=VALUE on top of every preset. share: also a public address, through
    Gradio's servers. auth: USER:PASSWORD logins, required unless only this machine can reach the address. owner: the
    login that may set and see everything, as everybody may without logins. block: wait until interrupted.

    Return the address. Raises OSError if the port is in use, ConfigError if an override or a login is wrong.
    """
    users = [login(text) for text in auth]
    if (share or not is_local(host)) and not users:
        where = "a public address" if share else f"the address {host}"
        raise ConfigError(
            f"{where} without a password is open to everybody; give logins with --auth-file or SDS3D_AUTH"
        )
    if owner and owner not in dict(users):
        raise ConfigError(f'the owner "{owner}" is none of the logins')
    root = runs.resolve()
    root.mkdir(parents=True, exist_ok=True)
    uploads.sweep(root)
    # A local address with a password may be behind a proxy, so its visitors are not trusted.
    local = is_local(host) and not share and not users
    # Refuse other host names, against DNS rebinding: a foreign page whose name resolves to this machine.
    hosts = (
        [Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])] if local else []
    )
    exempt_from_proxies(host)
    return_freed_blocks()
    # Keep served copies with the runs, apart from those of other Gradio programs.
    os.environ["GRADIO_TEMP_DIR"] = str(root / ".served")
    # What Gradio remembers of past events and visitors is memory that load leaves behind.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    studio = Studio(root, tuple(overrides), local, frozenset(dict(users)), owner)
    page = build_page(studio)
    threading.Thread(target=keep_workers, args=(root,), daemon=True).start()
    page.queue(default_concurrency_limit=None)
    page._queue.process_time_per_fn = Durations()  # type: ignore[assignment]
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = RESPONSE
    page.temp_file_sets = Files(page.temp_file_sets)
    page.default_config.blocks = Widgets(page.default_config.blocks)
    try:
        _, address, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=users or None,
            app_kwargs={
                "routes": [program(), *routes(studio), *uploads.routes(studio)],
                "middleware": [
                    *hosts,
                    Middleware(LimitBodies, uploads=uploads.PLACE),
                    Middleware(SlowLogins),
                ],
            },
            max_threads=THREADS,
            state_session_capacity=SESSIONS,
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
        raise OSError(f"cannot serve on {host}:{port}; if the port is in use, choose another with --port") from error
    if block:
        print(f"the studio is at {public or address}  (Ctrl-C ends it; runs continue)", flush=True)
        page.block_thread()
    return address


class Durations(WeakKeyDictionary[BlockFunction, ProcessTime]):
    """How long events take. Gradio's own table would hold the events and forms of visitors who left."""

    def __getitem__(self, event: BlockFunction) -> ProcessTime:
        """Return what is known of an event, at first nothing."""
        return self.setdefault(event, ProcessTime())


class Files(list[set[str]]):
    """Files of the page's components, which Gradio deletes in time. Gradio adds the components of every form."""

    def append(self, files: set[str]) -> None:
        """Leave out the files of a component that is built for a visitor: the widgets of a form make none."""


class Widgets(dict[int, Block]):
    """Widgets by their number. Every visitor has a copy."""

    def __setitem__(self, number: int, widget: Block) -> None:
        """Keep a widget's number. Gradio builds an updated widget anew, and would keep each under a further number."""
        widget._id = number
        super().__setitem__(number, widget)


def login(text: str) -> tuple[str, str]:
    """Split USER:PASSWORD. Raises ConfigError, which does not repeat the text."""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ConfigError("a login must be USER:PASSWORD, neither of them empty")
    return user, password


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
