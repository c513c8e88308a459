"""Meshes to write, and loaders that check the properties of every loaded asset."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from sds3d.formats.load import load_asset
from sds3d.geometry.colors import srgb_to_linear
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats

MESHES = Path(__file__).parents[1] / "data/meshes"
"""Files of other programs: cubes of 1 m round the origin, where a test does not say otherwise."""


def ball(radius: float = 0.45) -> Mesh:
    """A coloured ball with normals. The colour encodes the position."""
    shape = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    vertices = shape.vertices.astype(np.float32)
    return Mesh(
        vertices,
        shape.faces.astype(np.int32),
        colors=np.clip(vertices + 0.5, 0, 1),
        normals=(vertices / np.linalg.norm(vertices, axis=1, keepdims=True)).astype(np.float32),
        metallic=0.25,
        roughness=0.5,
    )


def box(color: tuple[int, int, int] | None = None, texture: np.ndarray | None = None) -> trimesh.Trimesh:
    shape = trimesh.creation.box()
    if texture is not None:
        material = PBRMaterial(baseColorTexture=Image.fromarray(texture), metallicFactor=0.5, roughnessFactor=1.0)
        shape.visual = TextureVisuals(uv=shape.vertices[:, :2] + 0.5, material=material)
    elif color is not None:
        factor = np.append(srgb_to_linear(np.array(color) / 255), 1)
        shape.visual = TextureVisuals(material=PBRMaterial(baseColorFactor=np.rint(factor * 255).astype(np.uint8)))
    return shape


def scene_of(*placed: tuple[trimesh.Trimesh, np.ndarray]) -> bytes:
    scene = trimesh.Scene()
    for i, (shape, transform) in enumerate(placed):
        scene.add_geometry(shape, node_name=f"n{i}", geom_name=f"g{i}", transform=transform)
    return scene.export(file_type="glb")


def load(folder: Path, files: dict[str, bytes] | bytes, name: str) -> Mesh | Splats:
    for file, data in ({name: files} if isinstance(files, bytes) else files).items():
        (folder / file).write_bytes(data)
    return load_asset(folder / name)


def load_mesh(folder: Path, files: dict[str, bytes] | bytes, name: str) -> Mesh:
    mesh = load(folder, files, name)
    assert isinstance(mesh, Mesh)
    # These hold for every loaded mesh.
    assert mesh.vertices.dtype == np.float32
    assert mesh.faces.dtype == np.int32
    assert np.isfinite(mesh.vertices).all()
    assert mesh.faces.min() >= 0
    assert mesh.faces.max() < len(mesh.vertices)
    for array, width in ((mesh.colors, 3), (mesh.normals, 3), (mesh.uv, 2)):
        if array is not None:
            assert array.shape == (len(mesh.vertices), width)
            assert array.dtype == np.float32
    for array in (mesh.colors, mesh.uv):
        if array is not None:
            assert array.min() >= 0
            assert array.max() <= 1
    return mesh


def load_splats(folder: Path, data: bytes, name: str) -> Splats:
    asset = load(folder, data, name)
    assert isinstance(asset, Splats)
    return asset


def corners(mesh: Mesh, values: np.ndarray | None) -> np.ndarray:
    """Values at the corners of the faces, which do not depend on the numbering of vertices."""
    assert values is not None
    return values[mesh.faces]


def same(read: Mesh, mesh: Mesh, *keys: str, atol: float = 1e-6) -> None:
    for key in ("vertices", *keys):
        np.testing.assert_allclose(corners(read, getattr(read, key)), corners(mesh, getattr(mesh, key)), atol=atol)


def document_of(glb: bytes) -> dict[str, Any]:
    """The JSON document of a GLB file."""
    length = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + length])
