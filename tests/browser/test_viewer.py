"""The viewer of meshes and splats in a real browser: what it draws, its buttons, and what it does without WebGL."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from sds3d.formats.glb import to_glb
from sds3d.formats.pictures import png
from sds3d.formats.splat import to_splat
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import SH_C0, Splats
from sds3d.run.folder import Run
from tests.browser.pages import overflows
from tests.browser.studio import Studio, wait_for

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.pages import Visit

WHITE, RED = (1.0, 1.0, 1.0), (0.8, 0.2, 0.1)
SIDE = 0.6
DOTS = 31  # Gaussians along each side of the slab

Pixels = NDArray[np.int16]


def box(color: tuple[float, float, float]) -> Mesh:
    """A cube with flat faces, off the origin."""
    shape = trimesh.creation.box((SIDE,) * 3)
    shape.unmerge_vertices()
    vertices = np.asarray(shape.vertices, np.float32) + np.float32((0.0, 0.1, 0.0))
    return Mesh(
        vertices,
        np.asarray(shape.faces),
        colors=np.tile(np.float32(color), (len(vertices), 1)),
        normals=np.repeat(np.asarray(shape.face_normals, np.float32), 3, axis=0),
    )


def slab(color: tuple[float, float, float]) -> Splats:
    """Opaque Gaussians close together on the face z = 0 of a square, and a black one behind each."""
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-0.3, 0.3, DOTS)] * 2))
    front = np.stack([x, y, np.zeros_like(x)], axis=1)
    means = np.concatenate([front, front - (0, 0, 0.2)]).astype(np.float32)
    colors = np.concatenate([np.tile(color, (len(front), 1)), np.zeros_like(front)])
    return Splats(
        means,
        np.tile(np.float32((1, 0, 0, 0)), (len(means), 1)),
        np.tile(np.float32((0.02, 0.02, 0.002)), (len(means), 1)),
        np.ones(len(means), np.float32),
        ((colors[:, None] - 0.5) / SH_C0).astype(np.float32),
    )


@pytest.fixture(scope="module")
def made(studio: Studio) -> Callable[..., Run]:
    """Makes a finished run with a cube and a slab of a colour."""

    def make(color: tuple[float, float, float], files: tuple[str, ...] = ("glb", "splat")) -> Run:
        name = f"{'white' if color == WHITE else 'red'}-{'-'.join(files)}"
        run = studio.put(f"a {name}", status="done", step=4)
        run.exports.mkdir(exist_ok=True)
        contents = {"glb": lambda: to_glb(box(color)), "splat": lambda: to_splat(slab(color))}
        for ending in files:
            (run.exports / f"{name}.{ending}").write_bytes(contents[ending]())
        (run.exports / "contact_sheet.png").write_bytes(png(np.full((40, 80, 3), 200, np.uint8)))
        return run

    return make


def opened(visit: Visit, run: Run, width: int = 1280) -> tuple[Page, Locator]:
    """The page of a run, and its viewer's canvas with something drawn on it."""
    page = visit(f"?run={run.folder.name}", width=width)
    canvas = page.locator("#viewer canvas[data-drawn]")
    canvas.scroll_into_view_if_needed()
    return page, canvas


def pixels(canvas: Locator) -> Pixels:
    """The picture on the page without the buttons on it, (H, W, 3) from 0 to 255."""
    picture = canvas.screenshot(animations="disabled", style=".sv-icons { visibility: hidden }")
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.int16)


def where(picture: Pixels, color: tuple[float, ...], tolerance: int = 1) -> NDArray[np.bool_]:
    """The pixels that have a colour."""
    return np.abs(picture - np.int16(color)).max(axis=2) <= tolerance


def shows(canvas: Locator, color: tuple[float, ...], tolerance: int = 1, share: float = 0.05) -> None:
    """Wait until a part of the picture has a colour."""
    wait_for(lambda: where(pixels(canvas), color, tolerance).mean() > share)


def view(canvas: Locator) -> list[float]:
    """Azimuth, elevation (degrees) and distance of the viewer's camera."""
    return [float(value) for value in str(canvas.get_attribute("data-view")).split()]


def settled(page: Page, canvas: Locator) -> list[float]:
    """The view after it has come to rest."""
    before: list[float] = []
    while before != (before := view(canvas)):
        page.wait_for_timeout(400)
    return before


def press(page: Page, name: str) -> None:
    page.locator("#viewer").get_by_role("button", name=name, exact=True).click()


def middle(picture: Pixels) -> Pixels:
    return picture[picture.shape[0] // 2, picture.shape[1] // 2]


def test_colours_are_those_of_the_file(visit: Visit, made: Callable[..., Run]):
    page, canvas = opened(visit, made(WHITE))
    assert canvas.get_attribute("data-drawn") == "12"
    assert not overflows(page)
    assert view(canvas)[:2] == [35, 20]  # three-quarter view
    lit = pixels(canvas)
    # Without light the colour is exactly that of the file. The whole cube is on the picture.
    press(page, "Unlit")
    shows(canvas, (255, 255, 255), 0)
    cube = where(pixels(canvas), (255, 255, 255), 0)
    assert not any(edge.any() for edge in (cube[:2], cube[-2:], cube[:, :2], cube[:, -2:]))
    # In the light it is white and light greys without a tint; what faces the front is nearly white.
    cube = binary_erosion(cube, iterations=2)
    assert np.ptp(lit[cube], axis=1).max() <= 1
    assert lit[cube].min() > 190
    assert middle(lit).min() > 230
    # Normals in the frame of the file: +Z is blue, +X red and +Y green, 255 with 127 or 128 of the others.
    press(page, "Normals")
    for color in ((128, 128, 255), (255, 128, 128), (128, 255, 128)):
        shows(canvas, color, share=0.01)
    normals = pixels(canvas)
    press(page, "Wireframe")
    shows(canvas, (79, 70, 229), 30, share=0.0005)
    assert 0.001 < (np.abs(pixels(canvas) - normals).max(axis=2) > 20).mean() < 0.05
    press(page, "Wireframe")
    wait_for(lambda: np.array_equal(pixels(canvas), normals))


def test_splats_look_like_the_mesh(visit: Visit, made: Callable[..., Run], expect: Any):
    page, canvas = opened(visit, made(RED))
    red = tuple(round(255 * value) for value in RED)
    press(page, "Unlit")
    shows(canvas, red)
    page.locator("#kind").get_by_text("Splats").click()
    canvas = page.locator(f"#viewer canvas[data-drawn='{2 * DOTS**2}']")
    shows(canvas, red, 2)  # the black ones are behind
    assert not overflows(page)
    expect(page.get_by_role("button", name="Normals")).to_be_hidden()  # splats have none
    assert view(canvas)[:2] == [35, 20]
    page.locator("#viewer").get_by_label("Exposure").fill("-1")
    shows(canvas, (149, 34, 13), 3)  # half the light of (204, 51, 26)
    # From behind, the black ones hide the red ones.
    canvas.focus()
    for _ in range(18):
        page.keyboard.press("ArrowRight")
    wait_for(lambda: middle(pixels(canvas)).max() <= 2)
    # On a phone, too.
    page.locator("#viewer").get_by_label("Exposure").fill("0")
    press(page, "Reset the view")
    page.set_viewport_size({"width": 390, "height": 900})
    shows(canvas, red, 2)
    assert not overflows(page)


def test_the_view_turns_zooms_fits_and_comes_back(visit: Visit, made: Callable[..., Run]):
    page, canvas = opened(visit, made(WHITE))
    start = view(canvas)
    first = pixels(canvas)
    place = canvas.bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2

    # A click alone changes no pixel.
    page.mouse.click(x, y)
    page.wait_for_timeout(300)
    assert np.array_equal(pixels(canvas), first)

    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y - 30, steps=4)
    page.mouse.up()
    turned = settled(page, canvas)
    assert turned[0] < start[0] - 10
    assert turned[1] < start[1] - 5
    assert turned[2] == pytest.approx(start[2], abs=0.01)
    page.mouse.wheel(0, 800)
    far = settled(page, canvas)
    assert far[2] > 1.2 * start[2]
    assert far[:2] == pytest.approx(turned[:2], abs=0.2)
    press(page, "Fit the object")
    assert settled(page, canvas) == pytest.approx([*turned[:2], start[2]], abs=0.2)
    press(page, "Reset the view")
    assert settled(page, canvas) == start
    assert np.array_equal(pixels(canvas), first)

    # The same by keyboard.
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert settled(page, canvas)[0] == pytest.approx(start[0] + 10, abs=0.5)
    page.keyboard.press("ArrowUp")
    assert settled(page, canvas)[1] == pytest.approx(start[1] + 10, abs=0.5)
    page.keyboard.press("+")
    assert settled(page, canvas)[2] == pytest.approx(0.85 * start[2], rel=0.01)
    page.keyboard.press("0")
    assert settled(page, canvas) == start


def test_every_control_has_a_name_and_can_be_reached(visit: Visit, made: Callable[..., Run], expect: Any):
    page, canvas = opened(visit, made(WHITE))
    assert "white-glb-splat" in str(canvas.get_attribute("aria-label"))
    canvas.focus()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.closest('button, label').innerText"
            )
        )
    assert [name.split("\n")[0] for name in reached] == [
        "Reset the view", "Fit the object", "Save a picture", "Full screen",
        "Lit", "Unlit", "Normals", "Wireframe", "Light", "Your light …", "Turn", "Exposure",
    ]  # fmt: skip
    expect(page.get_by_role("button", name="Lit", exact=True)).to_have_attribute("aria-pressed", "true")
    # A white surface in even light is white from all sides. Half of the light is 188 in sRGB.
    page.locator("#viewer").get_by_label("Light").select_option("Even")
    shows(canvas, (255, 255, 255))
    page.locator("#viewer").get_by_label("Exposure").fill("-1")
    shows(canvas, (188, 188, 188))
    with page.expect_download() as download:
        press(page, "Save a picture")
    assert download.value.suggested_filename.endswith(".png")
    saved = Image.open(download.value.path())
    assert saved.mode == "RGBA"
    assert saved.getpixel((5, 5))[3] == 0  # the background is clear
    assert saved.getpixel((saved.width // 2, saved.height // 2)) == pytest.approx((188, 188, 188, 255), abs=2)

    size = "[document.querySelector('#viewer .sv').clientWidth, document.querySelector('#viewer .sv').clientHeight]"
    press(page, "Full screen")
    wait_for(lambda: page.evaluate(f"{size}.join() === [innerWidth, innerHeight].join()"))
    shows(canvas, (188, 188, 188))
    press(page, "Full screen")
    wait_for(lambda: not page.evaluate("Boolean(document.fullscreenElement)"))
    # On a phone that lets no element fill the screen, it fills the window.
    page.evaluate("Element.prototype.requestFullscreen = undefined")
    press(page, "Full screen")
    wait_for(lambda: page.evaluate(f"{size}.join() === [innerWidth, innerHeight].join()"))
    page.keyboard.press("Escape")
    wait_for(lambda: page.evaluate(f"{size}[1] < innerHeight"))


def panorama(light: tuple[int, int, int], column: int, rows: int = 16) -> bytes:
    """A Radiance file, dark but for a lamp of a colour in an eighth of its width, from column `column` of 32 on."""
    pixels = np.zeros((rows, 2 * rows, 4), np.uint8)
    pixels[rows // 4 : 3 * rows // 4, column * rows // 16 : (column + 4) * rows // 16] = (*light, 129)
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (rows, 2 * rows) + pixels.tobytes()


def test_a_light_of_the_visitors_and_how_it_turns(visit: Visit, made: Callable[..., Run], expect: Any):
    page, canvas = opened(visit, made(WHITE, ("glb",)))
    viewer = page.locator("#viewer")
    press(page, "Normals")
    shows(canvas, (255, 128, 128), share=0.01)
    normals = pixels(canvas)
    front, right = (binary_erosion(where(normals, color), iterations=4) for color in ((128, 128, 255), (255, 128, 128)))
    press(page, "Lit")

    def lit(side: NDArray[np.bool_]) -> NDArray[np.float64]:
        return pixels(canvas)[side].mean(axis=0)

    def take(name: str, data: bytes) -> None:
        file = {"name": name, "mimeType": "image/vnd.radiance", "buffer": data}
        viewer.locator("input[type=file]").set_input_files(file)

    # A red lamp in front: the front is red, the right side dark.
    take("front.hdr", panorama((200, 0, 0), 14))
    expect(viewer.locator("select")).to_have_value("front.hdr")
    wait_for(lambda: lit(front)[0] > 200)
    assert lit(front)[1:].max() < 30
    assert lit(right)[0] < lit(front)[0] / 2
    # A quarter turn, counter-clockwise seen from above, brings it to the right side (+X).
    viewer.get_by_role("slider", name="Turn").fill("90")
    wait_for(lambda: lit(right)[0] > 200)
    assert lit(front)[0] < lit(right)[0] / 2
    # What is on the right of a picture comes from -X: both are dark until it is turned by half.
    take("right.hdr", panorama((200, 200, 200), 22, rows=750))
    viewer.get_by_role("slider", name="Turn").fill("0")
    wait_for(lambda: max(lit(right).max(), lit(front).max()) < 120)
    viewer.get_by_role("slider", name="Turn").fill("180")
    wait_for(lambda: lit(right).min() > 200)
    # A file that is no panorama is told, and the light stays.
    take("photo.hdr", b"JFIF")
    expect(viewer.locator("[role=status]")).to_contain_text("photo.hdr cannot be used as light")
    assert lit(right).min() > 200
    assert not overflows(page)


def test_a_finger_turns_and_the_page_may_be_dark(visit: Visit, made: Callable[..., Run]):
    page, canvas = opened(visit, made(WHITE), 390)
    assert canvas.get_attribute("data-drawn") == "12"
    assert not overflows(page)
    bright = pixels(canvas)[-20, 20]
    start = view(canvas)
    place = canvas.bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    session = page.context.new_cdp_session(page)
    for kind, at in (("touchStart", 0), ("touchMove", 20), ("touchMove", 60), ("touchEnd", None)):
        points = [] if at is None else [{"x": x + at, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert settled(page, canvas)[0] < start[0] - 5
    page.evaluate("document.body.classList.add('dark')")
    assert bright.min() > 200
    wait_for(lambda: pixels(canvas)[-20, 20].max() < 80)
    assert np.ptp(middle(pixels(canvas))) <= 1  # a white surface stays white in the dark
    assert middle(pixels(canvas)).min() > 200


def test_without_webgl_there_is_a_line_and_a_picture(
    visit: Visit, made: Callable[..., Run], expect: Any, chromium: Any
):
    run = made(WHITE)
    page = visit()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(f"{page.url.split('?')[0]}?run={run.folder.name}")
    expect(page.locator("#viewer [role=status]")).to_contain_text("This browser shows no 3D")
    expect(page.locator("#viewer img")).to_have_attribute("alt", f"{run.folder.name} from all sides")
    wait_for(lambda: page.locator("#viewer img").evaluate("image => image.naturalWidth") == 80)
    expect(page.locator("#viewer .sv-bar")).to_be_hidden()


def test_files_that_are_missing_or_damaged_are_told(visit: Visit, made: Callable[..., Run], expect: Any):
    page, _ = opened(visit, made(RED, ("splat",)))
    expect(page.locator("#kind")).to_be_hidden()
    page = visit(f"?run={made(RED, ()).folder.name}")
    expect(page.locator("#viewer [role=status]")).to_contain_text("wrote no .glb or .splat file")
    run = made(WHITE, ("glb",))
    next(run.exports.glob("*.glb")).write_bytes(b"glTF\2\0\0\0")
    page = visit(f"?run={run.folder.name}")
    expect(page.locator("#viewer [role=status]")).to_contain_text("The object cannot be shown")
