"""What visitors do and see, for several tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import numpy as np
from PIL import Image

from sds3d.runs import Run
from tests.browser.studio import Studio

if TYPE_CHECKING:
    from playwright.sync_api import Page

    Visit = Callable[..., Page]


def run_of(page: Page, studio: Studio) -> Run:
    """The run in the page's address."""
    return Run(studio.runs / parse_qs(urlparse(page.url).query)["run"][0])


def fill(page: Page, prompt: str, seed: int | None = None, steps: int | None = None) -> None:
    """Fill in the form."""
    page.locator("#prompt textarea").fill(prompt)
    for field, value in (("#seed input", seed), ("#set-steps input", steps)):
        if value is not None:
            page.locator(field).fill(str(value))
            page.locator(field).press("Tab")


def generate(page: Page, prompt: str, seed: int | None = None, steps: int | None = None) -> None:
    """Fill in the form and press Generate; returns when the run is in the address."""
    fill(page, prompt, seed, steps)
    page.locator("#generate").click()
    page.wait_for_url("**run=*")


def turn_to(page: Page, tab: str) -> None:
    """Choose a tab."""
    page.get_by_role("tab", name=tab).click()


def strip(page: Page) -> str:
    """The preview picture on the page, as a data URL."""
    return page.locator("#preview .sds-views").evaluate("element => element.style.getPropertyValue('--strip')")


def overflows(page: Page) -> bool:
    """Whether the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


def n_colors(png: bytes) -> int:
    """How many colours a picture has."""
    return len(np.unique(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3), axis=0))
