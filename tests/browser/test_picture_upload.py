"""Pictures of the object in the form, in a real browser."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from sds3d.run.config import read_config
from tests.browser.pages import fill, overflows, run_of, type_number
from tests.browser.studio import Studio, wait_for

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.pages import Visit

PASTE = """data => {
const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), clipboard = new DataTransfer();
clipboard.items.add(new File([bytes], 'image.png', {type: 'image/png'}));
document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: clipboard, bubbles: true})); }"""

DROP = """(place, data) => {
const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], 'Style.png', {type: 'image/png'}));
for (const kind of ['dragenter', 'dragover', 'drop'])
  place.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true})); }"""


def encoded(image: Image.Image) -> str:
    """Return a PNG file in base64."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(color: tuple[int, int, int]) -> Image.Image:
    """A square of 200 x 200 pixels in the middle of a white picture of 400 x 300, and a dot on the left."""
    pixels = np.full((300, 400, 3), 255, np.uint8)
    pixels[50:250, 100:300] = color
    pixels[140:160, 20:40] = 90
    return Image.fromarray(pixels)


def stroke(page: Page, *points: tuple[float, float]) -> None:
    """Draw with the brush; points are shares of the picture's width and height. Return when the mask has changed."""
    canvas = page.locator("#picture-mask canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    before = page.locator("#picture-mask img").get_attribute("src")
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    wait_for(lambda: page.locator("#picture-mask img").get_attribute("src") != before)


def remove_both(page: Page, expect: Any) -> None:
    """Remove two pictures, the second when it has taken the first one's place."""
    shown = page.locator("#picture-mask img")
    before = shown.get_attribute("src")
    page.locator("#picture-remove").click()
    wait_for(lambda: shown.get_attribute("src") != before)
    page.locator("#picture-remove").click()
    expect(page.locator("#picture-mask canvas")).to_have_count(0)


def test_a_picture_is_sent_its_mask_corrected_and_both_are_in_the_run(
    visit: Visit, expect: Any, studio: Studio, tmp_path: Path
):
    page = visit(width=390)
    fill(page, "a red mug", seed=5)
    page.locator("#pictures").get_by_role("button", name="Pictures").click()
    (tmp_path / "notes.gif").write_bytes(b"GIF89a")
    page.locator("#picture-file input").set_input_files(tmp_path / "notes.gif")
    expect(page.locator("#picture-said [role=alert]")).to_contain_text(
        'files ending in ".gif" cannot be read: use .png'
    )
    for i in range(9):
        (tmp_path / f"{i}.gif").write_bytes(b"GIF89a")
    page.locator("#picture-file input").set_input_files([tmp_path / f"{i}.gif" for i in range(9)])
    expect(page.locator("#picture-said [role=alert]")).to_contain_text("1 of 9 left out")
    for i in range(8):
        expect(page.locator("#picture-said [role=alert]")).to_contain_text(f"{i}.gif: files ending in")
    picture((200, 30, 30)).save(tmp_path / "My mug.png")
    page.locator("#picture-file input").set_input_files(tmp_path / "My mug.png")
    expect(page.locator("#picture-mask")).to_contain_text("The object is 34% of the picture")
    stroke(page, (0.05, 0.5), (0.1, 0.5))  # the dot
    expect(page.locator("#picture-mask")).to_contain_text("The object is 33% of the picture")
    page.locator("#mask-tools").get_by_text("Keep").click()
    stroke(page, (0.9, 0.1), (0.9, 0.2))
    page.locator("#mask-tools").get_by_role("button", name="Undo").click()
    expect(page.locator("#picture-mask")).to_contain_text("The object is 33% of the picture")
    type_number(page, page.locator("#picture-azimuth input"), 90)
    assert not overflows(page)

    page.evaluate(PASTE, encoded(picture((30, 30, 200))))
    expect(page.locator("#picture-list button")).to_have_count(2)
    expect(page.locator("#picture-azimuth input")).to_have_value("0")
    page.locator("#picture-list button").first.click()
    expect(page.locator("#picture-azimuth input")).to_have_value("90")
    page.locator("#generate").click()
    page.wait_for_url("**run=*")
    expect(page.locator("#status [data-status=done]")).to_be_visible()
    run = run_of(page, studio)
    first, second = read_config(run).reference
    assert [(each.azimuth, each.elevation) for each in (first, second)] == [(90, 15), (0, 15)]
    assert all(Path(path).is_relative_to(run.folder) for path in (first.image, first.mask, second.image, second.mask))
    np.testing.assert_array_equal(np.asarray(Image.open(first.image)), np.asarray(picture((200, 30, 30))))
    mask = np.asarray(Image.open(first.mask))
    assert (mask[50:250, 100:300] == 255).all()
    assert mask.mean() / 255 == pytest.approx(200 * 200 / (300 * 400))
    mask = np.asarray(Image.open(second.mask))
    assert mask[150, 30] == 255

    # A reload shows the run's pictures in the form again, and removing them starts another run.
    page.reload()
    page.locator("#pictures").get_by_role("button", name="Pictures").click()
    expect(page.locator("#picture-list button")).to_have_count(2)
    expect(page.locator("#picture-mask")).to_contain_text("The object is 33% of the picture")
    remove_both(page, expect)
    page.locator("#generate").click()
    page.wait_for_url(lambda url: run.folder.name not in url)
    assert read_config(run_of(page, studio)).reference == ()


def test_a_picture_that_is_dropped_beside_the_prompt_is_in_the_run(visit: Visit, expect: Any, studio: Studio):
    page = visit(width=390)
    fill(page, "a red mug", seed=6)
    page.locator("#style").get_by_role("button", name="A picture beside the prompt").click()
    page.locator("#style-file .sds-drop").evaluate(DROP, encoded(picture((200, 30, 30))))
    shown = page.locator("#style-shown img")
    expect(shown).to_be_visible()
    expect(page.locator("#style-remove")).to_be_visible()
    assert shown.evaluate("image => image.naturalWidth / image.naturalHeight") == pytest.approx(4 / 3, rel=0.01)
    assert not overflows(page)
    page.locator("#generate").click()
    page.wait_for_url("**run=*")
    run = run_of(page, studio)
    image = Path(read_config(run).prompts.image)
    assert image.is_relative_to(run.folder)
    np.testing.assert_array_equal(np.asarray(Image.open(image)), np.asarray(picture((200, 30, 30))))
    expect(page.get_by_text("prompts.image: toybox takes no pictures")).to_be_visible()
