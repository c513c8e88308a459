"""Maps of a material in files: read back by trimesh, checked by the Khronos validator."""

from __future__ import annotations

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from sds3d.formats.export import asset_files
from sds3d.formats.glb import to_glb
from sds3d.geometry.maps import lighter, with_occlusion
from sds3d.geometry.mesh import Mesh
from tests.geometry.test_maps import ball


@pytest.fixture(scope="module")
def full() -> Mesh:
    return with_occlusion(lighter(ball(4), 200, 128), 128)


def test_all_maps_read_back_in_trimesh(full: Mesh) -> None:
    (loaded,) = trimesh.load(io.BytesIO(to_glb(full)), file_type="glb", process=False).geometry.values()
    material = loaded.visual.material
    for name, picture in (
        ("baseColorTexture", full.texture),
        ("metallicRoughnessTexture", full.metallic_roughness),
        ("normalTexture", full.normal_map),
    ):
        np.testing.assert_array_equal(np.asarray(getattr(material, name).convert("RGB")), picture)
    np.testing.assert_array_equal(np.asarray(material.occlusionTexture.convert("L")), full.occlusion)
    np.testing.assert_allclose(loaded.visual.uv, full.uv * [1, -1] + [0, 1], atol=1e-6)


def test_obj_and_usdz_hold_the_normal_map(full: Mesh) -> None:
    with pytest.warns(UserWarning, match="OBJ cannot hold the occlusion map"):
        files = asset_files(["obj"], "ball", full, textured=full)
    assert b"norm ball_normal.png" in files["ball.mtl"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(files["ball_normal.png"]))), full.normal_map)
    with_usd = pytest.importorskip("pxr")
    assert with_usd is not None
    data = asset_files(["usdz"], "ball", full, textured=full)["ball.usdz"]
    assert b"normal.png" in data
    assert b"occlusion.png" in data


def test_an_export_with_fewer_faces() -> None:
    files = asset_files(["glb", "stl"], "ball", ball(4), texture_size=128, faces=200, occlusion=True)
    loaded = trimesh.load(io.BytesIO(files["ball.glb"]), file_type="glb", process=False)
    (geometry,) = loaded.geometry.values()
    assert len(geometry.faces) <= 200
    assert geometry.visual.material.normalTexture is not None
    assert geometry.visual.material.occlusionTexture is not None
    assert len(trimesh.load(io.BytesIO(files["ball.stl"]), file_type="stl").faces) <= 200


def test_the_khronos_validator_finds_nothing(full: Mesh, validate) -> None:
    report = validate(to_glb(full))
    assert report["issues"]["messages"] == []
    assert report["info"]["materialCount"] == 1
