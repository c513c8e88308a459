"""Own files, drafts and settings from elsewhere, in a real browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trimesh

from sds3d.run.config import read_config
from sds3d.run.folder import Run, list_runs
from tests.browser.pages import fill, overflows, run_of, type_number
from tests.browser.studio import QUICK, Studio, serve, wait_for

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.pages import Visit


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    """A box that stands on its long side: Z is up."""
    path = tmp_path / "My box.stl"
    trimesh.creation.box((0.2, 0.3, 0.8)).export(path)
    return path


@pytest.fixture
def painting(playwright: Any, tmp_path: Path) -> Iterator[Studio]:
    """A studio with short runs of every preset, also of those without a voxel grid."""
    small = [setting for setting in QUICK if not setting.startswith("representation")]
    with serve(tmp_path, tuple(small)) as studio:
        yield studio


def bring(page: Page, path: Path) -> None:
    """Choose a file to start from."""
    if not page.locator("#own-file").is_visible():
        page.locator("#own").get_by_role("button", name="Your own file").click()
    page.locator("#own-file input").set_input_files(path)


def test_a_mesh_is_shown_painted_and_kept(
    visit_to: Callable[..., Page], expect: Any, painting: Studio, mesh: Path, tmp_path: Path
):
    page = visit_to(painting)
    page.get_by_text("texture", exact=True).click()
    fill(page, "a red mug", seed=1)
    page.locator("#generate").click()
    expect(page.locator("#problem [role=alert]")).to_contain_text("paints a mesh of yours")
    bring(page, mesh)
    expect(page.locator("#own-shown")).to_contain_text("my-box.stl: a mesh of 12 triangles")
    expect(page.locator("#own-shown")).to_contain_text("+Z is up in files of this format")
    upright = page.locator("#own-shown img").get_attribute("src")
    page.locator("#own-up").get_by_text("Y", exact=True).click()
    wait_for(lambda: page.locator("#own-shown img").get_attribute("src") != upright)
    page.locator("#own-up").get_by_text("Z", exact=True).click()
    wait_for(lambda: page.locator("#own-shown img").get_attribute("src") == upright)
    type_number(page, page.locator("#set-steps input"), 3)
    page.locator("#generate").click()
    page.wait_for_url("**run=*")
    expect(page.locator("[data-status=done]")).to_be_visible()
    run = run_of(page, painting)
    assert read_config(run).up_axis == "z"
    assert run.own is not None
    assert run.own.read_bytes() == mesh.read_bytes()
    extents = sorted(trimesh.load_mesh(run.exports / "a-red-mug.ply").extents)
    assert [side / extents[0] for side in extents] == pytest.approx([1.0, 1.5, 4.0], rel=1e-3)

    # The zip has it, and brings it back to another visitor's form.
    page.locator("#recipe").get_by_role("button", name="Recipe").click()
    page.locator("#pack").click()
    with page.expect_download() as download:
        page.locator("#packed a").click()
    download.value.save_as(tmp_path / "run.zip")
    other = visit_to(painting, width=390)
    other.locator("#bring").get_by_role("button", name="Settings from elsewhere").click()
    other.locator("#bring-file input").set_input_files(tmp_path / "run.zip")
    expect(other.locator("#bring-said")).to_contain_text("the preset texture and the seed 1")
    expect(other.locator("#prompt textarea")).to_have_value("a red mug")
    expect(other.locator("#set-steps input")).to_have_value("3")
    assert not overflows(other)
    other.locator("#generate").click()
    other.wait_for_url("**run=*")
    assert run_of(other, painting) == run
    assert [path for path in (painting.runs / ".served").rglob("*") if path.suffix in (".stl", ".zip")] == []


def test_a_file_that_cannot_be_read_is_refused_in_a_line(visit: Visit, expect: Any, studio: Studio, tmp_path: Path):
    page = visit()
    (wrong := tmp_path / "wrong.glb").write_bytes(b"PK\x03\x04 this is a zip")
    bring(page, wrong)
    expect(page.locator("#own-shown [role=alert]")).to_contain_text("Wrong.glb: ")
    (other := tmp_path / "notes.docx").write_bytes(b"words")
    bring(page, other)
    expect(page.locator("#own-shown [role=alert]")).to_contain_text('notes.docx: files ending in ".docx"')
    huge = tmp_path / "huge.stl"
    with huge.open("wb") as file:
        file.truncate(64_000_001)
    bring(page, huge)
    expect(page.locator("#own-shown [role=alert]")).to_contain_text("huge.stl is too large: 64 MB are the limit")
    assert str(studio.runs) not in page.locator("#own-shown").inner_text()


def test_drafts_come_side_by_side_and_one_is_refined(visit: Visit, expect: Any, studio: Studio):
    page = visit()
    before = {run.folder for run in list_runs(studio.runs)}
    fill(page, "a blue chair", seed=40, steps=8)
    page.locator("#several-drafts").click()
    page.wait_for_url("**drafts=*")
    drafts = page.locator("#drafts article")
    expect(drafts).to_have_count(4)
    expect(page.locator("#drafts article[data-state=paused]")).to_have_count(4)
    expect(page.locator("#drafts img")).to_have_count(4)
    runs = [run for run in list_runs(studio.runs) if run.folder not in before]
    assert sorted(read_config(run).seed for run in runs) == [40, 41, 42, 43]
    assert {(run.state.step, run.state.total) for run in runs} == {(2, 8)}
    page.reload()
    expect(drafts).to_have_count(4)
    picked = Run(studio.runs / str(drafts.nth(2).get_attribute("data-draft")))
    drafts.nth(2).get_by_role("button", name="Refine this one").click()
    expect(page.locator("#status [data-status=done]")).to_be_visible()
    assert run_of(page, studio) == picked
    assert (read_config(picked).seed, picked.state.step) == (42, 8)
    assert sorted(run.state.step for run in runs) == [2, 2, 2, 8]
    expect(page.locator("#seed input")).to_have_value("42")
    expect(drafts.nth(2).get_by_role("button")).to_have_text("Open")
    # Another draft can still be refined, and a new run puts the drafts away.
    drafts.nth(0).get_by_role("button").click()
    expect(page.locator("#drafts article[data-state=done]")).to_have_count(2)
    page.locator("#generate").click()
    expect(page.locator("#drafts")).to_have_count(0)
    page.wait_for_url(lambda url: "drafts=" not in url)


def test_a_pasted_command_fills_the_form_and_unknown_keys_are_named(visit: Visit, expect: Any):
    page = visit(width=390)
    page.locator("#bring").get_by_role("button", name="Settings from elsewhere").click()
    text = page.locator("#bring-text textarea")
    text.fill("sds3d generate 'a green tree' --preset vsd --seed 9 guidance.scal=4 stepss=7")
    page.locator("#bring-take").click()
    expect(page.locator("#bring-said [role=alert]")).to_contain_text("guidance.scal")
    expect(page.locator("#bring-said [role=alert]")).to_contain_text("stepss")
    expect(page.locator("#prompt textarea")).to_have_value("")
    text.fill("sds3d generate 'a green tree' --preset vsd --seed 9 guidance.scale=4 steps=7")
    page.locator("#bring-take").click()
    expect(page.locator("#bring-said")).to_contain_text("the preset vsd and the seed 9, 2 changed")
    expect(page.locator("#prompt textarea")).to_have_value("a green tree")
    expect(page.locator("#seed input")).to_have_value("9")
    expect(page.locator("#set-steps input")).to_have_value("7")
    expect(page.locator("#preset input[value=vsd]")).to_be_checked()
    assert not overflows(page)


def test_uploads_of_others_cannot_be_reached(guarded: Studio, mesh: Path):
    def call(path: str, login: str = "", data: bytes | None = None) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        if login:
            user, _, password = login.partition(":")
            opener.open(f"{guarded.url}/login", f"username={user}&password={password}".encode())
        try:
            answer = opener.open(urllib.request.Request(guarded.url + path, data, {"X-File-Name": "a.stl"}))
            return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, ""

    assert call("/uploads", data=mesh.read_bytes())[0] == 401
    status, token = call("/uploads", "ada:love:lace", mesh.read_bytes())
    assert status == 200
    (kept,) = (guarded.runs / ".uploads").glob(f"*/{token}/a.stl")
    for path in (str(kept), f".uploads/{kept.parent.parent.name}/{token}/a.stl", f"../.uploads/{token}/a.stl"):
        for place in ("/gradio_api/file=", "/file=", "/files/", "/gradio_api/stream/", "/uploads/"):
            for login in ("ada:love:lace", "bob:2"):
                assert call(place + path, login)[0] in (401, 403, 404, 405), place + path
    body = json.dumps({"data": [{"path": str(kept), "meta": {"_type": "gradio.FileData"}}], "fn_index": 0})
    assert call("/gradio_api/run/predict", "bob:2", body.encode())[0] >= 400
