"""USDZ, opened and checked by OpenUSD."""

import builtins
import io
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_shapes import position_color, torus_mesh
from PIL import Image

from sds3d.formats.usdz import to_usdz
from sds3d.geometry.colors import srgb_to_linear
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.uv_atlas import bake

if os.environ.get("CI", "").lower() == "true":
    import pxr  # noqa: F401  (nothing is skipped there)
pytest.importorskip("pxr", reason='usd-core is missing: pip install ".[usd]"')


@pytest.fixture(scope="module")
def colored() -> Mesh:
    return replace(torus_mesh(600), roughness=0.6, metallic=0.1)


@pytest.fixture(scope="module")
def textured(colored) -> Mesh:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    return replace(bake(colored, position_color, 64), metallic_roughness=picture)


def opened(data: bytes, folder: Path):
    from pxr import Usd

    folder.mkdir(exist_ok=True)
    path = folder / "asset.usdz"
    path.write_bytes(data)
    return Usd.Stage.Open(str(path))


def complaints(data: bytes, folder: Path) -> list[str]:
    """Return OpenUSD's complaints: from the compliance checker in older releases, from the validators in newer ones."""
    from pxr import UsdUtils

    stage = opened(data, folder)
    if hasattr(UsdUtils, "ComplianceChecker"):
        checker = UsdUtils.ComplianceChecker(arkit=True)
        checker.CheckCompliance(str(folder / "asset.usdz"))
        return [*checker.GetErrors(), *checker.GetFailedChecks(), *checker.GetWarnings()]
    from pxr import UsdValidation

    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    return [error.GetErrorAsString() for error in UsdValidation.ValidationContext(validators).Validate(stage)]


def shader(stage, name: str):
    from pxr import UsdShade

    return UsdShade.Shader(stage.GetPrimAtPath(f"/torus/material/{name}"))


@pytest.mark.parametrize("kind", ["textured", "colored", "plain"])
def test_openusd_finds_nothing_wrong(kind, textured, colored, tmp_path):
    plain = Mesh(colored.vertices, colored.faces)
    mesh = {"textured": textured, "colored": colored, "plain": plain}[kind]
    assert complaints(to_usdz(mesh, "torus"), tmp_path) == []


def test_openusd_would_find_something(textured, tmp_path):
    data = to_usdz(textured, "torus")
    broken = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as package, zipfile.ZipFile(broken, "w", zipfile.ZIP_DEFLATED) as other:
        for name in package.namelist():
            other.writestr(name, package.read(name))
    with pytest.raises(Exception, match=r".+"):  # a compressed package cannot even be opened
        assert complaints(broken.getvalue(), tmp_path) == []


def test_the_stage_declares_its_frame_and_unit(textured, tmp_path):
    from pxr import UsdGeom

    stage = opened(to_usdz(textured, "torus"), tmp_path)
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert stage.GetDefaultPrim().GetName() == "torus"
    other = opened(to_usdz(textured, "red-mug 2"), tmp_path / "other")
    assert other.GetDefaultPrim().GetName() == "red_mug_2"


def test_the_geometry_is_the_mesh(textured, tmp_path):
    from pxr import UsdGeom

    stage = opened(to_usdz(textured, "torus"), tmp_path)
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/torus/mesh"))
    points, indices = np.array(shape.GetPointsAttr().Get()), np.array(shape.GetFaceVertexIndicesAttr().Get())
    np.testing.assert_array_equal(points, textured.vertices)
    np.testing.assert_array_equal(indices.reshape(-1, 3), textured.faces)
    assert set(shape.GetFaceVertexCountsAttr().Get()) == {3}
    np.testing.assert_array_equal(np.array(shape.GetNormalsAttr().Get()), textured.normals)
    assert shape.GetNormalsInterpolation() == "vertex"
    assert shape.GetSubdivisionSchemeAttr().Get() == "none"
    assert shape.GetDoubleSidedAttr().Get() is False
    assert shape.GetOrientationAttr().Get() == "rightHanded"
    extent = np.array(shape.GetExtentAttr().Get())
    np.testing.assert_array_equal(extent, [points.min(axis=0), points.max(axis=0)])
    assert np.abs(extent).max() <= 0.5
    assert Mesh(points, indices.reshape(-1, 3)).volume() > 0
    st = np.array(UsdGeom.PrimvarsAPI(shape).GetPrimvar("st").Get())
    np.testing.assert_allclose(st, textured.uv * [1, -1] + [0, 1], atol=1e-6)
    assert st.min() >= 0
    assert st.max() <= 1


def test_the_surface_has_the_textures(textured, tmp_path):
    from pxr import UsdShade

    data = to_usdz(textured, "torus")
    stage = opened(data, tmp_path)
    material, _ = UsdShade.MaterialBindingAPI(stage.GetPrimAtPath("/torus/mesh")).ComputeBoundMaterial()
    surface, _, _ = material.ComputeSurfaceSource()
    assert surface.GetIdAttr().Get() == "UsdPreviewSurface"
    wanted = {"diffuseColor": ("base_color", "rgb"), "roughness": ("metallic_roughness", "g")}
    for key, (name, output) in {**wanted, "metallic": ("metallic_roughness", "b")}.items():
        source = surface.GetInput(key).GetConnectedSources()[0][0]
        assert (source.source.GetPrim().GetName(), source.sourceName) == (name, output)
    for name, picture, space in (
        ("base_color", textured.texture, "sRGB"),
        ("metallic_roughness", textured.metallic_roughness, "raw"),
    ):
        texture = shader(stage, name)
        assert texture.GetInput("sourceColorSpace").Get() == space
        file = f"{name}.png"
        assert texture.GetInput("file").Get().resolvedPath.endswith(f"asset.usdz[{file}]")
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            np.testing.assert_array_equal(np.asarray(Image.open(package.open(file))), picture)
        reader = texture.GetInput("st").GetConnectedSources()[0][0].source
        assert UsdShade.Shader(reader.GetPrim()).GetInput("varname").Get() == "st"


def test_without_textures_there_are_factors_and_vertex_colours(colored, tmp_path):
    from pxr import UsdGeom

    stage = opened(to_usdz(colored, "torus"), tmp_path)
    surface = shader(stage, "surface")
    assert surface.GetInput("roughness").Get() == pytest.approx(0.6)
    assert surface.GetInput("metallic").Get() == pytest.approx(0.1)
    shown = np.array(UsdGeom.Gprim(stage.GetPrimAtPath("/torus/mesh")).GetDisplayColorAttr().Get())
    np.testing.assert_allclose(shown, srgb_to_linear(colored.colors), atol=1e-6)


def test_every_file_of_the_package_is_stored_and_aligned(textured):
    data = to_usdz(textured, "torus")
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        assert package.testzip() is None
        files = package.infolist()
    assert files[0].filename.endswith(".usdc")  # the root layer must be the first
    for file in files:
        assert file.compress_type == zipfile.ZIP_STORED
        name, extra = struct.unpack_from("<HH", data, file.header_offset + 26)
        assert (file.header_offset + 30 + name + extra) % 64 == 0


def test_it_is_deterministic_and_refuses_bad_input(textured, monkeypatch):
    data = to_usdz(textured, "torus")
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        assert {file.date_time for file in package.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert data == to_usdz(textured, "torus")
    with pytest.raises(ValueError, match="without faces"):
        to_usdz(Mesh(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32)))
    with pytest.raises(ValueError, match="uv"):
        to_usdz(replace(textured, texture=None, uv=None))

    def without_usd(name: str, *arguments):
        if name == "pxr":
            raise ImportError(name)
        return import_(name, *arguments)

    import_ = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_usd)
    with pytest.raises(ImportError, match=r'pip install "\.\[usd\]"'):
        to_usdz(textured)
