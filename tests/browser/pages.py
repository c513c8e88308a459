"""Actions of visitors, and views of pages, for several tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import numpy as np
from PIL import Image

from sds3d.run.folder import Run
from tests.browser.studio import Studio

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    Visit = Callable[..., Page]


def run_of(page: Page, studio: Studio) -> Run:
    """Return the run in the page's address."""
    return Run(studio.runs / parse_qs(urlparse(page.url).query)["run"][0])


def type_number(page: Page, field: Locator, value: int | float) -> None:
    """Type a number and leave the field. Repeat if the page, still changing, discards the number.

    Gradio rebuilds its component tree when something becomes visible, and loses text that is typed meanwhile.
    """
    for _ in range(20):
        field.fill(str(value))
        field.press("Tab")
        page.wait_for_timeout(300)
        if field.input_value() == str(value):
            return
    raise AssertionError(f"{value} does not stay in its field")


def fill(page: Page, prompt: str, seed: int | None = None, steps: int | None = None) -> None:
    """Fill in the form."""
    page.locator("#prompt textarea").fill(prompt)
    for field, value in (("#seed input", seed), ("#set-steps input", steps)):
        if value is not None:
            type_number(page, page.locator(field), value)


def generate(page: Page, prompt: str, seed: int | None = None, steps: int | None = None) -> None:
    """Fill in the form and press Generate. Return when the run is in the address."""
    fill(page, prompt, seed, steps)
    page.locator("#generate").click()
    page.wait_for_url("**run=*")


def turn_to(page: Page, tab: str) -> None:
    """Choose a tab."""
    page.get_by_role("tab", name=tab).click()


def strip(page: Page) -> str:
    """Return the preview picture on the page as a data URL."""
    return page.locator("#preview .sds-views").evaluate("element => element.style.getPropertyValue('--strip')")


def overflows(page: Page) -> bool:
    """Return whether the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


def n_colors(png: bytes) -> int:
    """Return the number of colours of a picture."""
    return len(np.unique(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3), axis=0))
