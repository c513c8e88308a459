"""The "Library" and "Compare" tabs in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trimesh

from sds3d.run.config import read_config
from sds3d.run.folder import Run, list_runs
from tests.browser.pages import overflows, run_of, turn_to
from tests.browser.studio import Studio, wait_for

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.browser.pages import Visit


def card(page: Any, run: Run) -> Any:
    return page.locator(f".sds-card[data-run='{run.folder.name}']")


def test_the_library_finds_opens_repeats_and_deletes_runs(visit: Visit, expect: Any, studio: Studio):
    cancelled = studio.put("a purple boat", "seed=12", "optimizer.warmup=3")
    paused = studio.put("a purple table", status="paused", step=2)
    going = studio.put("a purple cat", status="running", step=1)
    with going.locked():  # like a running process; the studio resumes runs that have lost theirs
        page = visit()
        turn_to(page, "Library")
        page.locator("#search textarea, #search input").fill("PURPLE")
        expect(page.locator(".sds-card")).to_have_count(3)
        expect(card(page, cancelled)).to_contain_text("mesh · seed 12 · optimizer.warmup=3")
        page.locator("#search textarea, #search input").fill("purple warmup=3")
        expect(page.locator(".sds-card")).to_have_count(1)
        page.locator("#search textarea, #search input").fill("purple")
        page.locator("#state-filter input").click()
        page.get_by_role("option", name="Paused", exact=True).click()
        expect(page.locator(".sds-card")).to_have_count(1)
        expect(card(page, paused)).to_be_visible()
        page.locator("#state-filter input").click()
        page.get_by_role("option", name="All", exact=True).click()
        expect(page.locator(".sds-card")).to_have_count(3)
        # A running run cannot be deleted.
        expect(card(page, going).locator("[data-action=delete]")).to_have_count(0)
        expect(card(page, going).locator("[data-action=cancel]")).to_be_visible()
        assert not overflows(page)

    # Deleting asks first.
    questions: list[str] = []
    page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.dismiss()))
    card(page, paused).locator("[data-action=delete]").click()
    wait_for(lambda: questions)
    assert "a purple table" in questions[0]
    assert paused.config_path.exists()
    page.once("dialog", lambda dialog: dialog.accept())
    card(page, paused).locator("[data-action=delete]").click()
    expect(card(page, paused)).to_have_count(0)
    assert not paused.folder.exists()
    assert cancelled.config_path.exists()

    # Opening shows the run, and a new seed makes another run.
    card(page, cancelled).locator(".actions [data-action=open]").click()
    page.wait_for_url(f"**run={cancelled.folder.name}*")
    expect(page.locator("[data-status=cancelled]")).to_be_visible()
    expect(page.locator("#seed input")).to_have_value("12")
    turn_to(page, "Library")
    card(page, cancelled).locator("[data-action=again]").click()
    page.wait_for_function("name => !window.location.search.includes(name)", arg=cancelled.folder.name)
    again = read_config(run_of(page, studio))
    assert again.seed != 12
    assert again.model_copy(update={"seed": 12}) == read_config(cancelled)


def test_served_files_are_gone_when_their_run_is_deleted(visit: Visit, expect: Any, studio: Studio):
    run = studio.put("a grey hat", status="done", step=4)
    run.exports.mkdir(exist_ok=True)
    trimesh.creation.icosphere(radius=0.3).export(run.exports / "a-grey-hat.glb")
    page = visit(f"?run={run.folder.name}")
    link = page.locator("#files a")
    expect(link).to_have_count(1)
    address = link.get_attribute("href")
    assert address
    address = f"{studio.url}/{address}"
    assert page.request.get(address).status == 200
    turn_to(page, "Library")
    page.once("dialog", lambda dialog: dialog.accept())
    card(page, run).locator("[data-action=delete]").click()
    expect(card(page, run)).to_have_count(0)
    assert page.request.get(address).status == 404


def test_runs_are_compared_side_by_side(visit: Visit, expect: Any, studio: Studio):
    one, two = studio.put("a green duck", "seed=31"), studio.put("a green duck", "seed=32", "guidance.scale=3")
    page = visit()
    for run in (one, two):
        turn_to(page, "Library")
        card(page, run).locator("[data-action=compare]").click()
        expect(page.locator(f"#side-by-side article[data-run='{run.folder.name}']")).to_be_visible()
    expect(page.locator("#side-by-side article")).to_have_count(2)
    rows = page.locator("#side-by-side tr:not(.pictures)")
    expect(rows.filter(has_text="guidance.scale")).to_contain_text("3")
    expect(rows.filter(has_text="seed")).to_contain_text("31")
    expect(rows.filter(has_text="optimizer")).to_have_count(0)
    for run in (one, two):  # the title is the prompt, with the differing settings below it
        expect(page.locator(f"#side-by-side article[data-run='{run.folder.name}'] b")).to_have_text("a green duck")
    expect(page.locator("#side-by-side article .about").last).to_contain_text("seed 32 · guidance.scale=3")
    # On a phone the table scrolls and breaks no words.
    phone = visit(width=390)
    for run in (one, two):
        turn_to(phone, "Library")
        card(phone, run).locator("[data-action=compare]").click()
        expect(phone.locator(f"#side-by-side article[data-run='{run.folder.name}']")).to_be_visible()
    assert not overflows(phone)
    widths = phone.locator("#side-by-side td").evaluate_all("cells => cells.map(cell => cell.clientWidth)")
    assert min(widths) >= 112


def test_one_prompt_with_several_presets(visit: Visit, expect: Any, studio: Studio):
    before = set(list_runs(studio.runs))
    page = visit()
    turn_to(page, "Compare")
    page.get_by_role("button", name="One prompt with several presets").click()
    page.locator("#compare-start").click()
    expect(page.locator("#compare-message [role=alert]")).to_contain_text("The prompt is empty")
    page.locator("#compare-prompt textarea, #compare-prompt input").fill("a white hat")
    page.locator("#compare-start").click()
    columns = page.locator("#side-by-side article")
    expect(columns).to_have_count(2)
    made = set(list_runs(studio.runs)) - before
    assert {read_config(run).guidance.name for run in made} == {"multiview", "sds"}
    assert len({read_config(run).seed for run in made}) == 1
    expect(page.locator("#side-by-side article[data-state=done]")).to_have_count(2)
    page.wait_for_function("[...document.querySelectorAll('#side-by-side video')].every(v => v.readyState >= 2)")
    expect(page.locator("#side-by-side tr").filter(has_text="Faces")).to_be_visible()
