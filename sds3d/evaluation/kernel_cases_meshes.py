"""Cases of meshes: rasterising, interpolation, antialiasing, edges, and all together."""

# Arguments are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import trimesh
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.evaluation.kernel_case import (
    Builder,
    Case,
    Operations,
    bound,
    lumpy_radius,
    scene_name,
    short,
)
from sds3d.rendering import mesh_differentiable as meshes
from sds3d.rendering.mesh_differentiable import Raster

_MESHES = (
    (2, 32),
    (3, 64),
    (3, 128),
    (3, 256),
    (4, 64),
    (5, 64),
    (5, 128),
    (5, 256),
    (6, 64),
    (6, 128),
    (6, 256),
    (6, 512),
)
_PARTS = ((2, 32), (3, 64), (4, 64), (5, 128), (6, 256))  # meshes for the steps, which are measured one by one


class _Lumps:
    """A lumpy ball of 20 4^k triangles with vertex colours, and C cameras."""

    def __init__(self, subdivisions: int, size: int, views: int, device: torch.device) -> None:
        ball = trimesh.creation.icosphere(subdivisions=subdivisions)
        directions = torch.tensor(ball.vertices, dtype=torch.float32)
        self.vertices = (directions * lumpy_radius(directions)[:, None]).to(device).requires_grad_()
        self.faces = torch.tensor(ball.faces, dtype=torch.int32, device=device)
        self.colors = (0.5 + 0.5 * torch.sin(8 * directions)).to(device).requires_grad_()
        self.cameras: Cameras = turntable(views, size=size).to(device)
        self.scene = scene_name(len(self.faces), "faces", size, views)
        with torch.no_grad():
            self.raster = meshes.rasterize_mesh(self.vertices, self.faces, self.cameras)
        self.covered = int((self.raster.face >= 0).sum())
        self.pixels = self.raster.face.numel()
        # The reference tries every face at every pixel of a view, in about 12 arrays (F, H W, 3).
        self.nearest_bytes = 12 * 12.0 * len(self.faces) * size * size

    def rasterising(self) -> Operations:
        """Return the operations of rasterising.

        Forward: 25 per vertex; 4 per face; for a face that contains a pixel's centre, 30 more and 16 per pixel of its
        bounding box, whose rows are padded to multiples of eight; 37 per covered pixel. Backward: 81 per covered pixel
        and 38 per vertex.
        """
        views = len(self.cameras)
        screen = meshes._project_reference(self.vertices.detach(), meshes._view(self.cameras, self.vertices))
        corners = screen[:, self.faces.long(), :2]  # (B, F, 3, 2)
        extent = torch.tensor([self.cameras.width, self.cameras.height]).to(corners) - 1
        low = (corners.amin(2) - 0.5).ceil().clamp(min=0)
        high = torch.minimum((corners.amax(2) - 0.5).floor(), extent)
        across, down = (high - low + 1).clamp(min=0).unbind(-1)  # each (B, F)
        lanes = ((across / 8).ceil() * 8 * down).sum().item()
        held = ((across > 0) & (down > 0)).sum().item()
        vertices = views * len(self.vertices)
        forward = 25 * vertices + 4 * views * len(self.faces) + 30 * held + 16 * lanes + 37 * self.covered
        return forward, 81 * self.covered + 38 * vertices

    def interpolation(self) -> Operations:
        """Return the operations of interpolating three channels."""
        return 5 * 3 * self.covered, 12 * 3 * self.covered

    def antialiasing(self) -> Operations:
        """Return the operations of antialiasing: per face and vertex. The few pixels of the outline are not counted."""
        views = len(self.cameras)
        return views * (7 * len(self.faces) + 25 * len(self.vertices)), 38 * views * len(self.vertices)


def mesh_rasterising(subdivisions: int, size: int, device: torch.device) -> Case:
    """Return the case of `rasterize_mesh`."""
    mesh = _Lumps(subdivisions, size, 1, device)
    return Case(
        "mesh rasterising",
        mesh.scene,
        lambda: meshes.rasterize_mesh(mesh.vertices, mesh.faces, mesh.cameras)[1:],
        lambda: meshes.rasterize_mesh_reference(mesh.vertices, mesh.faces, mesh.cameras)[1:],
        (mesh.vertices,),
        mesh.pixels,
        "pixels",
        mesh.rasterising(),
        mesh.nearest_bytes if device.type == "cpu" else 0.0,
        library="Warp",
    )


def mesh_interpolation(subdivisions: int, size: int, device: torch.device) -> Case:
    """Return the case of `interpolate` for colours."""
    mesh = _Lumps(subdivisions, size, 1, device)
    barycentric = mesh.raster.barycentric.requires_grad_()
    raster = Raster(mesh.raster.face, barycentric, mesh.raster.depth)
    return Case(
        "mesh interpolation",
        mesh.scene,
        lambda: (meshes.interpolate(mesh.colors, mesh.faces, raster),),
        lambda: (meshes.interpolate_reference(mesh.colors, mesh.faces, raster),),
        (mesh.colors, barycentric),
        mesh.pixels,
        "pixels",
        mesh.interpolation(),
        200.0 * mesh.pixels,
    )


def mesh_antialiasing(subdivisions: int, size: int, device: torch.device) -> Case:
    """Return the case of `antialias` for colours."""
    mesh = _Lumps(subdivisions, size, 1, device)
    with torch.no_grad():
        pictures = meshes.interpolate(mesh.colors, mesh.faces, mesh.raster).requires_grad_()
    return Case(
        "mesh antialiasing",
        mesh.scene,
        lambda: (meshes.antialias(pictures, mesh.raster, mesh.vertices, mesh.faces, mesh.cameras),),
        lambda: (meshes.antialias_reference(pictures, mesh.raster, mesh.vertices, mesh.faces, mesh.cameras),),
        (pictures, mesh.vertices),
        mesh.pixels,
        "pixels",
        mesh.antialiasing(),
        600.0 * mesh.pixels + 200.0 * len(mesh.faces),
        library="Warp",
    )


def mesh_edges(subdivisions: int, device: torch.device) -> Case:
    """Return the case of `mesh_edges` for faces that it has not seen before."""
    faces = _Lumps(subdivisions, 8, 1, device).faces
    n_vertices = int(faces.max()) + 1
    return Case(
        "mesh edges",
        f"{short(len(faces))} faces",
        lambda: tuple(meshes.mesh_edges(faces.clone(), n_vertices)),  # a clone, because the last result is cached
        lambda: tuple(meshes.mesh_edges_reference(faces)),
        (),
        len(faces),
        "faces",
        (0.0, 0.0),
        500.0 * len(faces),
    )


def mesh_whole(subdivisions: int, size: int, device: torch.device, views: int = 1) -> Case:
    """Return the case of rasterising, interpolating colours and antialiasing."""
    mesh = _Lumps(subdivisions, size, views, device)

    def run() -> tuple[Tensor, ...]:
        raster = meshes.rasterize_mesh(mesh.vertices, mesh.faces, mesh.cameras)
        pictures = meshes.interpolate(mesh.colors, mesh.faces, raster)
        return (meshes.antialias(pictures, raster, mesh.vertices, mesh.faces, mesh.cameras),)

    def reference() -> tuple[Tensor, ...]:
        raster = meshes.rasterize_mesh_reference(mesh.vertices, mesh.faces, mesh.cameras)
        pictures = meshes.interpolate_reference(mesh.colors, mesh.faces, raster)
        return (meshes.antialias_reference(pictures, raster, mesh.vertices, mesh.faces, mesh.cameras),)

    parts = mesh.rasterising(), mesh.interpolation(), mesh.antialiasing()
    return Case(
        "mesh",
        mesh.scene,
        run,
        reference,
        (mesh.vertices, mesh.colors),
        mesh.pixels,
        "pixels",
        (sum(part[0] for part in parts), sum(part[1] for part in parts)),
        mesh.nearest_bytes if device.type == "cpu" else 0.0,
        library="Warp",
    )


def groups() -> list[list[Builder]]:
    """Return makers of all cases, one list per kernel, the smallest scene first."""
    return [
        [bound(mesh_rasterising, *case) for case in _PARTS],
        [bound(mesh_interpolation, *case) for case in _PARTS],
        [bound(mesh_antialiasing, *case) for case in _PARTS],
        [bound(mesh_edges, k) for k in (3, 4, 5, 6)],
        [*(bound(mesh_whole, *case) for case in _MESHES), bound(mesh_whole, 5, 128, views=4)],
    ]
