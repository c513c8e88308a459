"""Maps of a material that are baked from geometry: normals of a finer mesh, and occlusion."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray, IntArray, Mesh
from sds3d.geometry.rays import nearest_hits, open_share, tree
from sds3d.geometry.sampling import mesh_colors, mesh_materials
from sds3d.geometry.triangles import simplify, vertex_normals
from sds3d.geometry.uv_atlas import filled, rasterize_uv, unwrap, with_materials

_REACH = 0.05  # how far the finer mesh may be from the coarser, relative to its largest side
_OCCLUDED = 0.5  # how far an occluder may be, relative to the largest side
_DIRECTIONS = 64
_OCCLUSION_SIZE = 256  # texels per side at most: occlusion is smooth, and rays cost time


def lighter(mesh: Mesh, faces: int, size: int) -> Mesh:
    """Return a mesh of at most `faces` triangles that looks like `mesh`: with its base colours, its material and its
    normals in textures of size x size, and with tangents. A mesh that is small enough is returned unchanged.

    Raises ValueError for a mesh that cannot be unwrapped.
    """
    coarse = simplify(mesh, faces)
    if coarse is mesh:
        return mesh
    origin, corners, uv = unwrap(coarse.vertices, coarse.faces, size)
    normals = vertex_normals(coarse.vertices, coarse.faces)[origin]
    made = Mesh(coarse.vertices[origin], corners, normals=normals, uv=uv)
    made = replace(made, metallic=mesh.metallic, roughness=mesh.roughness, tangents=tangents(made))
    face, weights = rasterize_uv(uv, corners, size)
    inside = face >= 0
    texels = _Surface(made, face[inside], weights[inside])
    found, hit_weights = _on(mesh, texels.points, texels.normals)
    color = np.rint(255 * np.clip(mesh_colors(mesh, found, hit_weights), 0, 1))
    made = replace(made, texture=filled(inside, color.astype(np.uint8)))
    if mesh.materials is not None or mesh.metallic_roughness is not None:
        made = with_materials(made, inside, mesh_materials(mesh, found, hit_weights))
    fine = mesh.normals if mesh.normals is not None else vertex_normals(mesh.vertices, mesh.faces)
    target = _unit((fine[mesh.faces[found]] * hit_weights[..., None]).sum(axis=1))
    local = _unit(np.einsum("pij,pj->pi", np.linalg.inv(texels.frames()), target))
    local[local[:, 2] < 0.05] = (0.0, 0.0, 1.0)  # a finer surface that looks the other way is not what was meant
    return replace(made, normal_map=filled(inside, np.rint((local + 1) * 127.5).clip(0, 255).astype(np.uint8)))


def with_occlusion(mesh: Mesh, size: int) -> Mesh:
    """Return the mesh with an occlusion map of at most size x size: the share of the light from everywhere that is not
    hidden by the mesh itself, by 64 rays a texel over half of its largest side. Raises ValueError without uv.
    """
    if mesh.uv is None:
        raise ValueError("an occlusion map needs uv coordinates")
    face, weights = rasterize_uv(mesh.uv, mesh.faces, min(size, _OCCLUSION_SIZE))
    inside = face >= 0
    texels = _Surface(mesh, face[inside], weights[inside])
    reach = float(np.ptp(mesh.vertices, axis=0).max())
    # Golden-angle spiral over the sphere.
    height = 1 - (2 * np.arange(_DIRECTIONS) + 1) / _DIRECTIONS
    turn = np.arange(_DIRECTIONS) * (math.pi * (3 - math.sqrt(5)))
    level = np.sqrt(1 - height**2)
    sphere = np.stack([level * np.cos(turn), height, level * np.sin(turn)], axis=1)
    out = np.empty(len(texels.points), np.float32)
    open_share(
        tree(mesh.vertices, mesh.faces),
        texels.points,
        texels.flat_normals(),
        sphere,
        1e-4 * reach,
        _OCCLUDED * reach,
        out,
    )
    return replace(mesh, occlusion=filled(inside, np.rint(255 * out).astype(np.uint8)[:, None])[..., 0])


def tangents(mesh: Mesh) -> FloatArray:
    """Return the tangents (V, 4) of a mesh with uv and normals, as glTF 2.0 defines them (section 3.7.2.1).

    They are unit vectors along growing u, at right angles to the normal, and the sign of the bitangent, cross(normal,
    tangent) sign, which points to the top of the picture. They are means over the faces, weighted by the angles at the
    vertex, as MikkTSpace's are; a vertex has the sign of most of them.
    """
    assert mesh.uv is not None
    assert mesh.normals is not None
    corners, uv = mesh.vertices[mesh.faces].astype(np.float64), mesh.uv[mesh.faces].astype(np.float64)
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    d1, d2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    area = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]  # twice the signed area in the picture, v downwards
    along_u = _unit((e1 * d2[:, 1:] - e2 * d1[:, 1:]) * np.sign(area)[:, None])
    total, sign = np.zeros((len(mesh.vertices), 3)), np.zeros(len(mesh.vertices))
    for k in range(3):
        before, after = (_unit(corners[:, (k + i) % 3] - corners[:, k]) for i in (2, 1))
        angle = np.arccos(np.einsum("fi,fi->f", before, after).clip(-1, 1))
        np.add.at(total, mesh.faces[:, k], along_u * angle[:, None])
        np.add.at(sign, mesh.faces[:, k], -np.sign(area) * angle)
    normal = mesh.normals.astype(np.float64)
    total -= np.einsum("vi,vi->v", total, normal)[:, None] * normal
    lost = np.linalg.norm(total, axis=1) < 1e-9
    total[lost] = np.cross(normal[lost], np.eye(3)[np.abs(normal[lost]).argmin(axis=1)])
    return np.concatenate([_unit(total), np.where(sign < 0, -1.0, 1.0)[:, None]], axis=1).astype(np.float32)


class _Surface:
    """Points on a mesh with normals: at faces (P,) with barycentric weights (P, 3)."""

    def __init__(self, mesh: Mesh, face: IntArray, weights: FloatArray) -> None:
        self.mesh, self.corners, self.weights = mesh, mesh.faces[face], weights.astype(np.float64)[..., None]
        self.points = np.ascontiguousarray((mesh.vertices[self.corners] * self.weights).sum(axis=1))

    @property
    def normals(self) -> NDArray[np.float64]:
        """The smooth normals (P, 3)."""
        assert self.mesh.normals is not None
        return _unit((self.mesh.normals[self.corners] * self.weights).sum(axis=1))

    def flat_normals(self) -> NDArray[np.float64]:
        """Return the normals of the triangles (P, 3): rays that begin along them never hit their own triangle."""
        a, b, c = (self.mesh.vertices[self.corners[:, k]].astype(np.float64) for k in range(3))
        return _unit(np.cross(b - a, c - a))

    def frames(self) -> NDArray[np.float64]:
        """Return tangent, bitangent and normal as the columns of matrices (P, 3, 3), as viewers interpolate them."""
        assert self.mesh.tangents is not None
        tangent, normal = self.mesh.tangents[self.corners], self.normals
        along = _unit((tangent[..., :3] * self.weights).sum(axis=1))
        return np.stack([along, np.cross(normal, along) * tangent[:, 0, 3:], normal], axis=-1)


def _on(
    mesh: Mesh, points: NDArray[np.float64], normals: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the faces (P,) and barycentric weights (P, 3) of a mesh that are nearest to points along their normals, in
    either direction.

    Faces that look the way of the normal come first; then others, and then what is at the nearest vertex.
    """
    reach = _REACH * float(np.ptp(mesh.vertices, axis=0).max())
    boxes = tree(mesh.vertices, mesh.faces)
    face, weights = np.full(len(points), -1, np.int32), np.zeros((len(points), 3))
    for either in (False, True):  # the other side of a thin wall may be nearer than the side that is meant
        left = np.flatnonzero(face < 0)
        best = np.full(len(left), np.inf)
        for sign in (1, -1):
            f, t, w = np.empty(len(left), np.int32), np.empty(len(left)), np.empty((len(left), 3))
            nearest_hits(boxes, points[left], sign * normals[left], reach, 0 if either else sign, f, t, w)
            nearer = (f >= 0) & (t < best)
            face[left[nearer]], weights[left[nearer]], best[nearer] = f[nearer], w[nearer], t[nearer]
    missed = face < 0
    if missed.any():
        vertex = scipy.spatial.KDTree(mesh.vertices).query(points[missed])[1]
        some = np.zeros(len(mesh.vertices), np.int64)
        corner = np.zeros(len(mesh.vertices), np.int64)
        for k in range(3):
            some[mesh.faces[:, k]], corner[mesh.faces[:, k]] = np.arange(len(mesh.faces)), k
        face[missed], weights[missed] = some[vertex], np.eye(3)[corner[vertex]]
    return face.astype(np.int64), weights


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return vectors (..., 3) of length 1; those without a length stay 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-20)
