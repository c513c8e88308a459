"""The page "Create" in a real browser: first visit, a whole generation, reload, cancel, errors."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import trimesh
from PIL import Image

from sds3d.run_config import make_config, new_run, read_config
from sds3d.runs import Run, list_runs
from tests.browser.studio import ROOT, Studio, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

    Visit = Callable[..., Page]

EXAMPLES = ["a red mug", "a blue chair", "a white snowman with a green hat", "a yellow duck", "an orange car"]


def run_of(page: Page, studio: Studio) -> Run:
    """The run in the page's address."""
    return Run(studio.runs / parse_qs(urlparse(page.url).query)["run"][0])


def generate(page: Page, prompt: str, steps: int | None = None) -> None:
    """Fill in the form and press Generate; returns when the run is in the address."""
    page.get_by_label("Prompt").fill(prompt)
    if steps is not None:
        page.get_by_role("button", name="Advanced").click()
        page.get_by_label("number input for Steps").fill(str(steps))
        page.get_by_label("number input for Steps").press("Tab")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_url("**run=*")


def alert(page: Page) -> str:
    """The error that the page shows."""
    return page.get_by_role("alert").inner_text()


def strip(page: Page) -> str:
    """The preview picture on the page, as a data URL."""
    return page.locator(".sds-views").evaluate("element => element.style.getPropertyValue('--strip')")


def overflows(page: Page) -> bool:
    """Whether the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_visit_shows_what_to_do(width: int, visit: Visit, expect: Any):
    page = visit(width=width)
    expect(page.get_by_role("heading", name="sds3d")).to_be_visible()
    expect(page.get_by_role("tab", name="Create")).to_be_visible()
    expect(page.get_by_label("Prompt")).to_have_attribute("placeholder", "a red mug")
    for example in EXAMPLES:
        expect(page.get_by_role("button", name=example, exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    page.get_by_role("button", name=EXAMPLES[2]).click()
    expect(page.get_by_label("Prompt")).to_have_value(EXAMPLES[2])
    assert not overflows(page)


def test_a_generation_ends_in_a_mesh_to_look_at_and_to_take_away(
    visit: Visit, expect: Any, studio: Studio, tmp_path: Path
):
    page = visit()
    generate(page, "a red mug")
    expect(page.locator("[data-status=starting]")).to_contain_text("a red mug")
    expect(page.locator("[data-status=done]")).to_contain_text("Finished: a red mug")
    run = run_of(page, studio)
    assert run.state.status == "done"
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()

    # The viewer shows the object: its picture is not one colour.
    canvas = page.locator("#model canvas")
    wait_for(lambda: n_colors(canvas.screenshot()) > 50)
    # The turntable plays.
    page.wait_for_function("document.querySelector('#video video').readyState >= 2")
    # Every export can be downloaded; the GLB is the one in the run folder.
    links = page.locator("#files a")
    expect(links).to_have_count(12)
    names = [links.nth(i).get_attribute("download") for i in range(12)]
    assert set(names) == {path.name for path in run.exports.iterdir()}
    with page.expect_download() as download:
        links.nth(names.index("a-red-mug.glb")).click()
    download.value.save_as(tmp_path / "mug.glb")
    assert (tmp_path / "mug.glb").read_bytes() == (run.exports / "a-red-mug.glb").read_bytes()
    mesh = trimesh.load_mesh(tmp_path / "mug.glb")
    assert len(mesh.faces) > 100

    # The same settings again show it at once.
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".sds-note")).to_contain_text("Made before")
    expect(page.locator("[data-status=done]")).to_be_visible()
    expect(links).to_have_count(12)

    # Its address opens it again, on a phone too.
    phone = visit(f"?run={run.folder.name}", width=390)
    expect(phone.locator("[data-status=done]")).to_be_visible()
    expect(phone.get_by_label("Prompt")).to_have_value("a red mug")
    expect(phone.locator("#files a")).to_have_count(12)
    assert not overflows(phone)


def n_colors(png: bytes) -> int:
    return len(np.unique(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3), axis=0))


def test_a_run_outlives_its_page_and_is_cancelled_within_a_step(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    generate(page, "a blue chair", steps=9000)
    expect(page.locator("[data-status=running]")).to_contain_text("of 9000")
    expect(page.locator("[data-status=running]")).to_contain_text("s per step")
    run = run_of(page, studio)

    # The preview follows the run.
    page.locator(".sds-views").wait_for()
    first = strip(page)
    assert first.startswith('url("data:image/png') or first.startswith("url(data:image/png")
    wait_for(lambda: strip(page) != first)

    # A reload finds the same run, still going on; nobody else sees it.
    before = len(run.events())
    page.reload()
    expect(page.locator("[data-status=running]")).to_be_visible()
    expect(page.get_by_label("Prompt")).to_have_value("a blue chair")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(read_config(run).seed))
    expect(page.locator("#video")).to_be_hidden()
    assert run_of(page, studio) == run
    wait_for(lambda: len(run.events()) > before)
    other = visit()
    expect(other.get_by_text("Your object will take shape here.")).to_be_visible()
    assert other.locator("[data-status]").count() == 0

    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    page.get_by_role("button", name="Cancel").click()
    wait_for(lambda: run.requested() is not None or run.state.status == "cancelled")
    asked = len(run.events())
    expect(page.locator("[data-status=cancelled]")).to_contain_text("Generate goes on from there")
    assert run.state.status == "cancelled"
    assert run.state.step == len(run.events()) <= asked + 1
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()


def test_what_cannot_be_done_is_said_kindly(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    runs = len(list_runs(studio.runs))
    press = page.get_by_role("button", name="Generate").click
    press()
    expect(page.get_by_role("alert")).to_contain_text("The prompt is empty")
    page.get_by_label("Prompt").fill("a red mug " * 101)
    press()
    expect(page.get_by_role("alert")).to_contain_text("shorten it to 1000 or fewer")
    page.get_by_label("Prompt").fill("a red mug")
    page.get_by_label("Seed", exact=True).fill("-3")
    press()
    expect(page.get_by_role("alert")).to_contain_text("seed must be a whole number from 0")
    assert len(list_runs(studio.runs)) == runs
    assert "run=" not in page.url


def test_a_prompt_is_text_wherever_it_is_shown(visit: Visit, expect: Any, studio: Studio):
    prompt = "<img src=x onerror=window.hacked=1> ${window.hacked=1} {{window.hacked=1}} 'dragon\""
    run = new_run(studio.runs, make_config(prompt, overrides=["steps=7"]))
    run.update(status="failed", error=f"no {prompt}", step=3, total=7)
    page = visit(f"?run={run.folder.name}")
    expect(page.get_by_role("alert")).to_have_text(f"The run failed: no {prompt}")
    expect(page.locator("[data-status=failed]")).to_contain_text("Failed at step 3 of 7")
    expect(page.get_by_label("Prompt")).to_have_value(prompt)
    run.update(status="done")
    page = visit(f"?run={run.folder.name}")
    expect(page.locator("[data-status=done]")).to_contain_text(prompt)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".sds-progress img, .sds-note img").count() == 0


def test_unknown_words_are_named_before_anything_starts(visit: Visit, expect: Any):
    page = visit()
    page.get_by_label("Prompt").fill("a red dragon with a green hat")
    expect(page.locator(".sds-note")).to_contain_text("does not know the word “dragon”")
    expect(page.locator(".sds-note")).to_contain_text("mug, chair, snowman")
    page.get_by_label("Prompt").fill("a red mug")
    expect(page.locator(".sds-note")).to_have_count(0)


def test_a_run_whose_process_was_killed_can_go_on(visit: Visit, expect: Any, studio: Studio):
    run = new_run(studio.runs, make_config("a yellow duck", overrides=studio.overrides))
    run.update(status="running", step=2, total=4)
    page = visit(f"?run={run.folder.name}")
    expect(page.locator("[data-status=stopped]")).to_contain_text("Stopped at step 2 of 4")
    expect(page.get_by_role("alert")).to_have_text("The run stopped: its process is gone")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()


@pytest.mark.parametrize("name", ["../runs", "a%00b", "no-such-run"])
def test_an_address_opens_runs_only(name: str, visit: Visit, expect: Any):
    page = visit(f"?run={name}")
    expect(page.get_by_role("alert")).to_contain_text("no run of that name")


def test_files_outside_the_runs_are_not_served(studio: Studio):
    for path in (ROOT / "pyproject.toml", Path("/etc/hostname"), studio.runs / "../server.log"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{studio.url}/gradio_api/file={path}")
