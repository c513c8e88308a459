"""Proxies that the environment names must not stand between the studio and this machine."""

from __future__ import annotations

import os
from urllib.request import getproxies

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def exempt_from_proxies(host: str) -> None:
    """Let this process and those that it starts reach this machine and `host` without a proxy.

    When the studio starts, Gradio asks it for its page. Libraries differ in which of the two variables they read.
    """
    before = [name for name in getproxies().get("no", "").split(",") if name.strip()]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*before, *LOOPBACK, host]))
