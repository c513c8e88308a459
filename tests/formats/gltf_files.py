"""glTF files for tests: of one primitive, or from the folder of files, with what loading them reports."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from loading import MESHES

from sds3d.formats.glb_chunks import Binary, one_mesh_glb
from sds3d.formats.load import load_asset
from sds3d.geometry.mesh import Mesh

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
TWO = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def read(name: str, *told: str) -> Mesh:
    """The mesh of a file, and whether loading it says exactly what is expected."""
    with silence() as caught:
        mesh = load_asset(MESHES / name)
    assert [str(warning.message) for warning in caught] == list(told)
    assert isinstance(mesh, Mesh)
    return mesh


@contextmanager
def silence() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings instead of showing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def box_of(mesh: Mesh) -> list[float]:
    return np.concatenate([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)]).astype(float).round(5).tolist()


def outwards(mesh: Mesh) -> bool:
    """Whether the normals of a convex mesh round the origin look outwards."""
    assert mesh.normals is not None
    return bool((np.einsum("vi,vi->v", mesh.normals, mesh.vertices) > 0).all())


def glb(attributes: dict[str, np.ndarray], faces: np.ndarray | None = TWO, mode: int = 4, **extra: Any) -> bytes:
    """A GLB of one primitive. Accessors get what `accessors` says; the rest goes into the document."""
    binary = Binary()
    kinds = extra.pop("accessors", {})
    named = {}
    for name, values in attributes.items():
        named[name] = len(binary.accessors)
        rows = np.ascontiguousarray(values)
        types = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        padded = np.zeros((len(rows), -(-rows.shape[1] * rows.itemsize // 4) * 4), np.uint8)
        padded[:, : rows.shape[1] * rows.itemsize] = rows.view(np.uint8).reshape(len(rows), -1)
        view = binary.view(padded.tobytes())
        binary.views[view]["byteStride"] = padded.shape[1]
        kind = {2: "VEC2", 3: "VEC3", 4: "VEC4"}[rows.shape[1]]
        accessor = {"bufferView": view, "componentType": types[rows.dtype.str[1:]], "count": len(rows), "type": kind}
        binary.accessors.append(accessor | kinds.get(name, {}))
    primitive: dict[str, Any] = {"attributes": named, "mode": mode}
    if faces is not None:
        primitive["indices"] = binary.indices(faces)
    primitive |= extra.pop("primitive", {})
    for data in extra.pop("views", []):
        binary.view(data)
    return one_mesh_glb(primitive, binary, "", extra)
