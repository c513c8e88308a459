"""What requests may cost: middleware that limits bodies and wrong passwords."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = 1_000_000
"""Bytes of a request, unless it is an upload. A form with the longest prompt and all settings has a twentieth."""
UPLOAD = 64_000_000
"""Bytes of an upload."""
DELAY = 1.0
"""Seconds that a wrong password takes. The next attempt from the same address waits for this time."""
ATTEMPTS = 10
"""Attempts from an address that may wait at the same time."""


class LimitBodies:
    """Middleware that refuses requests with large bodies, which the server would hold in memory or on the disk.

    uploads: address of the studio's own uploads. Gradio's are refused: others could read them, and the page has none.
    """

    def __init__(self, app: ASGIApp, uploads: str) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests that are too large with 413, and uploads to Gradio with 403."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].rstrip("/")
        if path.endswith("/upload"):
            return await _refuse(403, "the studio takes no uploads here")(scope, receive, send)
        most = UPLOAD if path.endswith(f"/{self.uploads}") else BODY
        refuse = _refuse(413, f"the request is too large; {most // 1_000_000} MB are the limit")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            return await refuse(scope, receive, send)
        taken, started = 0, False

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return {"type": "http.disconnect"} if taken > most else message

        async def answer(message: Message) -> None:
            nonlocal started
            if taken <= most or started:
                started = True
                await send(message)

        try:
            await self.app(scope, limited, answer)
        except Exception:
            if taken <= most:  # otherwise the application would see a disconnected client
                raise
        if taken > most and not started:
            await refuse(scope, receive, send)


class SlowLogins:
    """Middleware that makes guessing passwords slow: one wrong attempt per address and second."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.waiting: Counter[str] = Counter()
        self.gates: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Delay wrong passwords; answer 429 if too many attempts from an address wait."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/login"):
            return await self.app(scope, receive, send)
        address = (scope.get("client") or ("",))[0]
        if self.waiting[address] >= ATTEMPTS:
            return await _refuse(429, "too many attempts; try again in a minute")(scope, receive, send)

        async def slowed(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await asyncio.sleep(DELAY)
            await send(message)

        self.waiting[address] += 1
        try:
            async with self.gates[address]:
                await self.app(scope, receive, slowed)
        finally:
            self.waiting[address] -= 1
            if not self.waiting[address]:
                del self.waiting[address], self.gates[address]


def _refuse(status: int, why: str) -> ASGIApp:
    return PlainTextResponse(why, status)
