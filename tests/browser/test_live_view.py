"""The live view of a run in a real browser: its pictures follow the run and the camera of each visitor."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from gradio_client import Client
from PIL import Image

from sds3d.app.visitors import Access, give_access
from sds3d.run import live
from tests.browser.pages import generate, overflows, run_of
from tests.browser.studio import Studio, wait_for

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.pages import Visit


def picture(page: Page) -> np.ndarray[Any, Any]:
    """The picture that the page shows."""
    address = str(page.locator("#live img").get_attribute("src"))
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))), np.float32)


def stamp(surface: Locator) -> str:
    return str(surface.get_attribute("data-shown"))


def test_a_run_can_be_looked_at_from_all_sides_while_it_runs(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    expect(page.locator("#live .sv")).to_be_hidden()
    generate(page, "a red chair", seed=3, steps=9000)
    run = run_of(page, studio)
    surface = page.locator(f"#live .sv-surface[data-run='{run.folder.name}']")
    surface.scroll_into_view_if_needed()
    expect(page.locator("#live img")).to_be_visible()
    assert not overflows(page)
    # It follows the run.
    first = stamp(surface)
    wait_for(lambda: stamp(surface) != first)
    # It follows the camera: what is asked for is what the page says.
    place = surface.bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y + 40, steps=6)
    page.mouse.up()

    def asked() -> list[live.View]:
        return [live.View.of(json.loads(path.read_text())) for path in (run.folder / "live").glob("*.json")]

    wait_for(lambda: len(asked()) == 1 and 60 < asked()[0].azimuth < 300 and asked()[0].elevation > 20)
    turned = stamp(surface)
    wait_for(lambda: stamp(surface) != turned)
    # Another visitor has a view of one's own, by keyboard, on a narrow page.
    other = visit(f"?run={run.folder.name}", width=390)
    theirs = other.locator(f"#live .sv-surface[data-run='{run.folder.name}']")
    theirs.focus()
    expect(other.locator("#live img")).to_be_visible()
    assert not overflows(other)
    for _ in range(7):
        other.keyboard.press("ArrowUp")
    wait_for(lambda: sorted(round(view.elevation) for view in asked())[-1] >= 85 and len(asked()) == 2)
    wait_for(lambda: np.abs(picture(other)[:64, :64] - picture(page)[:64, :64]).mean() > 1)
    other.locator("#live").get_by_role("button", name="Reset the view").click()
    wait_for(lambda: any(abs(view.azimuth - 35) < 1 and abs(view.elevation - 20) < 1 for view in asked()))
    # When it stops, the view goes away and nothing is left over.
    page.locator("#cancel").click()
    expect(page.locator("[data-status=cancelled]")).to_be_visible()
    expect(page.locator("#live .sv")).to_be_hidden()
    wait_for(lambda: not (run.folder / "live").exists())


def look(studio: Studio, component: int, cookies: dict[str, str], run: str) -> str:
    """Ask the server for a picture of a run, as the page does. Return its address, or the status of a refusal."""
    given = {"run": run, "visitor": "../../x", "seen": "", "azimuth": 0, "elevation": 0, "distance": 2}
    asked = {"data": given, "component_id": component, "fn_name": "look", "session_hash": "abc"}
    cookie = "; ".join(f"{key}={value}" for key, value in cookies.items())
    headers = {"Cookie": cookie, "Content-Type": "application/json"}
    request = Request(f"{studio.url}/gradio_api/component_server", json.dumps(asked).encode(), headers)
    try:
        with urlopen(request) as answer:
            return json.loads(answer.read())["picture"]
    except HTTPError as error:
        return str(error.code)


def test_pictures_are_of_runs_that_the_visitor_may_see(guarded: Studio):
    ada, bob = (Client(guarded.url, auth=login, verbose=False) for login in (("ada", "love:lace"), ("bob", "2")))
    (view,) = (each["id"] for each in ada.config["components"] if each["props"].get("elem_id") == "live")
    run = guarded.put("a purple mug", status="running")
    give_access(run, Access("ada"))
    (run.folder / "live").mkdir()
    (run.folder / "live" / f"{hashlib.sha256(b'../../x').hexdigest()[:16]}.jpg").write_bytes(b"picture")
    mine = "data:image/jpeg;base64,cGljdHVyZQ=="
    with run.locked():  # like a running process
        pictures = [look(guarded, view, ada.cookies, name) for name in (run.folder.name, "../runs", "/etc")]
        assert pictures == [mine, "", ""]
        assert look(guarded, view, bob.cookies, run.folder.name) == ""
        assert look(guarded, view, {}, run.folder.name) == "401"
    ada.close()
    bob.close()
