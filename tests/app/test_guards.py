"""What requests may cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from sds3d.app import guards
from sds3d.app.guards import ATTEMPTS, BODY, UPLOAD, LimitBodies, SlowLogins

MOST_SEEN: list[int] = []


async def take(request: Request) -> Response:
    taken = 0
    async for part in request.stream():
        taken += len(part)
        MOST_SEEN.append(taken)
    return PlainTextResponse(str(taken))


async def login(request: Request) -> Response:
    return PlainTextResponse("", 200 if (await request.body()) == b"right" else 400)


@pytest.fixture
def client() -> Iterator[TestClient]:
    MOST_SEEN.clear()
    paths = {"/queue/join": take, "/uploads": take, "/gradio_api/upload": take, "/login": login}
    routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in paths.items()]
    app = Starlette(routes=routes, middleware=[Middleware(LimitBodies, uploads="uploads"), Middleware(SlowLogins)])
    with TestClient(app) as client:
        yield client


def parts(size: int) -> Iterator[bytes]:
    """A body without a declared length."""
    for _ in range(size // 1000):
        yield bytes(1000)


def test_bodies_end_at_the_limit(client: TestClient):
    assert client.post("/queue/join", content=bytes(BODY)).text == str(BODY)
    refused = client.post("/queue/join", content=bytes(BODY + 1))
    assert (refused.status_code, refused.text) == (413, "the request is too large; 1 MB are the limit")
    MOST_SEEN.clear()
    lied = client.post("/queue/join", content=bytes(5), headers={"Content-Length": "nonsense"})
    assert (lied.status_code, MOST_SEEN) == (413, [])


def test_bodies_of_unknown_length_end_at_the_limit(client: TestClient):
    assert client.post("/queue/join", content=parts(BODY)).text == str(BODY)
    MOST_SEEN.clear()
    assert client.post("/queue/join", content=parts(BODY + 1000)).status_code == 413
    assert max(MOST_SEEN, default=0) <= BODY


def test_uploads_may_be_larger_and_those_to_gradio_are_refused(client: TestClient):
    assert client.post("/uploads", content=bytes(BODY + 1)).text == str(BODY + 1)
    assert client.post("/uploads", content=b"", headers={"Content-Length": str(UPLOAD + 1)}).status_code == 413
    MOST_SEEN.clear()
    for path in ("/gradio_api/upload", "/gradio_api/upload/", "/prefix/gradio_api/upload"):
        assert client.post(path, content=b"x").status_code == 403
    assert MOST_SEEN == []


def test_wrong_passwords_wait_for_each_other_and_right_ones_do_not(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guards, "DELAY", 0.1)
    answers: list[int] = []

    def guess() -> None:
        answers.append(client.post("/login", content=b"wrong").status_code)

    began = time.monotonic()
    guesses = [threading.Thread(target=guess) for _ in range(ATTEMPTS + 5)]
    for thread in guesses:
        thread.start()
    for thread in guesses:
        thread.join()
    assert set(answers) <= {400, 429}
    assert answers.count(400) >= ATTEMPTS
    assert time.monotonic() - began >= 0.1 * answers.count(400)
    monkeypatch.setattr(guards, "DELAY", 60.0)
    assert client.post("/login", content=b"right").status_code == 200
