"""Gaussian splats in glTF 2.0 with the extension KHR_gaussian_splatting: `.glb` written, `.gltf` read too.

Frame: the world frame is glTF's (right-handed, +Y up, front +Z, metres), so nothing is converted.
Layout: a primitive of points with POSITION, `KHR_gaussian_splatting:` ROTATION (x, y, z, w), SCALE (metres), OPACITY
and SH_DEGREE_l_COEF_n, all float. COLOR_0 makes viewers that do not know the extension show coloured points; it is in
linear light, as glTF defines it, while the harmonics stay sRGB. `glb_chunks` has the binary layout.
Specification: https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting, as of its
release candidate of July 2026. Earlier drafts named the attributes differently, so their readers cannot read this.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sds3d.formats.base import FileFormat, valid_gaussians
from sds3d.formats.glb_chunks import Binary, is_glb, one_mesh_glb, primitives, read_chunks
from sds3d.formats.gltf_accessors import plain, stored
from sds3d.formats.gltf_document import SPLATS as EXTENSION
from sds3d.formats.gltf_document import Document, parse
from sds3d.geometry.colors import srgb_to_linear
from sds3d.geometry.mesh import FloatArray
from sds3d.geometry.splats import Splats

_POINTS = 0
_COLOR_SPACE = "srgb_rec709_display"
_KERNEL = "ellipse"


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
        "kernel": _KERNEL,
        "colorSpace": _COLOR_SPACE,
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {"attributes": attributes, "mode": _POINTS, "extensions": {EXTENSION: extension}}
    return one_mesh_glb(primitive, binary, name, {"extensionsUsed": [EXTENSION]})


def from_splat_glb(data: bytes, folder: Path = Path()) -> Splats:
    """Return the Gaussians of a GLB or glTF file with one KHR_gaussian_splatting cloud, of ours or of another program.

    Every component type that the extension allows is read. Gaussians with NaN are left out with a warning, and so is
    what the file has beside the cloud. folder: holds the files that it refers to.

    Raises ValueError, in one line, if data is truncated or not glTF, has no cloud or several, has a cloud that its
    node moves, colours that are not sRGB, or kernels that are no ellipsoids.
    """
    document = parse(data, folder)
    try:
        clouds = _clouds(document.json)
        if len(clouds) != 1:
            raise ValueError(f"a glTF with one cloud of Gaussian splats can be read, this one has {len(clouds)}")
        extension = clouds[0]["extensions"][EXTENSION]
        if extension["colorSpace"] != _COLOR_SPACE:
            space = extension["colorSpace"]
            raise ValueError(f"Gaussian splats with colours in {_COLOR_SPACE} can be read, not in {space}")
        if extension.get("kernel", _KERNEL) != _KERNEL:
            raise ValueError(f'splats with the kernel "{_KERNEL}" can be read, not {str(extension["kernel"])[:40]}')
        moves = {"matrix", "translation", "rotation", "scale"}
        if any(moves & node.keys() for node in document.items("nodes")):
            raise ValueError("the glTF moves its Gaussian splats by a node: apply the transform and export it again")
        attributes = clouds[0]["attributes"]
        degree = max(degree for degree in range(4) if not degree or _harmonics(degree)[-1] in attributes)
        splats = Splats(
            _read(document, attributes["POSITION"], 3),
            np.roll(_read(document, attributes[f"{EXTENSION}:ROTATION"], 4), 1, axis=1),
            _read(document, attributes[f"{EXTENSION}:SCALE"], 3),
            _read(document, attributes[f"{EXTENSION}:OPACITY"], 1)[:, 0],
            np.stack([_read(document, attributes[key], 3) for key in _harmonics(degree)], axis=1),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the glTF is malformed: {type(error).__name__} {error}") from None
    if len(primitives(document.json)) > 1:
        warnings.warn("left out of the splats: what the glTF has beside them, such as meshes", stacklevel=3)
    return valid_gaussians(splats)


def _clouds(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [primitive for primitive in primitives(document) if EXTENSION in primitive.get("extensions", {})]


def _harmonics(degree: int) -> list[str]:
    """Return the names of the attributes of all coefficients up to a degree, in the order of `Splats.sh`."""
    return [f"{EXTENSION}:SH_DEGREE_{d}_COEF_{n}" for d in range(degree + 1) for n in range(2 * d + 1)]


def _read(document: Document, index: int, width: int) -> FloatArray:
    """Return the values (N, width) of an accessor that must have this width."""
    values = stored(document, index)
    if values.shape[1] != width:
        raise ValueError(
            f"the glTF is malformed: an attribute of its splats has {values.shape[1]} numbers, not {width}"
        )
    if values.dtype.kind != "f":
        values = plain(values, document.items("accessors")[index])
    return values.astype(np.float32)


def _recognises(data: bytes) -> bool:
    """Whether data is a GLB or glTF file with Gaussian splats."""
    if is_glb(data):
        return bool(_clouds(read_chunks(data)[0]))
    if not data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") or EXTENSION.encode() not in data:
        return False
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return bool(_clouds(document))


SPLAT_GLB = FileFormat(
    "splat-glb",
    "-splats.glb",
    Splats,
    write=to_splat_glb,
    read=from_splat_glb,
    recognises=_recognises,
    default=True,
)
