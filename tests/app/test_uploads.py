"""Files that visitors bring: whose they are, what they may be called, and what becomes of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from sds3d.app import guards, own_file, uploads
from sds3d.app.guards import LimitBodies
from sds3d.app.studio import Studio, refuse_without_file
from sds3d.app.visitors import visiting
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.formats.table import FORMATS
from sds3d.geometry.mesh import Mesh
from sds3d.run.config import read_config
from sds3d.run.reference_config import ReferenceConfig

CORNERS = np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.4, 0], [0, 0, 0.1]], np.float32)
TETRAHEDRON = Mesh(CORNERS, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32))
GLB = FORMATS["glb"].files(TETRAHEDRON, "tall")["tall.glb"]


@pytest.fixture
def client(shop: Studio) -> Iterator[TestClient]:
    """A browser that ada has logged in from."""
    app = Starlette(routes=uploads.routes(shop), middleware=[Middleware(LimitBodies, uploads=uploads.PLACE)])
    app.tokens, app.cookie_id = {"secret": "ada"}, "id"  # type: ignore[attr-defined]
    with TestClient(app, cookies={"access-token-id": "secret"}) as client:
        yield client


def send(client: TestClient, name: str, data: bytes = GLB) -> str:
    answer = client.post("/uploads", content=data, headers={uploads.NAME: quote(name)})
    assert answer.status_code == 200, answer.text
    return answer.text


def test_an_upload_is_its_visitors_alone(client: TestClient, shop: Studio):
    token = send(client, "Tall Thing.GLB")
    with visiting("ada"):
        path = uploads.find(shop, token)
    assert (path.name, path.read_bytes()) == ("tall-thing.glb", GLB)
    with visiting("bob"), pytest.raises(ConfigError, match="no longer here"):
        uploads.find(shop, token)
    client.cookies.clear()
    assert client.post("/uploads", content=GLB, headers={uploads.NAME: "a.glb"}).status_code == 401


HOSTILE = (
    "../../escape.glb", "/etc/passwd.glb", "C:\\Windows\\system32\\x.glb", "..\\..\\up.glb", "a/b/.glb.glb",
    ".hidden.glb", "-rf.glb", "a\nb.glb", "nul\x00.glb", "猫.glb", "x" * 300 + ".glb", "$(reboot).glb",
    "%2e%2e%2fup.glb",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_leads_out_of_the_folder(name: str, client: TestClient, shop: Studio):
    token = send(client, name)
    (path,) = (shop.root / ".uploads").glob(f"*/{token}/*")
    assert path.read_bytes() == GLB
    assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-."), path.name
    assert len(path.name) <= 44
    assert [file for file in shop.root.rglob("*") if file.is_file()] == [path]


@pytest.mark.parametrize("token", ["", "..", "../ada", ".", "/etc", "0" * 31, "0" * 33, "*" * 32, "run:../x"])
def test_a_token_is_no_path(token: str, client: TestClient, shop: Studio):
    send(client, "a.glb")
    with visiting("ada"), pytest.raises(ConfigError, match="no longer here"):
        uploads.find(shop, token)
    if token:
        with visiting("ada"), pytest.raises((ConfigError, RunError)):
            own_file.file(shop, token)


@pytest.mark.parametrize("name", ["a.exe", "a", "", "a.glb.sh", "a.tar.gz", "glb", ".glb"])
def test_other_kinds_of_files_are_refused_by_name(name: str, client: TestClient, shop: Studio):
    answer = client.post("/uploads", content=GLB, headers={uploads.NAME: quote(name)})
    assert answer.status_code == 415
    assert "cannot be read: use .glb" in answer.text
    assert "\n" not in answer.text
    assert not (shop.root / ".uploads").exists()


def test_a_file_that_is_too_large_leaves_nothing(client: TestClient, shop: Studio, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guards, "UPLOAD", 5000)

    def endless() -> Iterator[bytes]:
        for _ in range(10):
            yield bytes(1000)

    for content in (bytes(5001), endless()):
        assert client.post("/uploads", content=content, headers={uploads.NAME: "a.glb"}).status_code == 413
    assert [file for file in shop.root.rglob("*") if file.is_file()] == []


def age(shop: Studio, token: str, seconds: float) -> None:
    """Let an upload look older."""
    (folder,) = (shop.root / ".uploads").glob(f"*/{token}")
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_files_of_twenty_visitors_at_a_time_stay(client: TestClient, shop: Studio):
    tokens = [send(client, f"{number}.glb") for number in range(20)]
    with visiting("ada"):
        assert [uploads.find(shop, token).name for token in tokens] == [f"{number}.glb" for number in range(20)]


def test_old_files_give_way_and_the_room_ends(client: TestClient, shop: Studio, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(uploads, "KEPT", 3)
    tokens = []
    for number in range(5):
        tokens.append(send(client, f"{number}.glb"))
        age(shop, tokens[-1], 100 - number)
    assert {path.name for path in (shop.root / ".uploads").glob("*/*")} == set(tokens[2:])
    monkeypatch.setattr(uploads, "ROOM", len(GLB))
    assert client.post("/uploads", content=b"x", headers={uploads.NAME: "a.glb"}).status_code == 507
    age(shop, tokens[-1], 3600 * uploads.HOURS + 1)
    uploads.sweep(shop.root)
    assert {path.name for path in (shop.root / ".uploads").glob("*/*")} == set(tokens[2:4])


NOT_WHAT_THEY_SAY = {
    "zip.glb": b"PK\x03\x04" + bytes(100),
    "gzip.spz": b"\x1f\x8b" + bytes(40),
    "empty.glb": b"",
    "text.stl": b"hello",
    "html.obj": b"<html><script>alert(1)</script></html>",
    "cut.glb": GLB[: len(GLB) // 2],
    "page.ply": b"ply\nformat ascii 1.0\nelement vertex 4000000000\nproperty float x\nend_header\n",
}


@pytest.mark.parametrize("name", NOT_WHAT_THEY_SAY)
def test_a_file_that_cannot_be_read_starts_nothing(name: str, client: TestClient, shop: Studio):
    token = send(client, name, NOT_WHAT_THEY_SAY[name])
    with visiting("ada"):
        path = uploads.find(shop, token)
        with pytest.raises(ConfigError, match="start_from: ") as error:
            shop.start(shop.config("a red mug", "toybox"), path)
        assert "\n" not in str(error.value)
        assert str(shop.root) not in shop.redacted(str(error.value))
        with pytest.raises(ValueError, match=name):
            own_file.seen(path, "auto")
    assert shop.runs() == []


def test_a_run_keeps_the_file_and_only_its_owner_uses_it_again(client: TestClient, shop: Studio):
    token = send(client, "Tall.glb")
    with visiting("ada"):
        path = own_file.file(shop, token)
        config = shop.config("a red mug", "texture", {"up_axis": "z"})
        run = shop.start(config, path)
        assert shop.start(config, path) == run
        assert (read_config(run).start_from, read_config(run).up_axis) == ("tall.glb", "z")
        assert run.own is not None
        assert run.own.read_bytes() == GLB
        uploads.sweep(shop.root)
        assert own_file.file(shop, f"run:{run.folder.name}") == run.own
        shop.share(run, True)
    with visiting("bob"), pytest.raises(RunError, match="a file of its owner"):
        own_file.file(shop, f"run:{run.folder.name}")
    with visiting("ada"):
        run.update(status="cancelled")
        shop.delete(run)
    assert not run.folder.exists()


def test_links_in_the_place_of_the_file_are_not_followed(client: TestClient, shop: Studio, tmp_path: Path):
    secret = tmp_path / "secret.glb"
    secret.write_bytes(GLB)
    with visiting("ada"):
        run = shop.start(shop.config("a red mug", "texture"), uploads.find(shop, send(client, "a.glb")))
    assert run.own is not None
    run.own.unlink()
    run.folder.joinpath("own", "a.glb").symlink_to(secret)
    assert run.own is None
    run.folder.joinpath("own", "a.glb").unlink()
    run.folder.joinpath("own").rmdir()
    run.folder.joinpath("own").symlink_to(tmp_path)
    assert run.own is None


def test_what_was_read_is_shown(client: TestClient, shop: Studio, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr("sds3d.formats.pictures.to_png", lambda rgb: drawn.append(rgb) or b"")
    with visiting("ada"):
        path = uploads.find(shop, send(client, "tall.glb"))
    for up in ("y", "z"):
        html = own_file.seen(path, up)
        assert "a mesh of 4 triangles" in html
    heights, widths = [], []
    for rgb in drawn:
        assert rgb.shape == (4, own_file.SIZE, own_file.SIZE, 3)
        rows, columns = np.nonzero((rgb[0] < 0.99).any(axis=-1))
        heights.append(np.ptp(rows))
        widths.append(np.ptp(columns))
    # 0.4 m along Y: tall with Y up, flat with Z up.
    assert heights[0] > 1.5 * widths[0]
    assert heights[1] < heights[0] / 2


def test_painting_needs_a_mesh(client: TestClient, shop: Studio):
    splats = FORMATS["splat"].files(_splats(), "a")["a.splat"]
    with visiting("ada"):
        config = shop.config("a red mug", "texture")
        with pytest.raises(ConfigError, match="paints a mesh of yours"):
            refuse_without_file("texture", config, None)
        path = uploads.find(shop, send(client, "a.splat", splats))
        refuse_without_file("texture", config, path)
        with pytest.raises(ConfigError, match="no triangles to paint"):
            shop.start(config, path)
        assert shop.start(shop.config("a red mug", "splats"), path).own is not None
        assert "200 Gaussians" in own_file.seen(path, "auto")


def test_a_preset_that_follows_a_picture_needs_one(studio: Studio):
    config = studio.own_config("a red mug", "dreamcraft3d-mvdream")
    with pytest.raises(ConfigError, match='follows a picture of yours: add it under "Pictures"'):
        refuse_without_file("dreamcraft3d-mvdream", config, None)
    followed = config.model_copy(update={"reference": (ReferenceConfig(image="mug.png"),)})
    refuse_without_file("dreamcraft3d-mvdream", followed, None)
    assert "vp3d-sd" not in studio.presets()  # the form has no field for all that it needs


def _splats():
    import torch

    from sds3d.geometry.sampling import splats_from_mesh

    return splats_from_mesh(TETRAHEDRON, 200, torch.Generator().manual_seed(0))
