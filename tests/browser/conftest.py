"""A studio, and a Chromium that visits it. Without Chromium these tests are skipped, or fail if CI=true."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sds3d.files import RunError
from sds3d.jobs.queue import stop
from sds3d.run.folder import list_runs
from tests.browser.studio import PATIENCE, Studio, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="session")
def playwright() -> Any:
    """Playwright's synchronous API."""
    missing = ""
    try:
        import playwright.sync_api as api
    except ModuleNotFoundError:
        missing = "playwright is not installed: pip install playwright"
    else:
        if Path(CHROMIUM).exists():
            return api
        missing = "chromium is not installed: apt-get install chromium"
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)


@pytest.fixture(scope="session")
def studio(playwright: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio whose runs take few steps."""
    with serve(tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio with passwords for two visitors: ada and bob."""
    with serve(tmp_path_factory.mktemp("guarded"), auth='["ada:love:lace", "bob:2"]') as running:
        yield running


@pytest.fixture(scope="session")
def chromium(playwright: Any) -> Iterator[Browser]:
    """One browser for all tests, with WebGL in software."""
    playwright.expect.set_options(timeout=1000 * PATIENCE)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def cancel_remaining_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Cancel the runs that a test leaves, so that the next test's runs need not wait."""
    studios = [request.getfixturevalue(name) for name in ("studio", "guarded") if name in request.fixturenames]
    yield
    for studio in studios:
        for run in list_runs(studio.runs):
            with suppress(RunError):
                stop(run, "cancel")


@pytest.fixture
def expect(playwright: Any) -> Any:
    """Playwright's assertions, which wait."""
    return playwright.expect


@pytest.fixture
def visit(visit_to: Callable[..., Page], studio: Studio) -> Callable[..., Page]:
    """Return a function that opens the studio as a new visitor."""
    return partial(visit_to, studio)


@pytest.fixture
def visit_to(playwright: Any, chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a studio as a new visitor. Fails if a page sends a request to another host."""
    requested: list[str] = []
    contexts = []
    own = ["blob:", "data:"]

    def open_page(studio: Studio, query: str = "", width: int = 1280) -> Page:
        own.append(studio.url)
        context = chromium.new_context(viewport={"width": width, "height": 900})
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{studio.url}/{query}")
        playwright.expect(page.locator("#generate")).to_be_enabled()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requested if not url.startswith(tuple(own))] == []
