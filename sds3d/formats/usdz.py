"""USDZ, which iPhones, iPads and Macs show without an app, and Omniverse, Blender and Houdini read.

Frame: the world frame as it is (right-handed, +Y up, front +Z). The file states `upAxis` Y and `metersPerUnit` 1.
Layout: a package (zip, uncompressed, 64-byte aligned) of one binary layer and its PNG textures: one mesh, bound to one
UsdPreviewSurface. USD's v runs up from the bottom row, glTF's down, hence 1 - v.
Specifications: https://openusd.org/release/spec_usdz.html, https://openusd.org/release/spec_usdpreviewsurface.html
Needs the extra `usd`.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (usd-core is an extra, and its compiled modules have no type information.)

from __future__ import annotations

import io
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sds3d.extras import install_command
from sds3d.formats.base import FileFormat, check_faces, check_uv
from sds3d.formats.pictures import png
from sds3d.geometry.colors import srgb_to_linear
from sds3d.geometry.mesh import Mesh

_ALIGNMENT = 64  # bytes: programs map the package into memory and read its files in place
_LOCAL_HEADER = 30  # bytes of a zip's header before each file, without the file's name and the extra field
_PADDING = 0x1986  # the zip extra field that OpenUSD pads with


def to_usdz(mesh: Mesh, name: str = "asset") -> bytes:
    """Return the mesh as one USDZ file.

    A texture becomes the surface's diffuse colour. Without one, vertex colours become `displayColor`, in linear light
    as USD defines it, which Apple's viewers do not show. name: of the prims; characters that USD forbids become _.

    Raises ValueError for a mesh without faces and for a texture without uv. Raises ImportError, with the command that
    installs it, if usd-core is missing.
    """
    check_faces(mesh, "USDZ")
    check_uv(mesh)
    load_usd()
    from pxr import Kind, Tf, Usd, UsdGeom

    with tempfile.TemporaryDirectory() as folder:  # USD writes binary layers only to disk
        layer = Path(folder) / "asset.usdc"
        stage = Usd.Stage.CreateNew(str(layer))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, f"/{Tf.MakeValidIdentifier(name)}")
        stage.SetDefaultPrim(root.GetPrim())
        Usd.ModelAPI(root).SetKind(Kind.Tokens.component)
        shape = _mesh(stage, mesh, f"{root.GetPath()}/mesh")
        pictures = _bind_surface(stage, mesh, shape, f"{root.GetPath()}/material")
        stage.GetRootLayer().Save()
        return _package({"asset.usdc": layer.read_bytes(), **pictures})


def _package(files: dict[str, bytes]) -> bytes:
    """Return a USDZ of these files, the root layer first, with fixed dates: OpenUSD's packer writes the current one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as package:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            padding = -(file.tell() + _LOCAL_HEADER + len(name) + 4) % _ALIGNMENT
            info.extra = struct.pack("<HH", _PADDING, padding) + b"\0" * padding
            package.writestr(info, data)
    return file.getvalue()


def _mesh(stage: Any, mesh: Mesh, path: str) -> Any:
    """Define a mesh's UsdGeom.Mesh on the stage and return it."""
    from pxr import Sdf, UsdGeom, Vt

    shape = UsdGeom.Mesh.Define(stage, path)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(mesh.vertices))
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)])))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.ravel()))
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)  # the default subdivides and smooths
    shape.CreateDoubleSidedAttr(False)
    if mesh.normals is not None:
        shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(mesh.normals))
        shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    if mesh.uv is not None:
        st = UsdGeom.PrimvarsAPI(shape).CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
        st.Set(Vt.Vec2fArray.FromNumpy((mesh.uv * [1, -1] + [0, 1]).astype(np.float32)))
    if mesh.texture is None and mesh.colors is not None:
        colors = shape.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
        colors.Set(Vt.Vec3fArray.FromNumpy(srgb_to_linear(mesh.colors)))
    return shape


def _bind_surface(stage: Any, mesh: Mesh, shape: Any, path: str) -> dict[str, bytes]:
    """Bind a material of one UsdPreviewSurface to the shape. Return the PNG files of its textures by name."""
    from pxr import Sdf, UsdShade

    def shader(name: str, kind: str, **inputs: tuple[Any, Any]) -> Any:
        made = UsdShade.Shader.Define(stage, f"{path}/{name}")
        made.CreateIdAttr(kind)
        for key, (kind_of_value, value) in inputs.items():
            made.CreateInput(key, kind_of_value).Set(value)
        return made

    types = Sdf.ValueTypeNames
    pictures: dict[str, bytes] = {}

    def texture(name: str, picture: np.ndarray, space: str) -> Any:
        pictures[f"{name}.png"] = png(picture)
        made = shader(
            name,
            "UsdUVTexture",
            file=(types.Asset, f"./{name}.png"),
            sourceColorSpace=(types.Token, space),
            wrapS=(types.Token, "clamp"),
            wrapT=(types.Token, "clamp"),
        )
        made.CreateInput("st", types.Float2).ConnectToSource(reader("st", types.Float2))
        return made

    def reader(primvar: str, kind: Any) -> Any:
        name, suffix = f"read_{primvar}", "float2" if kind == types.Float2 else "float3"
        made = shader(name, f"UsdPrimvarReader_{suffix}", varname=(types.String, primvar))
        return made.CreateOutput("result", kind)

    surface = shader("surface", "UsdPreviewSurface", useSpecularWorkflow=(types.Int, 0))
    color = surface.CreateInput("diffuseColor", types.Color3f)
    if mesh.texture is not None:
        color.ConnectToSource(texture("base_color", mesh.texture, "sRGB").CreateOutput("rgb", types.Float3))
    elif mesh.colors is not None:
        color.ConnectToSource(reader("displayColor", types.Float3))
    else:
        color.Set((1.0, 1.0, 1.0))
    metallic, roughness = (surface.CreateInput(key, types.Float) for key in ("metallic", "roughness"))
    if mesh.metallic_roughness is not None:
        picture = texture("metallic_roughness", mesh.metallic_roughness, "raw")
        roughness.ConnectToSource(picture.CreateOutput("g", types.Float))
        metallic.ConnectToSource(picture.CreateOutput("b", types.Float))
    else:
        metallic.Set(mesh.metallic)
        roughness.Set(mesh.roughness)
    if mesh.normal_map is not None:
        picture = texture("normal", mesh.normal_map, "raw")
        picture.CreateInput("scale", types.Float4).Set((2.0, 2.0, 2.0, 1.0))
        picture.CreateInput("bias", types.Float4).Set((-1.0, -1.0, -1.0, 0.0))
        normal = surface.CreateInput("normal", types.Normal3f)
        normal.ConnectToSource(picture.CreateOutput("rgb", types.Float3))
    if mesh.occlusion is not None:
        picture = texture("occlusion", np.repeat(mesh.occlusion[..., None], 3, axis=-1), "raw")
        surface.CreateInput("occlusion", types.Float).ConnectToSource(picture.CreateOutput("r", types.Float))

    material = UsdShade.Material.Define(stage, path)
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", types.Token))
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
    return pictures


def load_usd() -> None:
    """Load OpenUSD's library. While it loads, it holds the lock of the system's loader and waits for Python's, so that
    two threads would wait for each other forever if one of them needs the loader meanwhile, as NumPy does.

    Raises ImportError, with the command that installs it, if usd-core is missing.
    """
    try:
        from pxr import Kind, Sdf, Tf, Usd, UsdGeom, UsdShade, Vt  # noqa: F401
    except ImportError as error:
        raise ImportError(f"USDZ needs usd-core: {install_command('usd')}") from error


USDZ = FileFormat("usdz", ".usdz", Mesh, write=to_usdz, textured=True, prepare=load_usd)
