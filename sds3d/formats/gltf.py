"""Reading meshes of glTF 2.0, from `.glb` and `.gltf`: nodes, instances, skins, morph targets, strips and fans.

The mesh is read as the file's nodes pose it: joints where they stand, morph targets with their default weights. What a
mesh of triangles cannot hold is left out, with one warning that names it.
Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.formats.base import FileFormat
from sds3d.formats.gltf_accessors import numbers, plain, stored
from sds3d.formats.gltf_document import DRACO, INSTANCING, SPLATS, VISIBILITY, Document, draco_attributes, parse
from sds3d.formats.gltf_materials import Materials
from sds3d.formats.looks import Part
from sds3d.formats.parts import MOST_VERTICES, joined
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.triangles import without_repeated_corners

Matrix = NDArray[np.float64]
"""(4, 4), or (N, 4, 4)"""

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_TOO_MANY = f"the parts of the glTF have more than {MOST_VERTICES} vertices together: leave out some instances"
_MALFORMED = (KeyError, IndexError, TypeError, AttributeError, OverflowError, np.linalg.LinAlgError)


def from_gltf(data: bytes, folder: Path) -> Mesh:
    """Return the mesh of a `.glb` or `.gltf` file, with all its parts joined. folder: holds the files it refers to.

    Warns in one line of what is left out. Raises ValueError, in one line, for a file that is truncated, malformed,
    without triangles, or that requires an extension which cannot be read.
    """
    document = parse(data, folder)
    try:
        parts = list(_parts(document))
        if not parts and document.left_out:
            raise ValueError(f"there are no triangles in the file, but {', '.join(document.left_out)}: export a mesh")
        mesh = joined(parts)
    except _MALFORMED as error:
        raise ValueError(f"the glTF is malformed ({type(error).__name__}: {error}): export it again") from None
    if document.items("animations"):
        document.leave_out("animations")
    if document.left_out:
        warnings.warn(f"left out of the mesh: {', '.join(document.left_out)}", stacklevel=3)
    return mesh


def _parts(document: Document) -> Iterator[Part]:
    """Yield the parts of the scene in their places."""
    materials = Materials(document)
    worlds = _worlds(document)
    total = 0
    for number, world in worlds.items():
        node = document.items("nodes")[number]
        if "mesh" not in node:
            continue
        mesh = document.items("meshes")[node["mesh"]]
        weights = node.get("weights", mesh.get("weights", []))
        for primitive in mesh["primitives"]:
            read = _primitive(document, primitive, weights)
            if read is None:
                continue
            faces, attributes = read
            look = materials.look(primitive.get("material"), attributes)
            points, normals = attributes["POSITION"][:, :3], attributes.get("NORMAL")
            for place in _places(document, node, world, worlds, attributes):
                total += len(points)
                if total > MOST_VERTICES:
                    raise ValueError(_TOO_MANY)
                moved, turned, mirrored = _moved(place, points, normals)
                yield Part(moved, faces[:, ::-1] if mirrored else faces, turned, look)


def _worlds(document: Document) -> dict[int, Matrix]:
    """Return the transform from each visible node of the scene to the world, by the node's number."""
    nodes = document.items("nodes")
    scenes = document.items("scenes")
    if scenes:
        roots = scenes[document.json.get("scene", 0)].get("nodes", [])
    else:
        children = {child for node in nodes for child in node.get("children", [])}
        roots = [number for number in range(len(nodes)) if number not in children]
    worlds: dict[int, Matrix] = {}
    waiting = [(number, np.eye(4)) for number in reversed(roots)]
    while waiting:
        number, parent = waiting.pop()
        if number in worlds:
            raise ValueError(f"the glTF is malformed: node {number} has two parents, or is its own ancestor")
        node = nodes[number]
        if node.get("extensions", {}).get(VISIBILITY, {}).get("visible", True):
            worlds[number] = parent @ _local(node)
            waiting += [(child, worlds[number]) for child in reversed(node.get("children", []))]
    return worlds


def _local(node: dict[str, Any]) -> Matrix:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T  # stored column by column
    values = (node.get("translation", [0, 0, 0]), node.get("rotation", [0, 0, 0, 1]), node.get("scale", [1, 1, 1]))
    return _transforms(*(np.array([value], np.float64) for value in values))[0]


def _transforms(translation: NDArray[Any], rotation: NDArray[Any], scale: NDArray[Any]) -> Matrix:
    """Return matrices (N, 4, 4). translation, scale: (N, 3). rotation: (N, 4) quaternions x, y, z, w."""
    x, y, z, w = (rotation / np.maximum(np.linalg.norm(rotation, axis=1, keepdims=True), 1e-30)).T
    matrices = np.tile(np.eye(4), (len(translation), 1, 1))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrices[:, :3, :3] = np.moveaxis(np.array(rows), 2, 0) * scale[:, None, :]
    matrices[:, :3, 3] = translation
    return matrices


def _places(
    document: Document, node: dict[str, Any], world: Matrix, worlds: dict[int, Matrix], attributes: dict[str, Any]
) -> Iterator[Matrix]:
    """Yield where a node draws its mesh: (4, 4) for all vertices, or (V, 4, 4) with a skin."""
    if "skin" in node and {"JOINTS_0", "WEIGHTS_0"} <= attributes.keys():
        yield _skinned(document, document.items("skins")[node["skin"]], worlds, attributes)
        return
    instances = node.get("extensions", {}).get(INSTANCING, {}).get("attributes")
    if instances is None:
        yield world
        return
    given = {name: numbers(document, index) for name, index in instances.items() if not name.startswith("_")}
    count = min((len(values) for values in given.values()), default=1)
    if count * len(attributes["POSITION"]) > MOST_VERTICES:
        raise ValueError(_TOO_MANY)
    defaults = {"TRANSLATION": [0.0, 0, 0], "ROTATION": [0.0, 0, 0, 1], "SCALE": [1.0, 1, 1]}
    values = [given.get(name, np.tile(value, (count, 1)))[:count] for name, value in defaults.items()]
    for local in _transforms(*values):
        yield world @ local


def _skinned(
    document: Document, skin: dict[str, Any], worlds: dict[int, Matrix], attributes: dict[str, NDArray[np.float64]]
) -> Matrix:
    """Return the transform of each vertex (V, 4, 4) by the joints that it hangs on. The node's own does not count."""
    joints = skin["joints"]
    matrices = np.stack([worlds.get(joint, np.eye(4)) for joint in joints])
    if "inverseBindMatrices" in skin:
        inverse = numbers(document, skin["inverseBindMatrices"])[: len(joints)].reshape(-1, 4, 4)
        matrices = matrices @ inverse.transpose(0, 2, 1)
    count = len(attributes["POSITION"])
    blended, whole = np.zeros((count, 4, 4)), np.zeros(count)
    for group in range(len(attributes)):
        if f"JOINTS_{group}" not in attributes or f"WEIGHTS_{group}" not in attributes:
            break
        for joint, weight in zip(attributes[f"JOINTS_{group}"].T, attributes[f"WEIGHTS_{group}"].T, strict=True):
            blended += weight[:, None, None] * matrices[joint.astype(np.int64)]
            whole += weight
    blended[whole > 0] /= whole[whole > 0][:, None, None]
    blended[whole <= 0] = np.eye(4)
    return blended


def _moved(
    place: Matrix, points: NDArray[np.float64], normals: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, bool]:
    """Return points and normals in their place, and whether it mirrors them: triangles would look inwards then."""
    linear, shift = place[..., :3, :3], place[..., :3, 3]
    # Normals transform by the inverse transpose; the matrix of cofactors is that, times the determinant.
    a, b, c = np.moveaxis(linear, -2, 0)
    cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=-2)
    determinant = (a * cofactors[..., 0, :]).sum(-1)
    mirrored = bool(np.mean(determinant) < 0)
    if place.ndim == 2:
        moved = points @ linear.T + shift
        turned = None if normals is None else normals[:, :3] @ cofactors.T
    else:
        moved = np.einsum("vij,vj->vi", linear, points) + shift
        turned = None if normals is None else np.einsum("vij,vj->vi", cofactors, normals[:, :3])
    if turned is not None:
        turned = turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-30) * (-1 if mirrored else 1)
    return moved, turned, mirrored


def _primitive(
    document: Document, primitive: dict[str, Any], weights: list[float]
) -> tuple[NDArray[np.int32], dict[str, NDArray[np.float64]]] | None:
    """Return the faces (F, 3) and the attributes of a primitive with its morph targets, or None without triangles.

    Raises ValueError.
    """
    mode = primitive.get("mode", _TRIANGLES)
    if SPLATS in primitive.get("extensions", {}):
        document.leave_out("Gaussian splats")
        return None
    if mode not in (_TRIANGLES, _STRIP, _FAN):
        document.leave_out("points and lines")
        return None
    named = primitive["attributes"]
    draco = primitive.get("extensions", {}).get(DRACO)
    unpacked: dict[str, NDArray[Any]] = {}
    corners: NDArray[Any] | None = None
    if draco is not None:
        corners, unpacked = draco_attributes(document.view(draco["bufferView"]), draco["attributes"])
        corners, mode = corners.reshape(-1), _TRIANGLES  # Draco stores triangles, whatever the mode was
    elif "indices" in primitive:
        corners = stored(document, primitive["indices"])[:, 0]
    attributes = {
        name: plain(unpacked[name], document.items("accessors")[index])
        if name in unpacked
        else numbers(document, index)
        for name, index in named.items()
        if not name.startswith("_") and name != "TANGENT"
    }
    if "POSITION" not in attributes:
        return None
    for weight, target in zip(weights, primitive.get("targets", []), strict=False):
        for name in target.keys() & attributes.keys() if weight else ():
            change = numbers(document, target[name])
            attributes[name] = attributes[name].copy()
            attributes[name][:, : change.shape[1]] += weight * change
    count = len(attributes["POSITION"])
    if any(len(values) != count for values in attributes.values()):
        raise ValueError("the glTF is malformed: the attributes of a primitive differ in length")
    corners = np.arange(count) if corners is None else corners.astype(np.int64)
    faces = _triangles(corners, mode)
    if len(faces) and faces.max() >= count:
        raise ValueError("a face names a vertex that does not exist: the file is damaged, write it again")
    return (faces.astype(np.int32), attributes) if len(faces) else None


def _triangles(corners: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    """Return the triangles (F, 3) of a list, a strip or a fan; strips and fans without those of a repeated corner."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        faces = np.stack([corners[1:-1], corners[2:], np.full(len(corners) - 2, corners[0])], axis=1)
    else:
        faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
        faces[1::2, 1:] = faces[1::2, :0:-1]  # every other one runs the other way
    return without_repeated_corners(faces)


GLTF = FileFormat("gltf", ".gltf", Mesh, read=from_gltf)
