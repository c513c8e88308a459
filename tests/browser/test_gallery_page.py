"""A batch's gallery, opened from disk in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sds3d.jobs.gallery import write_gallery
from tests.jobs.test_gallery import EVIL, batch_of

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_prompts_are_text_and_can_be_searched(chromium: Browser, tmp_path: Path):
    batch = batch_of(tmp_path, [*EVIL, "a red mug"])
    write_gallery(batch, "prompts.txt")
    page = chromium.new_page()
    problems: list[str] = []
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("file:") or problems.append(request.url))
    page.goto((batch.root / "index.html").as_uri())
    cards = page.locator("article:visible")
    assert cards.count() == len(batch.jobs)
    page.fill("input", "RED mug")
    assert cards.count() == 1
    assert page.locator("article:visible img").evaluate("img => img.naturalWidth") == 8 * 16
    page.fill("input", "nothing like it")
    assert cards.count() == 0
    page.close()
    assert problems == []
