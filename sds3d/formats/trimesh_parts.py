"""The parts of an OBJ, PLY or STL file as trimesh parses it.

Nothing is unpickled or executed. Pictures that a PLY refers to are read only from its own folder or below.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.resolvers import Resolver
from trimesh.visual import ColorVisuals

from sds3d.files import first_line
from sds3d.formats.looks import Look, Part
from sds3d.formats.neighbours import Neighbours
from sds3d.formats.pictures import rgb8
from sds3d.geometry.mesh import FloatArray

# It logs tracebacks of missing pictures and damaged files; warnings and errors tell these in one line.
logging.getLogger("trimesh").setLevel(logging.CRITICAL)

LookOf = Callable[[str, FloatArray | None, NDArray[np.float64] | None], Look]
"""The look of a material by its name, with the vertices' colours (V, 3) and UVs (V, 2), v down, or None."""


def parts(
    data: bytes, kind: str, files: Neighbours, *, has_normals: bool, look_of: LookOf | None = None
) -> Iterator[Part]:
    """Yield the triangle meshes of a file.

    kind: trimesh's name of the format. has_normals: whether the file has normals; trimesh would make them up.
    look_of: the materials of the file. Without it the file's own colours, UVs and picture are the look.
    Raises ValueError for a file that cannot be parsed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, within trimesh
            loaded: Any = trimesh.load(
                io.BytesIO(data), file_type=kind, resolver=_Files(files), process=False, force="scene"
            )
    except MemoryError:
        raise
    except Exception as error:  # parsers raise anything on files they did not expect
        raise ValueError(f"the file is truncated or damaged ({first_line(error)}): write it again") from error
    for node in loaded.graph.nodes_geometry:
        shape = loaded.geometry[loaded.graph[node][1]]
        if not isinstance(shape, trimesh.Trimesh) or not len(shape.faces):
            continue
        faces = np.asarray(shape.faces)
        if faces.min() < 0 or faces.max() >= len(shape.vertices):
            raise ValueError("a face names a vertex that does not exist: the file is damaged, write it again")
        normals = np.asarray(shape.vertex_normals, np.float64) if has_normals else None
        vertices = np.asarray(shape.vertices, np.float64)
        part = Part(vertices, faces.astype(np.int32), normals, _look(shape.visual, len(vertices), look_of))
        used, corners = np.unique(part.faces, return_inverse=True)
        if len(used) < len(vertices):  # each part of an OBJ has the vertices of all
            uv = None if part.look.uv is None else part.look.uv[used]
            part = part.taken(used, corners.reshape(-1, 3).astype(np.int32), uv)
        yield part


class _Files(Resolver):
    """The files beside an asset, for trimesh."""

    def __init__(self, files: Neighbours) -> None:
        self.files = files

    def get(self, key: str) -> bytes:
        return self.files.read(key)

    def keys(self) -> list[str]:
        return []

    def write(self, name: str, data: Any) -> None:
        raise PermissionError(name)

    def namespaced(self, namespace: str) -> _Files:
        raise PermissionError(namespace)


def _look(visual: Any, count: int, look_of: LookOf | None) -> Look:
    colors = _vertex_colors(visual, count)
    material: Any = getattr(visual, "material", None)
    uv = getattr(visual, "uv", None)
    if uv is not None:
        usable = len(uv) == count and np.isfinite(uv).all()
        uv = np.asarray(uv, np.float64)[:, :2] * [1, -1] + [0, 1] if usable else None
    if look_of is not None:
        return look_of(str(getattr(material, "name", "") or ""), colors, uv)
    image = getattr(material, "image", None)
    return Look(colors, uv, None if image is None else rgb8(image))


def _vertex_colors(visual: Any, count: int) -> FloatArray | None:
    """Return vertex colours (V, 3) in [0, 1] as the file stores them, or None."""
    if isinstance(visual, ColorVisuals):
        stored = visual.vertex_colors if visual.kind else None
    else:
        stored = visual.vertex_attributes.get("color")
    if stored is None or len(stored) != count:
        return None
    stored = np.asarray(stored)
    whole = np.iinfo(stored.dtype).max if stored.dtype.kind in "iu" else 1
    return np.clip(np.nan_to_num(stored[:, :3]) / whole, 0, 1).astype(np.float32)
