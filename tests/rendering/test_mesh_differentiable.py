"""Differentiable meshes: kernels against plain torch, plain torch against finite differences and closed forms."""

import math
from functools import partial

import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.rendering.mesh_differentiable import (
    Raster,
    antialias,
    antialias_reference,
    interpolate,
    interpolate_reference,
    mesh_edges,
    mesh_edges_reference,
    rasterize_mesh,
    rasterize_mesh_reference,
)
from tests.rendering.bounds import assert_within_rounding, rounding

Mesh = tuple[Tensor, Tensor]  # vertices, faces
KERNELS = rasterize_mesh, interpolate, antialias
WARP = tuple(partial(function, backend="warp") for function in KERNELS)  # the same kernels run on a GPU
REFERENCE = rasterize_mesh_reference, interpolate_reference, antialias_reference
DISTANCE = 2.1
FOCAL = 0.5 / math.tan(math.radians(15.0))  # of the cameras of `orbit`, in picture heights


def soup(n: int, seed: int = 0) -> Mesh:
    """Return open triangles that intersect, up to three at a vertex; most edges have a face on one side only."""
    g = torch.Generator().manual_seed(seed)
    vertices = 0.9 * torch.rand(n, 3, generator=g) - 0.45
    return vertices, torch.stack([torch.randperm(n, generator=g) for _ in range(3)], dim=1)


def ball(subdivisions: int, radius: float = 0.5, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices + center, dtype=torch.float32), torch.tensor(mesh.faces)


def bumpy(subdivisions: int) -> Mesh:
    v, faces = ball(subdivisions)
    waves = torch.sin(9 * v[:, :1]) * torch.cos(7 * v[:, 1:2] + 1) * torch.sin(8 * v[:, 2:])
    return v * (1 + 0.15 * waves), faces


def square(half: float, z: float = 0.0, turn: float = 0.0) -> Mesh:
    """Return a square with side 2 half that faces +Z, rotated by `turn` degrees."""
    angle = math.radians(turn) + torch.tensor([225.0, 315.0, 45.0, 135.0]).deg2rad()
    corners = math.sqrt(2) * half * torch.stack([angle.cos(), angle.sin()], dim=1)
    return torch.cat([corners, torch.full((4, 1), z)], dim=1), torch.tensor([[0, 1, 2], [0, 2, 3]])


def joined(*meshes: Mesh) -> Mesh:
    offsets = [0, *torch.tensor([len(vertices) for vertices, _ in meshes]).cumsum(0).tolist()]
    faces = torch.cat([faces + offset for (_, faces), offset in zip(meshes, offsets, strict=False)])
    return torch.cat([vertices for vertices, _ in meshes]), faces


def coverage(functions, vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """Return antialiased masks (B, H, W)."""
    rasterize, _, smooth = functions
    raster = rasterize(vertices, faces, cameras)
    mask = (raster.face >= 0).to(vertices.dtype)[..., None]
    return smooth(mask, raster, vertices, faces, cameras)[..., 0]


def render(functions, vertices: Tensor, attributes: Tensor, faces: Tensor, cameras: Cameras) -> list[Tensor]:
    """Return the raster, the interpolated and antialiased pictures, and gradients of a weighted sum of them."""
    rasterize, look_up, smooth = functions
    leaves = vertices, attributes = vertices.clone().requires_grad_(), attributes.clone().requires_grad_()
    raster: Raster = rasterize(vertices, faces, cameras)
    colors = look_up(attributes, faces, raster)
    mask = (raster.face >= 0).to(colors)[..., None]
    pictures = smooth(torch.cat([colors, mask, raster.depth], dim=-1), raster, vertices, faces, cameras)
    g = torch.Generator().manual_seed(7)
    weights = [torch.rand(picture.shape, generator=g).to(colors) for picture in (pictures, raster.barycentric)]
    loss = (pictures * weights[0]).sum() + (raster.barycentric * weights[1]).sum()
    gradients = torch.autograd.grad(loss, leaves)
    return [picture.detach() for picture in (*raster, colors, pictures, *gradients)]


def colors_of(vertices: Tensor, channels: int = 4) -> Tensor:
    return torch.rand(len(vertices), channels, generator=torch.Generator().manual_seed(7))


def assert_same(mesh: Mesh, cameras: Cameras, channels: int = 4) -> Tensor:
    """Assert that kernels give the pictures and gradients of the reference. Returns the faces shown."""
    vertices, faces = mesh
    attributes = colors_of(vertices, channels)
    ours = [part for functions in (KERNELS, WARP) for part in render(functions, vertices, attributes, faces, cameras)]
    assert_within_rounding(ours, lambda *values: 2 * render(REFERENCE, *values, faces, cameras), vertices, attributes)
    return ours[0]


class TestKernelsEqualTheReference:
    @pytest.mark.parametrize("subdivisions", [0, 1, 2, 3])
    def test_spheres(self, subdivisions: int) -> None:
        face = assert_same(ball(subdivisions), orbit([10.0, 130.0], 20.0, size=37))
        assert (face >= 0).sum() > 500

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_soups(self, seed: int) -> None:
        assert_same(soup(50, seed), orbit([0.0, 100.0, 250.0], torch.tensor([-30.0, 10.0, 80.0]), size=32))

    @pytest.mark.parametrize("channels", [1, 2, 9])
    def test_channels(self, channels: int) -> None:
        assert_same(bumpy(1), orbit([45.0], size=24), channels=channels)

    @pytest.mark.parametrize(("height", "width"), [(17, 40), (40, 17), (1, 9), (9, 1), (1, 1)])
    def test_oblong_pictures(self, height: int, width: int) -> None:
        vertices, faces = bumpy(2)
        vertices = vertices + torch.tensor([0.013, 0.0, 0.007])  # otherwise its poles are on lines of pixel centres
        assert_same((vertices, faces), orbit([45.0, 200.0]).resized(height, width))

    def test_faces_around_and_behind_the_camera(self) -> None:
        vertices, faces = soup(60, 4)
        vertices = vertices * 8  # some behind the camera at 2.1 m, many outside the picture
        face = assert_same((vertices, faces), orbit([0.0, 200.0], size=24))
        hidden = (vertices @ orbit([0.0]).position()[0]) / DISTANCE > DISTANCE - 0.01
        assert hidden[faces].any(1).sum() > 5
        assert not hidden[faces[face[0][face[0] >= 0].long()]].any()

    def test_one_inside_the_other(self) -> None:
        assert_same(
            joined(ball(2, 0.2, (0.1, 0.0, 0.3)), bumpy(2), square(0.6, -0.5, 30.0)), orbit([0.0, 60.0], size=32)
        )


class TestReferenceAgainstFiniteDifferences:
    def test_inside_faces(self) -> None:
        vertices, faces = ball(0)
        attributes = torch.rand(len(vertices), 2, generator=torch.Generator().manual_seed(0)).double()
        cameras = orbit([30.0], 20.0, size=7)

        def pictures(v: Tensor, a: Tensor) -> tuple[Tensor, ...]:
            raster = rasterize_mesh_reference(v, faces, cameras)
            return raster.barycentric, raster.depth, interpolate_reference(a, faces, raster)

        leaves = vertices.double().requires_grad_(), attributes.requires_grad_()
        assert torch.autograd.gradcheck(pictures, leaves, eps=1e-7, atol=1e-5)

    @pytest.mark.parametrize("mesh", [ball(0), soup(8, 3)], ids=["ball", "soup"])
    def test_silhouettes(self, mesh: Mesh) -> None:
        vertices, faces = mesh
        cameras = orbit([30.0], 20.0, size=9)
        pictures = torch.rand(1, 9, 9, 2, generator=torch.Generator().manual_seed(1)).double()

        def smoothed(p: Tensor, v: Tensor) -> Tensor:
            return antialias_reference(p, rasterize_mesh_reference(v, faces, cameras), v, faces, cameras)

        leaves = pictures.requires_grad_(), vertices.double().requires_grad_()
        changed = (smoothed(*leaves) != pictures).any(-1).sum()
        assert changed >= 8
        assert torch.autograd.gradcheck(smoothed, leaves, eps=1e-7, atol=1e-5)


class TestRaster:
    def test_hits_lie_on_the_rays(self) -> None:
        vertices, faces = soup(60, 1)
        cameras = orbit([0.0, 100.0], 20.0, size=32)

        def gaps(functions, vertices: Tensor) -> list[Tensor]:
            """Return vectors from points on pixels' rays, at their depth, to the interpolated points of the mesh."""
            raster = functions[0](vertices, faces, cameras)
            origins, directions = (ray.to(vertices) for ray in cameras.rays())
            points = functions[1](vertices, faces, raster)
            return [(points - origins - raster.depth * directions) * (raster.face >= 0)[..., None]]

        assert gaps(REFERENCE, vertices.double())[0].abs().max() < 1e-6  # rays are float32
        assert_within_rounding(gaps(KERNELS, vertices), partial(gaps, REFERENCE), vertices)
        raster = rasterize_mesh(vertices, faces, cameras)
        hit = raster.face >= 0
        # Three products are divided by their sum.
        torch.testing.assert_close(raster.barycentric.sum(-1), hit.float(), atol=rounding(8), rtol=0)
        assert torch.equal(raster.depth[..., 0] > 0, hit)
        assert raster.face.dtype == torch.int32

    def test_depth_follows_a_wall(self) -> None:
        """A wall perpendicular to the view axis, moved away by 1, is 1 / cos farther along each ray."""
        vertices, faces = square(3.0)
        vertices.requires_grad_()
        cameras = orbit([0.0], 0.0, size=16)
        raster = rasterize_mesh(vertices, faces, cameras)
        cosine = -cameras.rays()[1][..., 2:]
        # The quotient of two sums of areas, which are products of screen positions: about thirty roundings.
        torch.testing.assert_close(raster.depth, DISTANCE / cosine, atol=rounding(32, DISTANCE), rtol=0)
        (gradient,) = torch.autograd.grad(raster.depth.sum(), vertices)
        # The gradients of 256 pixels are added to the corners one by one.
        expected = (1 / cosine).sum().item()
        assert gradient[:, 2].sum().item() == pytest.approx(-expected, abs=rounding(256 + 64, expected))

    def test_gradients_of_attributes_are_their_weights(self) -> None:
        vertices, faces = ball(3)
        attributes = torch.zeros(len(vertices), 1, requires_grad=True)
        raster = rasterize_mesh(vertices, faces, orbit([0.0, 40.0, 80.0], size=48))
        (gradient,) = torch.autograd.grad(interpolate(attributes, faces, raster).sum(), attributes)
        covered = (raster.face >= 0).sum().item()  # a pixel's weights sum to 1; a vertex has fewer than 100 pixels
        assert gradient.sum().item() == pytest.approx(covered, abs=rounding(100 + 8, covered))
        assert (gradient == 0).any()  # no camera sees the back


class TestCoverage:
    @pytest.mark.parametrize("functions", [KERNELS, WARP, REFERENCE], ids=["kernels", "Warp", "reference"])
    def test_rows_of_a_leaning_edge(self, functions) -> None:
        """The shape covers the picture left of a slanted edge: a row's coverage is the position of the edge."""
        lean, n = 0.3, 32
        corners = [[-9.0, -9.0, 0.0], [-9.0 * lean, -9.0, 0.0], [9.0 * lean, 9.0, 0.0], [-9.0, 9.0, 0.0]]
        vertices = torch.tensor(corners, dtype=torch.float32, requires_grad=True)
        faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
        alpha = coverage(functions, vertices, faces, orbit([0.0], 0.0, size=n))
        rows = n / 2 - torch.arange(n) - 0.5  # y of the row centres in pixels, pointing up
        # The edge's ends are projected to about 290 pixels from the centre, and these positions are rounded.
        torch.testing.assert_close(alpha[0].sum(1), n / 2 + lean * rows, atol=rounding(8, 290), rtol=0)
        assert ((alpha > 0) & (alpha < 1)).sum() >= n - 3
        # If the edge moves right by 1 m, it moves right in each row by the focal length over the distance.
        (gradient,) = torch.autograd.grad(alpha.sum(), vertices)
        assert gradient[:, 0].sum().item() == pytest.approx(n * n * FOCAL / DISTANCE, rel=1e-3)
        assert gradient[[0, 3]].abs().max() == 0  # outside the picture

    def test_area_of_a_turned_square(self) -> None:
        for turn in (10.0, 30.0, 45.0, 77.0):
            vertices, faces = square(0.35, turn=turn)
            vertices.requires_grad_()
            side = 0.7 * 128 * FOCAL / DISTANCE  # pixels
            area = coverage(KERNELS, vertices, faces, orbit([0.0], 0.0, size=128)).sum()
            assert area.item() == pytest.approx(side**2, rel=2e-3)
            (gradient,) = torch.autograd.grad(area, vertices)
            growth = (gradient * vertices.detach()).sum().item()  # of the area with a scale factor
            assert growth == pytest.approx(2 * side**2, rel=0.01)

    @pytest.mark.parametrize(("subdivisions", "size", "tolerance"), [(3, 128, 0.015), (5, 256, 0.004), (6, 128, 0.012)])
    def test_gradient_of_a_spheres_disc(self, subdivisions: int, size: int, tolerance: float) -> None:
        """A sphere is a disc of radius f r / sqrt(d^2 - r^2), with faces from many pixels to a quarter of a pixel."""
        vertices, faces = ball(subdivisions)
        vertices.requires_grad_()
        area = coverage(KERNELS, vertices, faces, orbit([20.0], 15.0, size=size)).sum()
        (gradient,) = torch.autograd.grad(area, vertices)
        growth = (gradient * vertices.detach()).sum().item() / 0.5  # with the radius
        square_root = DISTANCE**2 - 0.25
        disc = math.pi * (size * FOCAL * 0.5) ** 2 / square_root
        assert growth == pytest.approx(disc * (2 / 0.5 + 2 * 0.5 / square_root), rel=tolerance)

    def test_gradients_along_any_deformation_are_those_of_supersampled_pictures(self) -> None:
        """20k faces at 256 pixels, against finite differences of weighted areas at 1024 pixels, from four sides."""
        vertices, faces = bumpy(5)
        right = torch.tensor([[1.0, 0.0, 0.0]]).expand_as(vertices)
        waves = vertices * torch.sin(6 * vertices[:, :1] + 2 * vertices[:, 1:2])
        fields = [vertices, right, vertices[:, [1, 0, 2]], waves]

        def weights(n: int) -> Tensor:
            at = (torch.arange(n) + 0.5) / n
            return 1 + 0.5 * torch.cos(5 * at + 1) * torch.sin(4 * at[:, None])

        def area(moved: Tensor, cameras: Cameras) -> float:
            mask = rasterize_mesh(moved, faces, cameras.resized(1024, 1024)).face >= 0
            return (mask * weights(1024).double()).sum().item() / 16

        errors = []
        for azimuth in (20.0, 65.0, 110.0, 155.0):
            cameras = orbit([azimuth], 15.0, size=256)
            leaf = vertices.clone().requires_grad_()
            (gradient,) = torch.autograd.grad((coverage(KERNELS, leaf, faces, cameras) * weights(256)).sum(), leaf)
            true = [
                (area(vertices + 0.01 * field, cameras) - area(vertices - 0.01 * field, cameras)) / 0.02
                for field in fields
            ]
            errors.append([((gradient * f).sum().item() - t) / true[0] for f, t in zip(fields, true, strict=True)])
        assert torch.tensor(errors).abs().max() < 0.01  # relative to the gradient of uniform growth
        assert torch.tensor(errors).mean(0).abs().max() < 0.003

    def test_hidden_surfaces_get_no_gradient(self) -> None:
        front, behind = square(0.4, 0.3), bumpy(2)
        behind = 0.4 * behind[0] - torch.tensor([0.0, 0.0, 0.3]), behind[1]
        vertices, faces = joined(front, behind)
        vertices.requires_grad_()
        alpha = coverage(KERNELS, vertices, faces, orbit([0.0], 0.0, size=64))
        (gradient,) = torch.autograd.grad(alpha.square().sum(), vertices)
        assert gradient[:4].abs().min(dim=0).values[:2].min() > 1
        assert (gradient[4:] == 0).all()

    def test_silhouettes_within_the_object(self) -> None:
        """A white square in front of a black wall: brightness is the square's area and depends only on its corners."""
        near, far = square(0.25, 0.2), square(2.0, -0.4)
        vertices, faces = joined(near, far)
        vertices.requires_grad_()
        cameras = orbit([0.0], 0.0, size=97)
        raster = rasterize_mesh(vertices, faces, cameras)
        assert (raster.face >= 0).all()
        colors = interpolate(torch.tensor([1.0] * 4 + [0.0] * 4)[:, None], faces, raster)
        brightness = antialias(colors, raster, vertices, faces, cameras).sum()
        side = 0.5 * 97 * FOCAL / (DISTANCE - 0.2)
        assert brightness.item() == pytest.approx(side**2, rel=3e-3)
        (gradient,) = torch.autograd.grad(brightness, vertices)
        growth = (gradient[:4, :2] * vertices.detach()[:4, :2]).sum().item()
        assert growth == pytest.approx(2 * side**2, rel=0.02)
        assert gradient[4:].abs().max() < 1e-3

    def test_flat_pictures_do_not_change(self) -> None:
        vertices, faces = bumpy(3)
        cameras = orbit([0.0, 120.0], size=40)
        raster = rasterize_mesh(vertices, faces, cameras)
        pictures = torch.full((2, 40, 40, 3), 0.3)
        torch.testing.assert_close(antialias(pictures, raster, vertices, faces, cameras), pictures)

    def test_only_the_rim_of_the_mask_changes(self) -> None:
        vertices, faces = ball(5)
        cameras = orbit([33.0], size=96)
        mask = (rasterize_mesh(vertices, faces, cameras).face >= 0).float()
        alpha = coverage(KERNELS, vertices, faces, cameras)
        neighbours = torch.nn.functional.pad(mask, (1, 1, 1, 1))
        parted = torch.zeros_like(mask, dtype=torch.bool)
        for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
            parted |= neighbours[:, rows : rows + 96, columns : columns + 96] != mask
        assert torch.equal(alpha[~parted], mask[~parted])
        assert (alpha[parted] != mask[parted]).float().mean() > 0.3
        assert (alpha - mask).abs().max() <= 0.5 + rounding(96)  # positions are up to 96 pixels

    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 2**16), size=st.integers(1, 24), scale=st.floats(0.02, 2.0))
    def test_smoothed_colors_stay_in_range(self, seed: int, size: int, scale: float) -> None:
        """Even at tips smaller than a pixel, where all four neighbours contribute."""
        vertices, faces = soup(20, seed)
        vertices = scale * vertices
        cameras = orbit([0.0, 90.0], size=size)
        raster = rasterize_mesh(vertices, faces, cameras)
        colors = interpolate(torch.rand(20, 2, generator=torch.Generator().manual_seed(seed)), faces, raster)
        alpha = coverage(KERNELS, vertices, faces, cameras)
        smooth = antialias(colors, raster, vertices, faces, cameras)
        for picture in (alpha, smooth):
            # Weights are at least 0 except for two roundings, and a pixel mixes five colours.
            assert picture.min() >= -rounding(16)
            assert picture.max() <= 1 + rounding(16)

    def test_a_shape_is_found_by_its_silhouettes(self) -> None:
        """Masks of a shifted ellipsoid from four sides deform a sphere into it."""
        vertices, faces = ball(3, 0.3)
        cameras = orbit([0.0, 90.0, 180.0, 270.0], torch.tensor([0.0, 20.0, 40.0, 20.0]), size=32)
        size, place = torch.tensor([1.3, 0.9, 1.1]), torch.tensor([0.05, -0.04, 0.06])
        target = coverage(KERNELS, vertices * size + place, faces, cameras)
        parameters = torch.cat([torch.ones(3), torch.zeros(3)]).requires_grad_()
        optimizer = torch.optim.Adam([parameters], lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            alpha = coverage(KERNELS, vertices * parameters[:3] + parameters[3:], faces, cameras)
            (alpha - target).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(parameters.detach(), torch.cat([size, place]), atol=0.01, rtol=0)


class TestEdges:
    def test_closed_mesh(self) -> None:
        vertices, faces = ball(2)
        edges = mesh_edges(faces, len(vertices))
        assert len(vertices) - len(edges.vertices) + len(faces) == 2  # Euler
        assert (edges.starts.diff() == 2).all()
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        assert torch.equal(edges.vertices.long(), torch.tensor(mesh.edges_unique).sort(1).values.unique(dim=0))

    @pytest.mark.parametrize(
        "faces",
        [soup(40)[1], ball(2)[1], torch.tensor([[0, 1, 2], [2, 1, 3], [1, 2, 4], [4, 4, 4]])],
        ids=["soup", "ball", "one without area"],
    )
    def test_kernel_equals_reference(self, faces: Tensor) -> None:
        n = int(faces.max()) + 1
        for mine, true in zip(mesh_edges(faces, n), mesh_edges_reference(faces), strict=True):
            assert torch.equal(mine, true)

    def test_none(self) -> None:
        empty = torch.zeros(0, 3, dtype=torch.int64)
        for edges in (mesh_edges(empty, 4), mesh_edges_reference(empty)):
            assert edges.vertices.shape == (0, 2)
            assert edges.starts.tolist() == [0]
            assert edges.corners.shape == (0,)

    def test_the_cached_edges_are_not_used_for_changed_faces(self) -> None:
        faces = torch.tensor([[0, 1, 2]])
        assert mesh_edges(faces, 4) is mesh_edges(faces, 4)
        assert mesh_edges(faces, 4).vertices.tolist() == [[0, 1], [0, 2], [1, 2]]
        faces[0, 2] = 3
        assert mesh_edges(faces, 4).vertices.tolist() == [[0, 1], [0, 3], [1, 3]]
        assert mesh_edges(faces.clone(), 4).corners.tolist() == [2, 1, 0]


class TestHardMeshes:
    cameras = orbit([0.0, 90.0], size=24)

    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 2**16),
        broken=st.sampled_from([math.nan, math.inf, -math.inf, 1e38, -1e30, 0.0]),
        where=st.integers(0, 2),
    )
    def test_broken_vertices_never_crash(self, seed: int, broken: float, where: int) -> None:
        vertices, faces = soup(16, seed)
        vertices[seed % 16, where:] = broken
        face, barycentric, _, _, pictures, *_ = render(KERNELS, vertices, colors_of(vertices), faces, self.cameras)
        assert pictures.shape == (2, 24, 24, 6)
        assert barycentric.isfinite().all()
        if not math.isfinite(broken):
            shown = faces[face[face >= 0].long()]
            assert not (shown == seed % 16).any()

    @pytest.mark.parametrize("functions", [KERNELS, WARP, REFERENCE], ids=["kernels", "Warp", "reference"])
    def test_no_faces(self, functions) -> None:
        vertices = torch.rand(5, 3, requires_grad=True)
        faces = torch.zeros(0, 3, dtype=torch.int64)
        rasterize, look_up, smooth = functions
        raster = rasterize(vertices, faces, self.cameras)
        assert (raster.face == -1).all()
        colors = look_up(torch.rand(5, 3), faces, raster)
        pictures = smooth(colors + raster.depth, raster, vertices, faces, self.cameras)
        assert pictures.abs().max() == 0
        pictures.sum().backward()
        assert vertices.grad is None or vertices.grad.abs().max() == 0

    def test_degenerate_faces_change_nothing(self) -> None:
        vertices, faces = ball(2)
        extra = torch.cat([faces, torch.tensor([[0, 0, 0], [0, 1, 1], [5, 6, 5]])])
        one, other = (render(KERNELS, vertices, colors_of(vertices), f, self.cameras) for f in (faces, extra))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    def test_bad_input_is_refused(self) -> None:
        vertices, faces = ball(1)
        raster = rasterize_mesh(vertices, faces, self.cameras)
        mask = (raster.face >= 0).float()[..., None]
        with pytest.raises(ValueError, match="faces must index the 42 rows of vertices"):
            rasterize_mesh(vertices, faces + 1, self.cameras)
        with pytest.raises(ValueError, match="faces must be"):
            rasterize_mesh(vertices, faces.float(), self.cameras)
        with pytest.raises(ValueError, match="vertices must be"):
            rasterize_mesh(vertices[:, :2], faces, self.cameras)
        with pytest.raises(ValueError, match="faces must index the 41 rows of attributes"):
            interpolate(vertices[:-1], faces, raster)
        with pytest.raises(ValueError, match="another mesh"):
            interpolate(vertices, faces[:3], raster)
        with pytest.raises(ValueError, match="convert them"):
            interpolate(vertices.double(), faces, raster)
        with pytest.raises(ValueError, match="pictures must be"):
            antialias(mask[:, :-1], raster, vertices, faces, self.cameras)


def test_threads_change_nothing_but_how_attributes_are_summed() -> None:
    (vertices, faces), cameras = bumpy(3), orbit([0.0, 60.0, 120.0, 180.0], size=45)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 2, 3, 3):
            torch.set_num_threads(n)
            results.append(render(KERNELS, vertices, colors_of(vertices), faces, cameras))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][:-1], other[:-1], strict=True))
        torch.testing.assert_close(results[0][-1], other[-1])
    assert torch.equal(results[1][-1], results[2][-1])
    assert torch.equal(results[3][-1], results[4][-1])


class TestWarp:
    """Warp's kernels on its CPU device. They only make choices; the rest is the reference's code."""

    @pytest.mark.parametrize(
        "mesh",
        [soup(60), ball(3), bumpy(4), joined(ball(2), square(0.6, -0.3, 20.0))],
        ids=["soup", "ball", "bumpy", "ball before a square"],
    )
    def test_choices_are_those_of_the_kernels(self, mesh: Mesh) -> None:
        pytest.importorskip("warp", reason="NVIDIA Warp is not installed: pip install warp-lang")
        from sds3d.rendering import mesh_antialias_numba, mesh_warp
        from sds3d.rendering import mesh_differentiable as module

        vertices, faces = mesh
        cameras = orbit([10.0, 130.0, 250.0], torch.tensor([-20.0, 15.0, 80.0])).resized(40, 56)
        raster = rasterize_mesh(vertices, faces, cameras)
        view = module._view(cameras, vertices)
        screen = module._project_reference(vertices, view)
        face = mesh_warp.nearest_faces(screen, faces, 40, 56)
        assert (face != raster.face).sum() <= 1  # where two faces are equally near except for rounding
        edges = mesh_edges(faces, len(vertices))
        crossing = mesh_warp.crossings(screen, faces, edges, module._distances(raster, view))
        arrays = tuple(tensor.numpy() for tensor in edges)
        expected = mesh_antialias_numba.crossings(
            screen.numpy(), view.focal.numpy(), faces.int().numpy(), arrays, raster.depth.numpy()
        )
        assert (expected >= 0).sum() > 100
        assert (crossing.numpy() != expected).sum() <= 1
        nothing = mesh_warp.nearest_faces(screen, faces[:0], 40, 56)
        assert (nothing == -1).all()
