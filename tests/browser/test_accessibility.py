"""No tab has a serious problem of accessibility that axe finds, in light and in dark, on a desktop and on a phone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pages import generate, overflows, run_of, turn_to
from tests.browser.studio import PATIENCE, Studio

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.browser.pages import Visit

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def axe() -> str:
    """The program of axe-core."""
    if not AXE.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("axe-core: npm install --prefix tests/browser")
    return AXE.read_text()


def problems(page: Page, axe: str) -> list[str]:
    """Return the serious and critical problems of a page, one a line."""
    page.wait_for_timeout(500)  # colours that fade in have no contrast yet
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{problem['id']}: {node['html'][:200]} {node['failureSummary']}"
        for problem in found
        if problem["impact"] in ("serious", "critical")
        for node in problem["nodes"]
    ]


def test_axe_sees_a_problem(chromium: Browser, axe: str):
    page = chromium.new_page()
    page.set_content('<html lang="en"><title>x</title><main><button></button></main></html>')
    assert [text.partition(":")[0] for text in problems(page, axe)] == ["button-name"]
    page.close()


@pytest.fixture(scope="module")
def finished(chromium: Browser, studio: Studio, playwright: Any) -> str:
    """The name of a finished run."""
    page = chromium.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(studio.url)
    playwright.expect(page.locator("#generate")).to_be_enabled()
    generate(page, "a red mug", seed=0)
    playwright.expect(page.locator("#status [data-status=done]")).to_be_visible()
    name = run_of(page, studio).folder.name
    page.close()
    return name


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_no_tab_has_a_serious_problem(
    theme: str, width: int, visit: Visit, expect: Any, finished: str, studio: Studio, axe: str
):
    failed = studio.put("a green tree", "seed=1", status="failed", error="out of memory").folder.name
    page = visit(f"?run={finished}&drafts={finished},{failed}&__theme={theme}", width=width)
    expect(page.locator("#status [data-status=done]")).to_be_visible()
    expect(page.locator("#drafts article")).to_have_count(2)
    for place, name in (
        ("#own", "Your own file"), ("#bring", "Settings from elsewhere"), ("#recipe", "Recipe"), ("#export", "Export"),
        ("#advanced", "Advanced"),
    ):  # fmt: skip
        page.locator(place).get_by_role("button", name=name).first.click()
    assert problems(page, axe) == []
    turn_to(page, "Library")
    expect(page.locator(f".sds-card[data-run='{failed}']")).to_be_visible()
    assert problems(page, axe) == []
    for name in (finished, failed):
        turn_to(page, "Library")
        page.locator(f".sds-card[data-run='{name}'] .actions [data-action=compare]").click()
        expect(page.locator("#side-by-side")).to_be_visible()
    page.locator("#several").get_by_role("button").first.click()
    assert problems(page, axe) == []
    turn_to(page, "System")
    expect(page.locator("#system")).to_contain_text("This machine")
    assert problems(page, axe) == []
    assert not overflows(page)
