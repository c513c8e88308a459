"""A visitor of the studio without a browser: it sends what the page's program sends, and reads what that reads.

Gradio's page is a table of components and of events with their inputs and outputs. A visitor holds the values of the
components, fires events of the table, and takes over the values that come back.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

API = "/gradio_api"
PATIENCE = 60.0
"""Seconds after which an answer counts as an error."""
LOOKS = 0.2
"""Seconds between two questions of the live view while it is turned."""
WAITS = 45.0
"""Seconds that a visitor waits for a run before cancelling it."""
ENDED = ("done", "failed", "cancelled", "paused")


class VisitError(Exception):
    """The studio answered with an error."""


@dataclass
class Diary:
    """What visitors noted. seconds: of every answer, by what was asked for. errors: one line each."""

    visits: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@dataclass
class Page:
    """An open page: the events of its table, and the values of its components by their number."""

    client: httpx.AsyncClient
    diary: Diary
    session: str
    ids: dict[str, int]
    values: dict[int, Any]
    events: list[dict[str, Any]]
    programs: set[str]
    """Addresses of the scripts that the page imports."""

    def event(self, elem_id: str, name: str) -> dict[str, Any]:
        """Return the last event of this name of a component that the server processes; forms are built again.

        Raises VisitError if there is none.
        """
        wanted = [self.ids.get(elem_id), name]
        for event in reversed(self.events):
            if wanted in event["targets"] and event["backend_fn"]:
                return event
        raise VisitError(f"the page has no event {name} of {elem_id}")

    def value(self, elem_id: str) -> Any:
        """Return the value of a component."""
        return self.values[self.ids[elem_id]]

    async def fire(self, what: str, event: dict[str, Any], data: dict[str, Any] | None = None) -> None:
        """Send an event, and take over the values that come back. Raises VisitError, also for an alert on the page."""
        asked = {
            "fn_index": event["id"],
            "session_hash": self.session,
            "trigger_id": event["targets"][0][0] if event["targets"] else None,
            "event_data": data,
            "data": [self.values.get(number) for number in event["inputs"]],
        }
        with timed(self.diary, what):
            joined = await self.client.post(f"{API}/queue/join", json=asked)
            joined.raise_for_status()
            output = await self._answer(joined.json()["event_id"])
        for number, value in zip(event["outputs"], output.get("data", []), strict=False):
            if isinstance(value, dict) and value.get("__type__") == "update":
                if "value" in value:
                    self.values[number] = value["value"]
            else:
                self.values[number] = value
        if rendered := output.get("render_config"):
            self.read(rendered)
        if 'role="alert"' in (text := str(output.get("data"))):
            raise VisitError(f"{what}: {re.sub('<[^>]+>', ' ', text[text.index('alert') + 7 :])[:200].strip()}")

    async def _answer(self, event: str) -> dict[str, Any]:
        """Return the output of an event from the stream of answers."""
        async with self.client.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as answers:
            answers.raise_for_status()
            async for line in answers.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] == "process_completed" and message.get("event_id") == event:
                    if not message["success"]:
                        raise VisitError(str(message["output"].get("error")))
                    return message["output"]
        raise VisitError("the stream of answers ended without the answer")

    async def look(self, run: str, seen: str, azimuth: float) -> str:
        """Ask for a picture of a run that is under way. Return when it was drawn, or `seen` if it is no newer."""
        view = {"run": run, "visitor": self.session, "seen": seen, "azimuth": azimuth, "elevation": 20, "distance": 2}
        asked = {"data": view, "component_id": self.ids["live"], "fn_name": "look", "session_hash": self.session}
        with timed(self.diary, "live view"):
            answer = await self.client.post(f"{API}/component_server", json=asked)
            answer.raise_for_status()
        return answer.json()["seen"] or seen

    async def get(self, what: str, address: str) -> bytes:
        """Return what an address holds."""
        with timed(self.diary, what):
            answer = await self.client.get(address)
            answer.raise_for_status()
        return answer.content

    def read(self, config: dict[str, Any]) -> None:
        """Take over the components and events of a page, or of a part that was built again."""
        for component in config["components"]:
            self.values[component["id"]] = component["props"].get("value")
            self.programs |= set(re.findall(r"viewer/[0-9a-f]{16}\.js", str(component["props"].get("js_on_load"))))
            if name := component["props"].get("elem_id"):
                self.ids[name] = component["id"]
            if component["type"] == "tabitem":
                self.ids[f"tab {component['props']['id']}"] = component["id"]
        self.events += config["dependencies"]


@contextmanager
def timed(diary: Diary, what: str) -> Iterator[None]:
    """Note the seconds of an answer."""
    began = time.perf_counter()
    yield
    diary.seconds.setdefault(what, []).append(time.perf_counter() - began)


@contextmanager
def noted(diary: Diary) -> Iterator[None]:
    """Note an error instead of raising it."""
    try:
        yield
    except (VisitError, httpx.HTTPError) as error:
        diary.errors.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


@asynccontextmanager
async def opened(url: str, diary: Diary) -> AsyncIterator[Page]:
    """Open the page, with the connection by which the server knows that the visitor is there."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        page = Page(client, diary, secrets.token_hex(6), {}, {}, [], set())
        await page.get("page", "/")
        page.read(json.loads(await page.get("table of the page", "/config")))
        staying = asyncio.create_task(_stay(page))
        try:
            for event in page.events:  # the list grows while the form is built
                if event["backend_fn"] and any(name == "load" for _, name in event["targets"]):
                    await page.fire("first values", event)
            yield page
        finally:
            staying.cancel()
            await asyncio.gather(staying, return_exceptions=True)


async def _stay(page: Page) -> None:
    async with page.client.stream("GET", f"{API}/heartbeat/{page.session}", timeout=None) as beats:
        async for _ in beats.aiter_bytes():
            pass


async def visit(url: str, number: int, mesh: bytes, diary: Diary) -> None:
    """Visit the studio: look around, bring a mesh, start a run, turn it while it is made, take its files, leave.

    number: decides the prompt and the seed. Every third visitor cancels the run. mesh: a binary .stl file.
    """
    dice = random.Random(number)
    with noted(diary):
        async with opened(url, diary) as page:
            await _look_around(page)
            await _bring(page, mesh)
            await _make(page, dice, cancels=number % 3 == 2)
    diary.visits += 1


async def _look_around(page: Page) -> None:
    """Fetch the viewer, and turn to every tab."""
    for address in page.programs:
        await page.get("viewer", f"/{address}")
    for tab in ("library", "compare", "system", "create"):
        await page.fire(f"tab {tab}", page.event(f"tab {tab}", "select"))


async def _bring(page: Page, mesh: bytes) -> None:
    """Upload a mesh, see it, and start without it."""
    with timed(page.diary, "upload"):
        answer = await page.client.post("/uploads", content=mesh, headers={"x-file-name": "visitor.stl"})
        answer.raise_for_status()
    await page.fire("the mesh in pictures", page.event("own-file", "select"), {"token": answer.text})
    await page.fire("without the mesh", page.event("own-remove", "click"))


async def _make(page: Page, dice: random.Random, cancels: bool) -> None:
    """Start a run, turn it while it is made, and take its files or cancel it."""
    thing = dice.choice(("mug", "chair", "duck", "car", "boat"))
    page.values[page.ids["prompt"]] = f"a {dice.choice(('red', 'blue', 'green', 'yellow'))} {thing}"
    page.values[page.ids["seed"]] = dice.randrange(2**31)
    await page.fire("start", page.event("generate", "click"))
    run, began, seen, azimuth = page.value("run"), time.monotonic(), "", dice.uniform(0, 360)
    if not run:
        raise VisitError("no run was started")
    ticks = [event for event in page.events if any(name == "tick" for _, name in event["targets"])]
    (tick,) = (event for event in ticks if page.ids["run"] in event["inputs"])
    while True:
        await page.fire("progress", tick)
        found = re.search(r'data-status="(\w+)"', str(page.value("status")))
        status = found[1] if found else ""
        if status in ENDED:
            break
        waited = time.monotonic() - began
        if waited > WAITS or (cancels and seen):
            await page.fire("cancel", page.event("cancel", "click"))
            return
        for _ in range(5):
            azimuth += dice.uniform(-30, 30)
            if status == "running":
                seen = await page.look(run, seen, azimuth)
            await asyncio.sleep(LOOKS)
    if status != "done":
        raise VisitError(f"the run {status}")
    addresses = sorted(set(re.findall(r"files/[\w.%/-]+\.\w+", json.dumps(page.values, default=str))))
    if not addresses:
        raise VisitError("a finished run has no files")
    for address in addresses:
        await page.get("file of a run", f"/{address}")
