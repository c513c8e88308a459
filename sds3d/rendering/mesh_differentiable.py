"""Differentiable mesh rendering: rasterise, interpolate, antialias (Laine et al. 2020, arXiv:2011.03277).

Which face a pixel shows does not change smoothly, so `rasterize_mesh` and `interpolate` are differentiable only inside
faces. `antialias` adds the gradient of silhouettes: where a silhouette edge passes between the centres of two pixels,
it mixes the two pixels depending on where the edge passes, so that the edge's vertices receive a gradient.

In float32 all functions use kernels: Numba's on a CPU, NVIDIA Warp's on CUDA. Elsewhere the differentiable part is
plain torch, which is also the reference that the kernels are tested against. The choices (which face, which edge) are
then made by trying every face at every pixel, which is slow; on CUDA by the kernels of Warp or, without it, of Numba.
"""

# Arrays are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.rendering import gpu
from sds3d.rendering import mesh_antialias_numba as silhouettes
from sds3d.rendering import mesh_raster_numba as kernels
from sds3d.rendering import mesh_surface_numba as surface
from sds3d.rendering.mesh_edges import MeshEdges
from sds3d.rendering.mesh_surface_numba import NEAR, array_of


class Raster(NamedTuple):
    """The surface of a mesh at each pixel's centre, in B views. Empty pixels are 0 except in `face`.

    face: (B, H, W) int32, index of the nearest face, which is visible from both sides; -1 where empty.
    barycentric: (B, H, W, 3) perspective-correct weights of the face's vertices, differentiable in the vertices.
    depth: (B, H, W, 1) metres along the pixel's ray, differentiable in the vertices.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor


def rasterize_mesh(vertices: Tensor, faces: Tensor, cameras: Cameras, *, backend: gpu.Backend | None = None) -> Raster:
    """Find the nearest face of every pixel in B views, the point on it and its distance; see `Raster`.

    vertices: (V, 3) floating, metres. faces: (F, 3) int32 or int64. Faces are left out if a vertex is behind the
    camera, closer to it than NEAR, or not finite. backend: numba, warp or torch; default: the fastest that works.
    Raises ValueError for wrong shapes and dtypes, and for faces with indices out of range.
    """
    check_mesh(vertices, faces)
    backend = backend or gpu.choose("meshes", vertices)
    if backend == "torch":
        return rasterize_mesh_reference(vertices, faces, cameras)
    view = _view(cameras, vertices)
    if backend == "warp":
        from sds3d.rendering.mesh_surface_warp import Rasterize

        return Raster(*Rasterize.apply(_project_by_warp(vertices, view), _int32(faces), view.focal, view.size))
    return Raster(*surface.Rasterize.apply(surface.Project.apply(vertices, view), _int32(faces), view))


def interpolate(attributes: Tensor, faces: Tensor, raster: Raster, *, backend: gpu.Backend | None = None) -> Tensor:
    """Interpolate attributes of the vertices (V, C) at the pixels: (B, H, W, C), 0 where empty.

    Differentiable in the attributes and, through the barycentrics, in the mesh's vertices. backend: see
    `rasterize_mesh`.
    Raises ValueError for wrong shapes and dtypes, and for a raster of another mesh.
    """
    check_mesh(attributes, faces, "attributes", "C")
    _check_raster(raster, faces, attributes)
    backend = backend or gpu.choose("meshes", attributes)
    if backend == "numba":
        return surface.Interpolate.apply(attributes, raster.barycentric, _int32(faces), raster.face)
    if backend == "warp":
        from sds3d.rendering.mesh_surface_warp import Interpolate

        return Interpolate.apply(attributes, raster.barycentric, _int32(faces), raster.face)
    return interpolate_reference(attributes, faces, raster)


def antialias(
    pictures: Tensor,
    raster: Raster,
    vertices: Tensor,
    faces: Tensor,
    cameras: Cameras,
    *,
    backend: gpu.Backend | None = None,
) -> Tensor:
    """Smooth the silhouettes in pictures (B, H, W, C). Differentiable in the pictures and the vertices.

    Where a silhouette edge passes between the centres of two pixels, the surface reaches into one of them. That pixel
    takes as much of its neighbour's colour as the surface covers of it, measured along the line between the centres.
    Colours in [0, 1] stay in [0, 1], and the mask `face >= 0` becomes coverage.

    All silhouette edges are processed, that is, all edges with faces on only one side in the picture. The edges of
    visible faces would not be enough: they miss nearly all silhouettes of faces smaller than a pixel. Lines where two
    surfaces intersect are not edges and stay sharp.

    raster: of the same vertices, faces and cameras. backend: see `rasterize_mesh`.
    Raises ValueError for wrong shapes and dtypes, and for a raster of another mesh.
    """
    check_mesh(vertices, faces)
    _check_raster(raster, faces, pictures)
    if pictures.ndim != 4 or pictures.shape[:3] != raster.face.shape:
        raise ValueError(f"pictures must be {(*raster.face.shape, 'C')}, as the raster, got {tuple(pictures.shape)}")
    backend = backend or gpu.choose("meshes", vertices)
    if backend == "torch":
        return antialias_reference(pictures, raster, vertices, faces, cameras)
    view, edges = _view(cameras, vertices), mesh_edges(faces, len(vertices))
    if backend == "warp":
        from sds3d.rendering.mesh_silhouettes_warp import Antialias

        screen, distance = _project_by_warp(vertices, view), _distances(raster, view)
        return Antialias.apply(pictures, screen, _int32(faces), edges, distance)
    return surface.Antialias.apply(pictures, surface.Project.apply(vertices, view), raster, _int32(faces), edges, view)


def mesh_edges(faces: Tensor, n_vertices: int) -> MeshEdges:
    """Return the edges of faces (F, 3); see `MeshEdges`. The last result is cached until `faces` changes."""
    of, key, edges = _last_edges[0]
    if of() is not faces or key != (faces._version, n_vertices):
        if faces.device.type == "cpu":
            arrays = silhouettes.edges_of(array_of(_int32(faces)), n_vertices)
            edges = MeshEdges(*(torch.from_numpy(array) for array in arrays))
        else:
            edges = mesh_edges_reference(faces)
        _last_edges[0] = ref(faces), (faces._version, n_vertices), edges
    return edges


_last_edges: list[tuple[Any, tuple[int, int], Any]] = [(lambda: None, (0, 0), None)]


class _View(NamedTuple):
    viewmats: Tensor  # (B, 4, 4), world to OpenCV camera
    focal: Tensor  # (B,) pixels
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def _view(cameras: Cameras, like: Tensor) -> _View:
    matrices, focal = cameras.opencv_viewmats().to(like), cameras.intrinsics()[:, 0, 0].to(like)
    return _View(matrices.contiguous(), focal.contiguous(), cameras.height, cameras.width)


def _int32(faces: Tensor) -> Tensor:
    return faces.to(torch.int32).contiguous()


def check_mesh(values: Tensor, faces: Tensor, name: str = "vertices", columns: str = "3") -> None:
    """Raise ValueError unless values are floats (V, 3), or (V, C) with columns="C", and faces (F, 3) index them."""
    if values.ndim != 2 or (columns == "3" and values.shape[1] != 3) or not values.is_floating_point():
        raise ValueError(f"{name} must be (V, {columns}) of floats, got {tuple(values.shape)} {values.dtype}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"faces must be (F, 3) of int32 or int64, got {tuple(faces.shape)} {faces.dtype}")
    of, key = _last_checked[0]
    if faces.numel() and (of() is not faces or key != (faces._version, len(values))):  # reading it waits for a GPU
        low, high = torch.stack(faces.aminmax()).tolist()
        if low < 0 or high >= len(values):
            raise ValueError(f"faces must index the {len(values)} rows of {name}, got {low} to {high}")
        _last_checked[0] = ref(faces), (faces._version, len(values))


_last_checked: list[tuple[Any, tuple[int, int]]] = [(lambda: None, (0, 0))]


def _check_raster(raster: Raster, faces: Tensor, values: Tensor) -> None:
    # Not on a GPU, where it would wait for it in every step; such faces are left out there.
    if raster.face.device.type == "cpu" and raster.face.numel() and int(raster.face.max()) >= len(faces):
        raise ValueError(f"the raster is of another mesh: it shows face {int(raster.face.max())} of {len(faces)}")
    if values.dtype != raster.depth.dtype:
        raise ValueError(f"the values are {values.dtype}: convert them to the raster's {raster.depth.dtype}")


# ---- plain torch ----


def rasterize_mesh_reference(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Raster:
    """`rasterize_mesh` in plain torch, for any device and floating dtype. Slow except on CUDA, which has Warp."""
    check_mesh(vertices, faces)
    view = _view(cameras, vertices)
    screen, faces = _project_reference(vertices, view), faces.long()
    if _by_kernels(vertices):
        face = _nearest_on_gpu(screen, faces, view)
    else:
        face = torch.stack([_nearest_faces(of_view.detach(), faces, view) for of_view in screen])
    b, row, column = (face >= 0).nonzero(as_tuple=True)  # the P covered pixels
    corners = screen[b[:, None], faces[face[b, row, column].long()]]  # (P, 3 corners, 3)
    pixel = torch.stack([column, row], dim=-1).to(screen.dtype) + 0.5  # (P, 2)
    x, y = (corners[..., :2] - pixel[:, None]).unbind(-1)  # (P, 3)
    x_next, x_last, y_next, y_last = x.roll(-1, 1), x.roll(1, 1), y.roll(-1, 1), y.roll(1, 1)
    areas = x_next * y_last - y_next * x_last  # (P, 3), twice those of the triangles opposite each corner
    total = (areas * corners[..., 2]).sum(1, keepdim=True)
    # A sliver whose area cancelled to 0: use its first vertex.
    areas = torch.where(total == 0, torch.tensor([1.0, 0.0, 0.0]).to(areas), areas)
    total = torch.where(total == 0, corners[:, :1, 2], total)
    ray = (pixel - pixel.new_tensor([view.width / 2, view.height / 2])) / view.focal[b, None]
    depths = areas.sum(1, keepdim=True) / total * (1 + ray.square().sum(1, keepdim=True)).sqrt()  # (P, 1)
    barycentric, depth = (screen.new_zeros(*face.shape, n) for n in (3, 1))
    at = (b, row, column)
    return Raster(face, barycentric.index_put(at, areas * corners[..., 2] / total), depth.index_put(at, depths))


def interpolate_reference(attributes: Tensor, faces: Tensor, raster: Raster) -> Tensor:
    """`interpolate` in plain torch."""
    covered = (raster.face >= 0) & (raster.face < len(faces))
    corners = attributes[faces.long()[raster.face[covered].long()]]  # (P, 3, C)
    values = torch.einsum("pi,pic->pc", raster.barycentric[covered], corners)
    return values.new_zeros(*covered.shape, attributes.shape[1]).index_put((covered,), values)


def antialias_reference(pictures: Tensor, raster: Raster, vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """`antialias` in plain torch, for any device and floating dtype. Slow except on CUDA, which has Warp."""
    view, edges = _view(cameras, vertices), mesh_edges(faces, len(vertices))
    screen, distance = _project_reference(vertices, view), _distances(raster, view)
    if _by_kernels(vertices):
        crossing = _crossings_on_gpu(screen, faces, edges, raster, view)
    else:
        pairs = zip(screen.detach(), distance, strict=True)
        crossing = torch.stack([_crossings(of_view, faces.long(), edges, z) for of_view, z in pairs])
    return _blend(pictures, screen, edges, crossing)


def mesh_edges_reference(faces: Tensor) -> MeshEdges:
    """`mesh_edges` in plain torch."""
    sides = torch.stack([faces, faces.roll(-1, 1)], dim=-1).long().reshape(-1, 2).sort(dim=1).values  # (3F, 2)
    corners = torch.arange(faces.numel(), device=faces.device).reshape(-1, 3).roll(1, 1).reshape(-1)
    whole = (sides[:, 0] != sides[:, 1]).nonzero()[:, 0]  # without sides from a vertex to itself
    edges, index, counts = sides[whole].unique(dim=0, return_inverse=True, return_counts=True)
    starts = functional.pad(counts.cumsum(0), (1, 0))
    order = (index * faces.numel() + corners[whole]).argsort()  # by edge, then by face
    return MeshEdges(edges.int(), starts.int(), corners[whole][order].int())


def _by_kernels(vertices: Tensor) -> bool:
    """Return whether kernels choose faces and edges for plain torch, which compares every face with every pixel."""
    return vertices.device.type != "cpu"


def _nearest_on_gpu(screen: Tensor, faces: Tensor, view: _View) -> Tensor:
    if screen.device.type != "cuda" or not gpu.backend("meshes"):
        return _nearest_on_cpu(screen, faces, view)
    from sds3d.rendering import mesh_warp

    return mesh_warp.nearest_faces(screen, faces, view.height, view.width)


def _crossings_on_gpu(screen: Tensor, faces: Tensor, edges: MeshEdges, raster: Raster, view: _View) -> Tensor:
    if screen.device.type != "cuda" or not gpu.backend("meshes"):
        return _crossings_on_cpu(screen, faces, edges, raster, view)
    from sds3d.rendering import mesh_warp

    return mesh_warp.crossings(screen, faces, edges, _distances(raster, view))


def _project_reference(vertices: Tensor, view: _View) -> Tensor:
    """Return screen positions (B, V, 3): x and y in pixels and 1/z, all 0 for vertices before the near plane."""
    rotation, translation = view.viewmats[:, :3, :3], view.viewmats[:, None, :3, 3]
    x, y, z = (vertices @ rotation.transpose(1, 2) + translation).unbind(-1)  # each (B, V)
    visible = z > NEAR
    inverse = visible / torch.where(visible, z, 1.0)
    focal = view.focal[:, None]
    places = torch.stack([focal * x * inverse + view.width / 2, focal * y * inverse + view.height / 2, inverse], dim=-1)
    return torch.where(visible[..., None], places, 0.0)


def _centers(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device, dtype=like.dtype) + 0.5


def _nearest_faces(screen: Tensor, faces: Tensor, view: _View) -> Tensor:
    """Return the nearest face (H, W) int32 of each pixel by trying all faces. Ties go to the first."""
    corners = screen[faces]  # (F, 3, 3)
    pixels = torch.cartesian_prod(_centers(view.height, screen), _centers(view.width, screen))  # (H W, 2) as y, x
    y, x = (corners[:, None, :, [1, 0]] - pixels[:, None]).unbind(-1)  # each (F, H W, 3)
    areas = x.roll(-1, 2) * y.roll(1, 2) - y.roll(-1, 2) * x.roll(1, 2)
    whole = areas.sum(2)
    inside = ((areas >= 0).all(2) | (areas <= 0).all(2)) & (whole != 0) & whole.isfinite()
    inside &= (corners[:, :, 2] > 0).all(1)[:, None]
    inverse = torch.where(inside, (areas * corners[:, None, :, 2]).sum(2) / whole, 0.0)  # (F, H W), 1/z
    if not len(faces):
        return torch.full((view.height, view.width), -1, dtype=torch.int32, device=screen.device)
    nearest = inverse.amax(0)
    first = (inverse == nearest).int().argmax(0)
    return torch.where(nearest > 0, first, -1).int().reshape(view.height, view.width)


def _distances(raster: Raster, view: _View) -> Tensor:
    """Return z of what each pixel shows (B, H, W), infinity where it is empty."""
    depth = raster.depth.detach()[..., 0]
    y, x = _centers(view.height, depth) - view.height / 2, _centers(view.width, depth) - view.width / 2
    focal = view.focal[:, None, None]
    ray = (1 + (y[:, None] / focal) ** 2 + (x / focal) ** 2).sqrt()  # (B, H, W)
    return torch.where(depth > 0, depth / ray, torch.inf)


def _crossings(screen: Tensor, faces: Tensor, edges: MeshEdges, distance: Tensor) -> Tensor:
    """Return the silhouette edge or -1 between each pixel and its right [0] and lower [1] neighbour: (2, H, W) int32.

    screen: (V, 3). distance: (H, W).
    """
    start, step = screen[edges.vertices[:, 0].long()], screen[edges.vertices.long()].diff(dim=1)[:, 0]  # (E, 3)
    of = torch.repeat_interleave(edges.starts.diff())  # (S,), the edge of each opposite vertex
    opposite = screen[faces.reshape(-1)[edges.corners.long()]]  # (S, 3)
    third = opposite - start[of]
    side = (step[of, 0] * third[:, 1] - step[of, 1] * third[:, 0]) * (opposite[:, 2] > 0)
    left, right = (
        torch.zeros(len(start), device=of.device).index_add(0, of, s.float()) > 0 for s in (side < 0, side > 0)
    )
    drawn = (left != right) & (start[:, 2] > 0) & (start[:, 2] + step[:, 2] > 0)
    steep = step[:, 1].abs() >= step[:, 0].abs()
    crossing = []
    for axis, z in enumerate((distance, distance.T)):  # columns are rows of the transposed picture
        (o0, do), (s0, ds) = ((start[drawn, i, None], step[drawn, i, None]) for i in (axis, 1 - axis))
        first = left[drawn, None] == ((ds < 0) if axis == 0 else (ds > 0))  # is the surface on the first pixel?
        lines = _centers(len(z), z)
        along = (lines - s0) / ds  # (E', lines)
        place = o0 + along * do - 0.5
        pixel = place.floor()
        hit = (lines >= torch.minimum(s0, s0 + ds)) & (lines < torch.maximum(s0, s0 + ds))
        hit &= (pixel >= 0) & (pixel < z.shape[1] - 1)
        e, line = hit.nonzero(as_tuple=True)
        k, t, first = pixel[e, line].long(), (place - pixel)[e, line], first[e, 0]
        inside, outside = z[line, torch.where(first, k, k + 1)], z[line, torch.where(first, k + 1, k)]
        inverse = start[drawn, 2][e] + along[e, line] * step[drawn, 2][e]
        # One pixel must show the surface, and the other something behind the edge.
        seen = (inside < outside) & (inverse * outside > 1)
        outwards, pair, e = torch.where(first, t, 1 - t)[seen], (line * z.shape[1] + k)[seen], e[seen]
        # Keep the outermost edge of each pair, the first of equals: sort so that it comes last.
        order = e.argsort(descending=True)
        order = order[outwards[order].argsort(stable=True)]
        order = order[pair[order].argsort(stable=True)]
        pair, e = pair[order], e[order]
        last = torch.ones_like(pair, dtype=torch.bool)
        last[:-1] = pair[1:] != pair[:-1]
        found = torch.full((z.numel(),), -1, dtype=torch.int32, device=z.device)
        # Steep edges separate pixels of a row, others pixels of a column, so that none counts twice.
        index = torch.where(steep if axis == 0 else ~steep, torch.arange(len(steep), device=z.device), -1)[drawn]
        found[pair[last]] = index[e[last]].int()
        crossing.append(found.reshape(z.shape) if axis == 0 else found.reshape(z.shape).T)
    return torch.stack(crossing)


def _blend(pictures: Tensor, screen: Tensor, edges: MeshEdges, crossing: Tensor) -> Tensor:
    out, total = torch.zeros_like(pictures), torch.zeros_like(pictures[..., :1])
    for axis in (0, 1):  # neighbours in a row, neighbours in a column
        b, row, column = (crossing[:, axis] >= 0).nonzero(as_tuple=True)
        ends = edges.vertices[crossing[b, axis, row, column].long()].long()  # (P, 2)
        start, end = screen[b, ends[:, 0]], screen[b, ends[:, 1]]
        line, pixel = (row, column) if axis == 0 else (column, row)
        along = (line + 0.5 - start[:, 1 - axis]) / (end - start)[:, 1 - axis]
        t = start[:, axis] + along * (end - start)[:, axis] - pixel - 0.5  # 0 at a centre, 1 at the next one's
        here, there = (b, row, column), ((b, row, column + 1) if axis == 0 else (b, row + 1, column))
        difference = pictures[there] - pictures[here]  # (P, C)
        for at, weight, sign in ((here, (0.5 - t).clamp(min=0), 1), (there, (t - 0.5).clamp(min=0), -1)):
            out = out.index_put(at, sign * weight[:, None] * difference, accumulate=True)
            total = total.index_put(at, weight[:, None], accumulate=True)
    return pictures + out / total.clamp(min=1)  # at a tip narrower than a pixel, the mean of the neighbours


# ---- kernels ----


def _project_by_warp(vertices: Tensor, view: _View) -> Tensor:
    from sds3d.rendering.mesh_surface_warp import Project

    return Project.apply(vertices, view.viewmats, view.focal, view.size, NEAR)  # type: ignore[return-value]


def _nearest_on_cpu(screen: Tensor, faces: Tensor, view: _View) -> Tensor:
    """Return the nearest face of each pixel, -1 where empty: (B, H, W) int32. screen: (B, V, 3), on any device."""
    arrays = array_of(screen.float()), array_of(_int32(faces)), array_of(view.focal.float())
    return torch.from_numpy(kernels.rasterize(*arrays, (view.height, view.width))[0]).to(screen.device)


def _crossings_on_cpu(screen: Tensor, faces: Tensor, edges: MeshEdges, raster: Raster, view: _View) -> Tensor:
    """Return the silhouette edges between pixels, as `mesh_warp.crossings`, from tensors on any device."""
    arrays = array_of(screen.float()), array_of(view.focal.float()), array_of(_int32(faces))
    ends = tuple(array_of(tensor) for tensor in edges)
    return torch.from_numpy(silhouettes.crossings(*arrays, ends, array_of(raster.depth.float()))).to(screen.device)
