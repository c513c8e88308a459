"""The "Create" tab in a real browser: first visit, a whole generation, its viewers and files, settings, errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trimesh

from sds3d.run.config import read_config
from sds3d.run.folder import list_runs
from tests.browser.pages import fill, generate, n_colors, overflows, run_of, turn_to, type_number
from tests.browser.studio import Studio, wait_for

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.pages import Visit

EXAMPLES = ["a red mug", "a blue chair", "a yellow snowman with a green hat", "a yellow duck", "an orange car"]


def test_the_first_visit_shows_what_to_do(visit: Visit, expect: Any):
    page = visit()
    expect(page.get_by_role("heading", name="sds3d")).to_be_visible()
    expect(page.get_by_label("Prompt").first).to_have_attribute("placeholder", "a red mug")
    for example in EXAMPLES:
        expect(page.get_by_role("button", name=example, exact=True)).to_be_visible()
    expect(page.get_by_text("Your object will take shape here.")).to_be_visible()
    expect(page.locator("#cancel")).to_have_count(0)
    page.get_by_role("button", name=EXAMPLES[2]).click()
    expect(page.get_by_label("Prompt").first).to_have_value(EXAMPLES[2])
    assert fits(page)
    for tab, part in (("Library", "#cards"), ("Compare", "#side-by-side"), ("System", "#system")):
        turn_to(page, tab)
        expect(page.locator(part)).to_be_visible()
        assert fits(page)
    expect(page.locator("#system")).to_contain_text("embedded prior")
    expect(page.locator("#system")).to_contain_text("This machine can generate")


def fits(page: Page) -> bool:
    """Return whether the page is no wider than its window on a phone and on a desktop."""
    wide = []
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        wide.append(overflows(page))
    return not any(wide)


def test_a_generation_ends_with_a_mesh_to_view_and_download(visit: Visit, expect: Any, studio: Studio, tmp_path: Path):
    page = visit()
    generate(page, "a red mug", seed=0)
    expect(page.locator("[data-status=done]")).to_contain_text("Finished: a red mug")
    run = run_of(page, studio)
    assert run.state.status == "done"
    assert read_config(run) == studio.config("a red mug")
    expect(page.locator("#curves svg[role=img]")).to_have_count(2)

    # The viewer shows the mesh, so its picture has many colours. Then it shows the splats.
    wait_for(lambda: n_colors(page.locator("#viewer canvas[data-drawn]").screenshot()) > 50)
    page.locator("#kind").get_by_text("Splats").click()
    splats = page.locator("#viewer canvas")
    expect(splats).to_have_attribute("data-drawn", "40000")
    wait_for(lambda: n_colors(splats.screenshot()) > 50)
    # The turntable plays, and the mesh is measured.
    page.wait_for_function("document.querySelector('#video video').readyState >= 2")
    mesh = trimesh.load_mesh(run.exports / "a-red-mug.stl")
    expect(page.locator("#measures")).to_contain_text(f"{len(mesh.faces):,}")
    expect(page.locator("#measures")).to_contain_text("Watertight")
    expect(page.locator("#measures")).to_contain_text(run.folder.name)

    # Every export can be downloaded; the GLB is the one in the run folder.
    links = page.locator("#files a")
    expect(links).to_have_count(13)
    names = [links.nth(i).get_attribute("download") for i in range(13)]
    assert set(names) == {path.name for path in run.exports.iterdir()}
    with page.expect_download() as download:
        links.nth(names.index("a-red-mug.glb")).click()
    download.value.save_as(tmp_path / "mug.glb")
    assert (tmp_path / "mug.glb").read_bytes() == (run.exports / "a-red-mug.glb").read_bytes()
    assert len(trimesh.load_mesh(tmp_path / "mug.glb").faces) == len(mesh.faces)

    # The same settings again show it at once.
    page.locator("#generate").click()
    expect(page.locator("#message")).to_contain_text("finished before")
    expect(page.locator("[data-status=done]")).to_be_visible()

    # Its address opens it again, on a phone too, with its settings in the form.
    phone = visit(f"?run={run.folder.name}", width=390)
    expect(phone.locator("[data-status=done]")).to_be_visible()
    expect(phone.locator("#prompt textarea")).to_have_value("a red mug")
    expect(phone.locator("#seed input")).to_have_value("0")
    expect(phone.locator("#files a")).to_have_count(13)
    wait_for(lambda: n_colors(phone.locator("#viewer canvas[data-drawn]").screenshot()) > 50)
    assert not overflows(phone)

    # More like this: the same settings, another seed.
    phone.locator("#more").click()
    phone.wait_for_function("name => !window.location.search.includes(name)", arg=run.folder.name)
    other = read_config(run_of(phone, studio))
    assert other.seed != 0
    assert other.model_copy(update={"seed": 0}) == read_config(run)


def test_a_file_can_be_exported_in_another_size(visit: Visit, expect: Any, studio: Studio, tmp_path: Path):
    page = visit()
    generate(page, "a red mug", seed=0)  # finished before, or now
    expect(page.locator("[data-status=done]")).to_be_visible()
    made = run_of(page, studio).exports / "made"
    page.get_by_role("button", name="Export again").click()
    type_number(page, page.get_by_label("Maximum faces"), 500)
    page.locator("#make").click()
    expect(page.locator("#made")).to_contain_text("-faces-")
    with page.expect_download() as download:
        page.locator("#made").click()
    download.value.save_as(tmp_path / "small.glb")
    assert 400 <= len(trimesh.load_mesh(tmp_path / "small.glb").faces) <= 500
    (file,) = made.iterdir()
    assert file.read_bytes() == (tmp_path / "small.glb").read_bytes()
    expect(page.locator("#files a")).to_have_count(14)
    # Several files come in one zip, and impossible values are reported.
    choose(page, "#export", "obj")
    page.locator("#make").click()
    expect(page.locator("#made")).to_contain_text(".zip")
    type_number(page, page.get_by_label("Maximum faces"), 2)
    page.locator("#make").click()
    expect(page.locator("#export [role=alert]")).to_contain_text("2 faces are too few")
    expect(page.locator("#made")).to_have_count(0)  # the older file is not the requested one
    type_number(page, page.get_by_label("Maximum faces"), 0)
    type_number(page, page.locator("#export").get_by_label("Texture", exact=True), 99_999)
    page.locator("#make").click()
    expect(page.locator("#export [role=alert]")).to_contain_text(
        "texture of 99999 pixels is not possible; give 64 to 4096"
    )

    page.get_by_role("button", name="Recipe").click()
    expect(page.locator("#recipe")).to_contain_text("sds3d generate 'a red mug' --preset")
    page.locator("#pack").click()
    expect(page.locator("#packed")).to_contain_text(".zip")


def test_settings_come_from_the_models_and_keep_edits(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    page.get_by_role("button", name="Advanced").click()
    page.get_by_role("button", name="Guidance rule").click()
    expect(page.locator("#advanced")).to_contain_text("Classifier-free guidance scale S")
    # Rules have different settings, and so do schedules.
    expect(page.locator("#set-guidance-weighting")).to_have_count(0)
    choose(page, "#set-guidance-name", "sds")
    expect(page.locator("#set-guidance-name")).to_contain_text("Score distillation sampling")
    page.get_by_role("button", name="Advanced").click()
    page.get_by_role("button", name="Guidance rule").click()
    expect(page.locator("#set-guidance-weighting")).to_be_visible()
    choose(page, "#set-guidance-schedule-name", "sqrt")
    expect(page.locator("#set-guidance-schedule-min")).to_contain_text("Noise at the end")
    type_number(page, page.locator("#set-guidance-scale input"), 7.5)
    generate(page, "a blue chair", seed=5, steps=9000)
    config = read_config(run_of(page, studio))
    more = ["seed=5", "steps=9000", "guidance=sds", "guidance.schedule=sqrt", "guidance.scale=7.5"]
    assert config == studio.config("a blue chair", *more)
    page.locator("#cancel").click()
    expect(page.locator("[data-status=cancelled]")).to_be_visible()

    # Its address restores them.
    page.reload()
    expect(page.locator("#set-guidance-name input")).to_have_value("sds")
    expect(page.locator("#set-steps input")).to_have_value("9000")
    page.get_by_role("button", name="Advanced").click()
    page.get_by_role("button", name="Guidance rule").click()
    expect(page.locator("#set-guidance-scale input")).to_have_value("7.5")
    expect(page.locator("#set-guidance-schedule-name input")).to_have_value("sqrt")


def test_a_choice_rebuilds_the_settings_once(visit: Visit, expect: Any):
    page = visit()
    page.wait_for_timeout(1000)
    renders: list[str] = []

    def note(request: Any) -> None:  # only the settings event has a state as its single input
        if "/queue/join" in request.url and '"data":[null],' in request.post_data:
            renders.append(request.post_data)

    page.on("request", note)
    choose(page, "#set-guidance-name", "sds")
    expect(page.locator("#set-guidance-name")).to_contain_text("Score distillation sampling")
    page.wait_for_timeout(1000)
    assert len(renders) == 1
    page.get_by_role("button", name="Advanced").click()
    page.locator("#preset summary", has_text="Rules").click()
    page.locator("#preset label:has(input[value=vsd])").click()
    expect(page.locator("#set-guidance-name")).to_contain_text("Variational score distillation")
    page.wait_for_timeout(1000)
    assert len(renders) == 2


def choose(page: Any, dropdown: str, option: str) -> None:
    page.locator(f"{dropdown} input[role=listbox], {dropdown} input[role=combobox]").first.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_invalid_input_is_explained(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    runs = len(list_runs(studio.runs))
    press = page.locator("#generate").click
    shown = page.locator("#problem [role=alert]")
    press()
    expect(shown).to_contain_text("The prompt is empty")
    fill(page, "a red mug " * 101)
    press()
    expect(shown).to_contain_text("shorten it to 1000 or fewer")
    fill(page, "a red \x07 mug")
    press()
    expect(shown).to_contain_text("control character U+0007")
    fill(page, "a red mug", seed=-3)
    press()
    expect(shown).to_contain_text("seed must be a whole number from 0")
    fill(page, "a red mug", seed=3, steps=0)
    press()
    expect(shown).to_contain_text("Steps=0 needs start_from")
    fill(page, "a red mug", steps=1_000_000)
    press()
    expect(shown).to_contain_text("100000 or fewer")
    assert len(list_runs(studio.runs)) == runs
    assert "run=" not in page.url


def test_unknown_words_are_listed_before_a_run_starts(visit: Visit, expect: Any):
    page = visit()
    fill(page, "a red dragon with a green hat")
    expect(page.locator(".sds-note")).to_contain_text("does not know the word “dragon”")
    expect(page.locator(".sds-note")).to_contain_text("kinds of object, such as mug, ")
    fill(page, "a red mug")
    expect(page.locator(".sds-note")).to_have_count(0)


def test_a_prompt_that_is_typed_is_kept_and_old_problems_go(visit: Visit, expect: Any, studio: Studio):
    run = studio.put("a red boat", "seed=3")
    page = visit(f"?run={run.folder.name}")
    prompt = page.locator("#prompt textarea")
    expect(prompt).to_have_value("a red boat")
    prompt.fill("")
    page.locator("#generate").click()
    expect(page.locator("#problem [role=alert]")).to_contain_text("The prompt is empty")
    prompt.press_sequentially("a blue t")
    expect(page.locator("#problem [role=alert]")).to_have_count(0)
    page.locator("#more").click()
    page.wait_for_function("name => !window.location.search.includes(name)", arg=run.folder.name)
    expect(prompt).to_have_value("a blue t")
    other = read_config(run_of(page, studio))
    assert (other.prompt, other.seed != 3) == ("a red boat", True)


def test_back_goes_to_the_run_and_the_tab_before(visit: Visit, expect: Any, studio: Studio):
    one, two = studio.put("a red table", "seed=1"), studio.put("a blue table", "seed=2")
    page = visit(f"?run={one.folder.name}")
    prompt = page.locator("#prompt textarea")
    expect(prompt).to_have_value("a red table")
    turn_to(page, "Library")
    page.wait_for_url("**tab=library*")
    page.locator(f".sds-card[data-run='{two.folder.name}'] .actions [data-action=open]").click()
    opened = "name => location.search.includes(name) && !location.search.includes('tab=')"
    page.wait_for_function(opened, arg=two.folder.name)
    expect(prompt).to_have_value("a blue table")
    page.go_back()
    page.wait_for_url("**tab=library*")
    expect(page.locator(".sds-card").first).to_be_visible()
    page.go_back()
    page.wait_for_function(opened, arg=one.folder.name)
    expect(prompt).to_have_value("a red table")
    assert run_of(page, studio) == one


def test_what_a_run_cannot_read_is_said_before_it_waits(visit: Visit, expect: Any, studio: Studio, tmp_path: Path):
    page = visit()
    runs = len(list_runs(studio.runs))
    page.get_by_role("button", name="Advanced").click()
    page.locator("#advanced").get_by_role("button", name="Run ").click()
    page.locator("#set-start_from textarea, #set-start_from input").fill(str(tmp_path / "none.glb"))
    fill(page, "a red mug")
    page.locator("#generate").click()
    expect(page.locator("#problem [role=alert]")).to_contain_text("none.glb does not exist")
    assert len(list_runs(studio.runs)) == runs


def test_settings_are_found_marked_and_taken_back(visit: Visit, expect: Any):
    page = visit()
    scale = page.locator("#set-guidance-scale input")
    page.locator("#find-setting textarea, #find-setting input").fill("guidance scale")
    page.keyboard.press("Enter")
    expect(page.locator("#found")).to_contain_text("Guidance rule · Scale")
    expect(scale).to_be_visible()
    before = scale.input_value()
    type_number(page, scale, 7.5)
    expect(page.locator("#changed")).to_contain_text("Changed: guidance.scale")
    shadow = "element => getComputedStyle(element).boxShadow"
    assert page.locator("#set-guidance-scale").evaluate(shadow) != "none"
    assert page.locator("#set-steps").evaluate(shadow) == "none"
    page.locator("#reset").click()
    expect(scale).to_have_value(before)
    expect(page.locator("#changed")).not_to_contain_text("Changed")
    expect(page.locator("#reset")).to_have_count(0)
