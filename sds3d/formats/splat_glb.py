"""Gaussian splats in binary glTF 2.0, with the extension KHR_gaussian_splatting.

Frame: the world frame is glTF's (right-handed, +Y up, front +Z, metres), so nothing is converted.
Layout: a primitive of points with POSITION, `KHR_gaussian_splatting:` ROTATION (x, y, z, w), SCALE (metres), OPACITY
and SH_DEGREE_l_COEF_n, all float. COLOR_0 makes viewers that do not know the extension show coloured points; it is in
linear light, as glTF defines it, while the harmonics stay sRGB. `glb_chunks` has the binary layout.
Specification: https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting, as of its
release candidate of July 2026. Earlier drafts named the attributes differently, so their readers cannot read this.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sds3d.formats.base import FileFormat, valid_gaussians
from sds3d.formats.glb_chunks import Binary, is_glb, one_mesh_glb, primitives, read_chunks
from sds3d.geometry.colors import srgb_to_linear
from sds3d.geometry.mesh import FloatArray
from sds3d.geometry.splats import Splats

EXTENSION = "KHR_gaussian_splatting"
"""Name of the extension in documents, and prefix of its attributes."""
_POINTS = 0
_COLOR_SPACE = "srgb_rec709_display"
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}


def to_splat_glb(splats: Splats, name: str = "asset") -> bytes:
    """Return the Gaussians as one GLB file: 72 bytes each, plus 12 for each harmonic above the constant one.

    Raises ValueError for splats that `Splats.checked` refuses, and beyond the 4 GiB that a GLB can hold.
    """
    splats = splats.checked()
    binary = Binary()
    fallback = np.concatenate([srgb_to_linear(splats.colors()), splats.opacities[:, None]], axis=1)
    attributes = {
        "POSITION": binary.attribute(splats.means, bounded=True),
        "COLOR_0": binary.attribute(fallback),
        f"{EXTENSION}:ROTATION": binary.attribute(np.roll(splats.quats, -1, axis=1)),
        f"{EXTENSION}:SCALE": binary.attribute(splats.scales),
        f"{EXTENSION}:OPACITY": binary.attribute(splats.opacities),
        **{key: binary.attribute(splats.sh[:, k]) for k, key in enumerate(_harmonics(splats.degree))},
    }
    extension = {
        "kernel": "ellipse",
        "colorSpace": _COLOR_SPACE,
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {"attributes": attributes, "mode": _POINTS, "extensions": {EXTENSION: extension}}
    return one_mesh_glb(primitive, binary, name, {"extensionsUsed": [EXTENSION]})


def from_splat_glb(data: bytes) -> Splats:
    """Return the Gaussians of a GLB file with one KHR_gaussian_splatting cloud, of ours or of another program.

    Every component type that the extension allows is read. Gaussians with NaN are left out with a warning.

    Raises ValueError, in one line, if data is truncated or not a GLB, has no cloud or several, has a cloud that its
    node moves, or colours that are not sRGB.
    """
    document, binary = read_chunks(data)
    try:
        clouds = _clouds(document)
        if len(clouds) != 1:
            raise ValueError(f"a GLB with one cloud of Gaussian splats can be read, this one has {len(clouds)}")
        space = clouds[0]["extensions"][EXTENSION]["colorSpace"]
        if space != _COLOR_SPACE:
            raise ValueError(f"Gaussian splats with colours in {_COLOR_SPACE} can be read, not in {space}")
        moves = {"matrix", "translation", "rotation", "scale"}
        if any(moves & node.keys() for node in document.get("nodes", [])):
            raise ValueError("the GLB moves its Gaussian splats by a node: apply the transform and export it again")
        attributes = clouds[0]["attributes"]
        degree = max(degree for degree in range(4) if not degree or _harmonics(degree)[-1] in attributes)

        def read(key: str, kind: str) -> FloatArray:
            return _read(document, binary, attributes[key], kind)

        return valid_gaussians(
            Splats(
                read("POSITION", "VEC3"),
                np.roll(read(f"{EXTENSION}:ROTATION", "VEC4"), 1, axis=1),
                read(f"{EXTENSION}:SCALE", "VEC3"),
                read(f"{EXTENSION}:OPACITY", "SCALAR")[:, 0],
                np.stack([read(key, "VEC3") for key in _harmonics(degree)], axis=1),
            )
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the GLB is malformed: {type(error).__name__} {error}") from None


def _clouds(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [primitive for primitive in primitives(document) if EXTENSION in primitive.get("extensions", {})]


def _harmonics(degree: int) -> list[str]:
    """Return the names of the attributes of all coefficients up to a degree, in the order of `Splats.sh`."""
    return [f"{EXTENSION}:SH_DEGREE_{d}_COEF_{n}" for d in range(degree + 1) for n in range(2 * d + 1)]


def _read(document: dict[str, Any], binary: memoryview, index: int, kind: str) -> FloatArray:
    """Return the values, (N, 1), (N, 3) or (N, 4) float32, of an accessor that must be of the given type."""
    accessor = document["accessors"][index]
    if accessor["type"] != kind or "sparse" in accessor or "bufferView" not in accessor:
        raise ValueError(f"the GLB has an accessor that cannot be read: {kind}, dense and in a buffer, is needed")
    view = document["bufferViews"][accessor["bufferView"]]
    component, count, width = np.dtype(_COMPONENTS[accessor["componentType"]]), accessor["count"], _WIDTHS[kind]
    row = width * component.itemsize
    stride = view.get("byteStride", row)
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    if view["buffer"] or start < 0 or count < 1 or stride < row or start + (count - 1) * stride + row > len(binary):
        raise ValueError("the GLB is truncated or malformed: an accessor reaches beyond the binary chunk")
    stored = np.ndarray((count, width), component, binary, start, (stride, component.itemsize))
    values = stored.astype(np.float32)
    if accessor.get("normalized"):
        values = np.maximum(values / np.iinfo(component).max, -1)
    return values


SPLAT_GLB = FileFormat(
    "splat-glb",
    "-splats.glb",
    Splats,
    write=to_splat_glb,
    read=lambda data, _: from_splat_glb(data),
    recognises=lambda data: is_glb(data) and bool(_clouds(read_chunks(data)[0])),
    default=True,
)
