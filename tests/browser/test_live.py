"""Runs watched in a real browser: they outlive page and server, and are queued, paused, resumed and cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sds3d.run.config import read_config
from sds3d.run.folder import Run, list_runs
from tests.browser.pages import generate, run_of, strip
from tests.browser.studio import Studio, wait_for

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.browser.pages import Visit

LONG = 9000  # steps; runs this long are cancelled


def test_a_run_outlives_its_page_and_its_server_pauses_and_is_cancelled(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    generate(page, "a blue chair", steps=LONG)
    running = page.locator("[data-status=running]")
    expect(running).to_contain_text(f"of {LONG}")
    expect(running).to_contain_text("s per step")
    expect(running).to_contain_text("left")
    run = run_of(page, studio)

    # The preview and the curves follow the run.
    page.locator("#preview .sds-views").wait_for()
    first = strip(page)
    assert "data:image/png" in first
    wait_for(lambda: strip(page) != first)
    expect(page.locator("#curves polyline").first).to_be_visible()

    # A second run is shown as queued. Visitors do not see each other's runs.
    other = visit()
    expect(other.get_by_text("Your object will take shape here.")).to_be_visible()
    assert other.locator("[data-status]").count() == 0
    generate(other, "an orange car", steps=LONG)
    expect(other.locator("[data-status=queued]")).to_contain_text("Waiting for its turn: 2nd in the queue")
    other.locator("#cancel").click()
    expect(other.locator("[data-status=cancelled]")).to_be_visible()

    # A reload finds the same run, still running, also after a restart of the server. The run continued meanwhile.
    before = len(run.events())
    studio.stop()
    wait_for(lambda: len(run.events()) > before)
    studio.start()
    page.reload()
    expect(page.locator("[data-status=running]")).to_be_visible()
    expect(page.locator("#prompt textarea")).to_have_value("a blue chair")
    expect(page.locator("#seed input")).to_have_value(str(read_config(run).seed))
    assert run_of(page, studio) == run

    # It pauses within a step, continues from there, and is cancelled within a step.
    page.locator("#pause").click()
    expect(page.locator("[data-status=paused]")).to_contain_text("Resume continues from there")
    paused = run.state
    assert (paused.status, paused.step) == ("paused", len(run.events()))
    page.locator("#resume").click()
    expect(page.locator("[data-status=running]")).to_be_visible()
    wait_for(lambda: len(run.events()) > paused.step + 1)
    events = run.events()  # the run goes on
    assert [event["step"] for event in events] == list(range(1, len(events) + 1))
    page.locator("#cancel").click()
    wait_for(lambda: run.requested() is not None or run.state.status == "cancelled")
    requested_at = len(run.events())
    expect(page.locator("[data-status=cancelled]")).to_be_visible()
    assert run.state.status == "cancelled"
    assert run.state.step == len(run.events()) <= requested_at + 1
    expect(page.locator("#cancel")).to_have_count(0)


def test_a_page_follows_a_run_that_another_visitor_pauses_and_resumes(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    generate(page, "a red chair", steps=LONG)
    expect(page.locator("[data-status=running]")).to_be_visible()
    page.locator("#pause").click()
    expect(page.locator("[data-status=paused]")).to_be_visible()
    other = visit(f"?run={run_of(page, studio).folder.name}")
    expect(other.locator("[data-status=paused]")).to_be_visible()
    expect(other.locator("#resume")).to_be_visible()
    page.locator("#resume").click()
    expect(other.locator("[data-status=running]")).to_be_visible()
    expect(other.locator("#pause")).to_be_visible()
    expect(other.locator("#resume")).to_have_count(0)
    # From then on both pages follow the run.
    step = "document.querySelector('[data-step]').dataset.step"
    before = other.evaluate(step)
    other.wait_for_function(f"{step} !== '{before}'")
    other.locator("#cancel").click()
    for each in (page, other):
        expect(each.locator("[data-status=cancelled]")).to_be_visible()


def test_a_run_whose_process_was_killed_continues_when_it_is_opened(visit: Visit, expect: Any, studio: Studio):
    run = studio.put("a yellow duck", status="running", step=2)
    studio.end_workers()
    page = visit(f"?run={run.folder.name}")
    expect(page.locator("[data-status=done]")).to_be_visible()
    assert run.state.status == "done"


def test_simultaneous_visitors_share_a_run_or_get_two(visit: Visit, expect: Any, studio: Studio):
    runs = len(list_runs(studio.runs))
    pages = [visit(), visit(), visit()]
    for page, seed in zip(pages, (71, 71, 72), strict=True):
        page.locator("#prompt textarea").fill("a green hat")
        page.locator("#seed input").fill(str(seed))
        page.locator("#seed input").press("Tab")
    for page in pages:
        page.locator("#generate").dblclick()  # a double click starts no second run
    for page in pages:
        page.wait_for_url("**run=*")
    one, same, other = (run_of(page, studio) for page in pages)
    assert one == same != other
    assert len(list_runs(studio.runs)) == runs + 2
    for page in pages:
        expect(page.locator("[data-status=done]")).to_be_visible()
    # Prompts that differ only in punctuation are different runs.
    generate(pages[0], "a green hat!", seed=71)
    pages[0].wait_for_function("name => !window.location.search.includes(name)", arg=one.folder.name)
    marked = run_of(pages[0], studio)
    assert marked != one
    assert read_config(marked).prompt == "a green hat!"
    expect(pages[0].locator("[data-status=done]")).to_contain_text("a green hat!")


def test_a_prompt_is_shown_as_text_everywhere(visit: Visit, expect: Any, studio: Studio):
    prompt = "<img src=x onerror=window.hacked=1> ${window.hacked=1} {{window.hacked=1}} 'dragon\" ../../x"
    run = studio.put(prompt, status="failed", error=f"no {prompt}", step=3)
    page = visit(f"?run={run.folder.name}")
    expect(page.locator("#message [role=alert]")).to_have_text(f"The run failed: no {prompt}")
    expect(page.locator("[data-status=failed]")).to_contain_text("Failed at step 3 of 4")
    expect(page.locator("#prompt textarea")).to_have_value(prompt)
    page.get_by_role("tab", name="Library").click()
    expect(page.locator(f".sds-card[data-run='{run.folder.name}'] b")).to_have_text(prompt)
    page.locator(f".sds-card[data-run='{run.folder.name}'] [data-action=compare]").click()
    expect(page.locator("#side-by-side")).to_contain_text(prompt)
    run.update(status="done")
    page = visit(f"?run={run.folder.name}")
    expect(page.locator("[data-status=done]")).to_contain_text(prompt)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "<script>"])  # more names: test_api.py
def test_an_address_opens_only_runs(name: str, visit: Visit, expect: Any):
    page = visit(f"?run={name}")
    expect(page.locator("#message [role=alert]")).to_contain_text("no run of that name")


def test_a_damaged_run_is_reported_and_breaks_nothing(visit: Visit, expect: Any, studio: Studio):
    run = Run(studio.put("a white cat").folder)
    (run.folder / "state.json").write_text("{")
    page = visit(f"?run={run.folder.name}")
    expect(page.locator("#message [role=alert]")).to_contain_text("is damaged")
    page.get_by_role("tab", name="Library").click()
    expect(page.locator(f".sds-card[data-run='{run.folder.name}']")).to_contain_text("damaged")
