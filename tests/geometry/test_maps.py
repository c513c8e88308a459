"""Maps that are baked from geometry: normals of a finer mesh in a tangent basis, materials, occlusion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from sds3d.geometry.maps import lighter, tangents, with_occlusion
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import mesh_materials
from sds3d.geometry.uv_atlas import bake, rasterize_uv


def mesh_of(shape: trimesh.Trimesh, **more: np.ndarray) -> Mesh:
    vertices = np.asarray(shape.vertices, np.float32)
    normals = np.asarray(shape.vertex_normals, np.float32)
    return Mesh(vertices, np.asarray(shape.faces, np.int32), normals=normals, **more)


def ball(subdivisions: int = 5) -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions, 0.4)
    vertices = np.asarray(shape.vertices, np.float32)
    colors = np.float32(0.5) + vertices  # red grows along x, and so on
    materials = np.stack([0.5 + vertices[:, 1], 0.5 - vertices[:, 1]], axis=1)
    return mesh_of(shape, colors=colors, materials=materials)


def texels(mesh: Mesh, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which texels are on the mesh, and their corners' vertices and weights."""
    assert mesh.uv is not None
    face, weights = rasterize_uv(mesh.uv, mesh.faces, size)
    inside = face >= 0
    return inside, mesh.faces[face[inside]], weights[inside][..., None]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def decoded(mesh: Mesh, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points and the normals there as a viewer reads them from the normal map."""
    assert mesh.normal_map is not None
    assert mesh.normals is not None
    assert mesh.tangents is not None
    inside, corners, weights = texels(mesh, size)
    normal = unit((mesh.normals[corners] * weights).sum(1))
    tangent = unit((mesh.tangents[corners][..., :3] * weights).sum(1))
    bitangent = np.cross(normal, tangent) * mesh.tangents[corners[:, 0], 3:]
    x, y, z = (mesh.normal_map[inside].astype(np.float64) / 127.5 - 1).T[..., None]
    return (mesh.vertices[corners] * weights).sum(1), unit(x * tangent + y * bitangent + z * normal)


def test_tangents_are_those_of_gltf() -> None:
    # A square that faces +Z and shows its picture upright: u grows to the right, v downwards.
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    faces, up = np.array([[0, 1, 2], [0, 2, 3]], np.int32), np.tile(np.float32([0, 0, 1]), (4, 1))
    uv = np.stack([vertices[:, 0], -vertices[:, 1]], axis=1) / 2 + 0.5
    np.testing.assert_allclose(tangents(Mesh(vertices, faces, normals=up, uv=uv)), np.tile([1, 0, 0, 1], (4, 1)))
    mirrored = np.stack([1 - uv[:, 0], uv[:, 1]], axis=1)
    np.testing.assert_allclose(
        tangents(Mesh(vertices, faces, normals=up, uv=mirrored)), np.tile([-1, 0, 0, -1], (4, 1))
    )
    turned = np.stack([uv[:, 1], 1 - uv[:, 0]], axis=1)  # u grows downwards, the picture's top is to the right
    np.testing.assert_allclose(
        tangents(Mesh(vertices, faces, normals=up, uv=turned)), np.tile([0, -1, 0, 1], (4, 1)), atol=1e-6
    )


def test_a_coarse_ball_has_the_normals_colours_and_material_of_the_fine_one() -> None:
    fine, size = ball(), 256
    coarse = lighter(fine, 300, size)
    assert len(coarse.faces) <= 300
    points, normals = decoded(coarse, size)
    angles = np.degrees(np.arccos((normals * unit(points)).sum(1).clip(-1, 1)))
    assert np.median(angles) < 1.0  # 8 bits are half a degree
    assert np.quantile(angles, 0.99) < 3.0
    assert coarse.normals is not None
    inside, corners, weights = texels(coarse, size)
    plain = unit((coarse.normals[corners] * weights).sum(1))
    assert np.quantile(np.degrees(np.arccos((plain * unit(points)).sum(1).clip(-1, 1))), 0.99) > 5.0  # without the map
    assert coarse.texture is not None
    assert coarse.metallic_roughness is not None
    true = 0.5 + 0.4 * unit(points)
    assert np.abs(coarse.texture[inside] / 255 - true).max() < 0.03
    assert np.abs(coarse.metallic_roughness[inside][:, 2] / 255 - true[:, 1]).max() < 0.03
    assert np.abs(coarse.metallic_roughness[inside][:, 1] / 255 - (1 - true[:, 1])).max() < 0.03


def test_thin_walls_keep_the_colours_of_each_side() -> None:
    # A shell of 6 mm, thinner than what 600 faces are off a ball of 0.4 m; red outside, blue inside.
    outer = trimesh.creation.icosphere(4, 0.4)
    vertices, faces = np.asarray(outer.vertices, np.float32), np.asarray(outer.faces, np.int32)
    red, blue = (np.tile(np.float32(color), (len(vertices), 1)) for color in ((1, 0, 0), (0, 0, 1)))
    shell = Mesh(
        np.concatenate([vertices, vertices * np.float32(0.394 / 0.4)]),
        np.concatenate([faces, faces[:, ::-1] + len(vertices)]),
        colors=np.concatenate([red, blue]),
        normals=np.concatenate([vertices, -vertices]) / np.float32(0.4),
    )
    coarse = lighter(shell, 600, 256)
    assert coarse.normals is not None
    assert coarse.texture is not None
    inside, corners, weights = texels(coarse, 256)
    outwards = ((coarse.normals[corners] * weights).sum(1) * (coarse.vertices[corners] * weights).sum(1)).sum(1) > 0
    assert 0.4 < outwards.mean() < 0.6
    np.testing.assert_array_equal(
        coarse.texture[inside], np.where(outwards[:, None], np.uint8([255, 0, 0]), np.uint8([0, 0, 255]))
    )
    points, normals = decoded(coarse, 256)
    true = unit(points) * np.where(outwards, 1, -1)[:, None]
    assert np.degrees(np.arccos((normals * true).sum(1).clip(-1, 1))).max() < 5


def test_a_small_enough_mesh_stays_as_it_is() -> None:
    mesh = ball(2)
    assert lighter(mesh, len(mesh.faces), 64) is mesh


def test_materials_are_baked_and_a_uniform_one_stays_a_factor() -> None:
    mesh = ball(4)
    baked = bake(mesh, None, 256)
    assert baked.uv is not None
    assert baked.materials is None
    assert baked.metallic_roughness is not None
    inside, corners, weights = texels(baked, 256)
    height = (baked.vertices[corners] * weights).sum(1)[:, 1]
    np.testing.assert_allclose(baked.metallic_roughness[inside][:, 2] / 255, 0.5 + height, atol=0.003)
    np.testing.assert_allclose(baked.metallic_roughness[inside][:, 1] / 255, 0.5 - height, atol=0.003)
    uniform = bake(replace(mesh, materials=np.tile(np.float32([0.2, 0.6]), (len(mesh.vertices), 1))), None, 64)
    assert uniform.metallic_roughness is None
    assert (uniform.metallic, uniform.roughness) == (pytest.approx(0.2, abs=1e-3), pytest.approx(0.6, abs=1e-3))
    faces, middle = np.arange(len(baked.faces)), np.full((len(baked.faces), 3), 1 / 3)
    again = mesh_materials(baked, faces, middle)
    np.testing.assert_allclose(again[:, 0], 0.5 + baked.vertices[baked.faces].mean(1)[:, 1], atol=0.03)


def occluded(mesh: Mesh, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    baked = with_occlusion(bake(replace(mesh, colors=np.ones_like(mesh.vertices)), None, size), size)
    assert baked.occlusion is not None
    inside, corners, weights = texels(baked, len(baked.occlusion))
    return (baked.vertices[corners] * weights).sum(1), baked.occlusion[inside] / 255


def test_a_ball_is_open_everywhere_and_the_inside_of_a_ring_is_not() -> None:
    _, share = occluded(ball(4))
    assert share.min() > 0.98
    points, share = occluded(mesh_of(trimesh.creation.torus(0.3, 0.15, 48, 32)))
    around = np.linalg.norm(points[:, :2], axis=1)
    assert share[around > 0.43].min() > 0.98
    assert share[around < 0.17].mean() < 0.7


def test_occlusion_needs_uv() -> None:
    with pytest.raises(ValueError, match="needs uv"):
        with_occlusion(ball(1), 64)
