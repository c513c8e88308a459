"""A triangle mesh with learnable geometry and a colour field, rendered by differentiable rasterisation.

The geometry is the zero level of signed distances on a grid, extracted anew for each render by deep marching
tetrahedra (Shen et al. 2021, arXiv:2111.04276) or FlexiCubes (Shen et al. 2023, arXiv:2308.05371), or a mesh of fixed
connectivity. Gradients arrive as in nvdiffrec (Munkberg et al. 2022, arXiv:2111.12503).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from sds3d.cameras import Cameras
from sds3d.config import Config
from sds3d.export.surface import decimate, sample_colors, vertex_normals
from sds3d.mesh import FloatArray, IntArray, Mesh
from sds3d.rendering.mesh import Raster, antialias, interpolate, rasterize_mesh
from sds3d.rendering.mesh_losses import edge_length, laplacian, normal_consistency
from sds3d.rendering.shading import from_points, lambert, lights_near, normal_colors
from sds3d.rendering.volume import BOUND, render_rays, smoothness
from sds3d.representations.base import EmptySurfaceError, Rendering
from sds3d.representations.fields import trilinear
from sds3d.representations.grid_mesh import grid_mesh
from sds3d.representations.isosurface import Surface, dmtet, flat_index, grid_points
from sds3d.representations.isosurface_flexicubes import WEIGHTS, DualSurface, deviation, flexicubes
from sds3d.representations.signed_distance import mesh_to_colors, mesh_to_sdf

_BETAS = (0.9, 0.95)  # a grid point is seen rarely, so the second moment must not remember for long
_RETURN = 2.0  # radius, in voxels, of the ball that is put where a surface vanished
_SPECK = 6.0  # a surface that extends over fewer voxels is no result
_BAND = 2.5  # voxels round the surface within which the distances are held to be distances
_DUST = 0.01  # a component with a smaller share of the surface area is dropped
_MAX_FACES = 20_000


class MeshConfig(Config):
    """A learnable mesh. The weights balance the loop's data term, 1/2 sum |rgb - target|^2 a view."""

    name: Literal["mesh"] = "mesh"
    geometry: Literal["dmtet", "flexicubes", "fixed"] = "dmtet"
    """What makes the triangles: marching tetrahedra on a grid of signed distances, FlexiCubes on one (fewer triangles,
    sharper edges, more to learn), or one mesh whose triangles stay the same."""
    resolution: int = Field(default=48, ge=8, le=256)
    """Samples of the signed distances along an edge of the cube [-0.55, 0.55]^3 metres."""
    color_resolution: int = Field(default=64, ge=4, le=256)
    """Voxels of the colour field along an edge of the cube."""
    radius: float = Field(default=0.3, gt=0, le=0.5)
    """Radius in metres of the ball that the mesh starts as."""
    shading: Literal["none", "lambert", "textureless", "normal"] = "none"
    """What is drawn: plain colours, colours lit by a lamp near each camera, white lit by it, or each camera's normals
    as colours. The last two teach shape alone."""
    ambient: float = Field(default=0.65, ge=0, le=1)
    """Share of the light that comes from everywhere; the rest is the lamp's."""
    light_spread: float = Field(default=0.3, ge=0)
    """How far lamps are drawn round their cameras: standard deviation as a share of the camera's distance."""
    sdf_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the signed distances, in metres."""
    offsets_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the pre-activations of the grid points' offsets; 1 is about a third of a voxel."""
    weights_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the pre-activations of FlexiCubes' weights."""
    vertices_lr: float = Field(default=0.001, ge=0)
    """Learning rate of the vertices of a fixed mesh, in metres; 0 leaves them where they are."""
    color_lr: float = Field(default=0.1, gt=0)
    """Learning rate of the pre-activation of the colour."""
    normal_consistency: float = Field(default=0.01, ge=0)
    """Weight, times a view's number of pixels, of the mean of 1 - cos of the angles between neighbouring triangles."""
    laplacian: float = Field(default=0.0, ge=0)
    """Weight, times a view's number of pixels, of the mean squared distance, in voxels, of vertices from the mean of
    their neighbours."""
    edge_length: float = Field(default=0.0, ge=0)
    """Weight, times a view's number of pixels, of the mean squared length of the triangles' edges, in voxels."""
    eikonal: float = Field(default=0.01, ge=0)
    """Weight, times a view's number of pixels, of the mean squared deviation of the distances' slope from 1 near the
    surface: keeps them distances."""
    deviation: float = Field(default=0.002, ge=0)
    """Weight, times a view's number of pixels, of FlexiCubes' own regulariser, in voxels: keeps cubes regular where
    the pictures say nothing."""
    color_smoothness: float = Field(default=4.7e-5, ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of neighbours' colour pre-activations."""


class MeshScene:
    """A `Scene` (see `sds3d.representations.base`) of triangles.

    parameters: color (M, M, M, 3), axes x, y, z, sigmoid(color) is the sRGB colour; and for a learnable surface sdf
    (N, N, N) metres, offsets (N, N, N, 3) and, for FlexiCubes, weights (N - 1, N - 1, N - 1, 21), both as `flexicubes`
    takes them; for a fixed one vertices (V, 3) metres. faces: (F, 3) int64 of a fixed mesh, else None.
    What pictures say is about the few samples that make an outline. So that the surface moves as a whole, lattices of
    N/2, N/4, ... samples a side are added: coarse_K (K, K, K) to the distances, or (K, K, K, 3) to where vertices are.
    """

    def __init__(self, config: MeshConfig, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        n, m = config.resolution, config.color_resolution
        sdf = grid_points(n).norm(dim=-1) - config.radius
        start = {"color": 0.1 * torch.randn(m, m, m, 3, generator=generator)}
        self.faces: Tensor | None = None
        if config.geometry == "fixed":
            start["vertices"], self.faces = dmtet(sdf)
        else:
            start |= {"sdf": sdf, "offsets": torch.zeros(n, n, n, 3)}
        start |= {f"coarse_{k}": torch.zeros(k, k, k, *(3,) * (self.faces is not None)) for k in _coarse_sizes(n)}
        if config.geometry == "flexicubes":
            start["weights"] = torch.zeros(n - 1, n - 1, n - 1, WEIGHTS)
        self.parameters = {name: torch.nn.Parameter(value.to(self.device)) for name, value in start.items()}
        inner = torch.full((n - 2, n - 2, n - 2), -torch.inf, device=self.device)
        self._floor = functional.pad(inner, (1,) * 6, value=self._voxel())  # the least distance of each grid point
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._step = 0
        self._drawn: Surface | DualSurface | None = None  # what the last render with gradients showed

    @classmethod
    def from_mesh(
        cls, mesh: Mesh, config: MeshConfig, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> Self:
        """A scene that starts as `mesh`, with its colours: itself if fixed, else as closely as the grid can follow.

        Raises ValueError for a mesh without area, EmptySurfaceError for one too small or thin for the grid.
        """
        scene = cls(config, generator, device)
        color = torch.logit(torch.from_numpy(mesh_to_colors(mesh, config.color_resolution)), eps=0.02)
        start = scene.state_dict() | {"color": color}
        if config.geometry == "fixed":
            start |= {"vertices": torch.from_numpy(mesh.vertices), "faces": torch.from_numpy(mesh.faces).long()}
        else:
            start["sdf"] = torch.from_numpy(mesh_to_sdf(mesh, config.resolution))
        scene.load_state_dict(start)
        if config.geometry != "fixed":
            dmtet(scene.sdf())  # raises where nothing is inside
        return scene

    @classmethod
    def from_grid(
        cls, grid: Tensor, config: MeshConfig, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> Self:
        """A scene that starts as the surface of a grid as `render_rays` takes it; see `grid_mesh`.

        grid: (N, N, N, 4) density per metre and r, g, b in [0, 1]. Raises EmptySurfaceError.
        """
        grid = grid.detach()

        @torch.no_grad()
        def silhouettes(cameras: Cameras) -> NDArray[np.float32]:
            return render_rays(grid, *cameras.to(grid.device).rays()).alpha.cpu().numpy()

        mesh = grid_mesh(grid, max(config.resolution, 64), silhouettes)
        return cls.from_mesh(mesh, config, generator, device)

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Pictures of the B views over `background`, (B, 3) or (3,) in [0, 1]; it alone where there is no surface.

        With gradients enabled, lights are drawn anew after each step; under `torch.no_grad` they are at the cameras.
        """
        cameras = cameras.to(self.device)
        background = background.to(self.device).expand(len(cameras), 3)[:, None, None]  # (B, 1, 1, 3)
        surface = self.surface()
        if surface is None:
            return self._blank(cameras, background)
        if torch.is_grad_enabled():
            self._drawn = surface
        vertices, faces = surface.vertices, surface.faces
        raster = rasterize_mesh(vertices, faces, cameras)
        hit = raster.face[..., None] >= 0  # (B, H, W, 1)
        normal = functional.normalize(interpolate(_vertex_normals(vertices, faces), faces, raster), dim=-1)
        color = torch.where(hit, self._shade(cameras, raster, normal), background)
        sharp = torch.cat([color, hit.to(color), raster.depth, normal], dim=-1)  # (B, H, W, 8)
        rgb, alpha, depth, normal = antialias(sharp, raster, vertices, faces, cameras).split((3, 1, 1, 3), dim=-1)
        return Rendering(rgb, alpha, depth, functional.normalize(normal, dim=-1, eps=1e-6))

    def sdf(self) -> Tensor:
        """Signed distances (N, N, N) in metres, positive on the faces of the cube, so that the surface is closed."""
        return torch.maximum(self._free_sdf(), self._floor)

    def surface(self) -> Surface | DualSurface | None:
        """The triangles as they are now, differentiable in the parameters; None where there are none."""
        if self.faces is not None:
            return Surface(self._vertices(), self.faces)
        try:
            if self.config.geometry == "dmtet":
                return dmtet(self.sdf(), self.parameters["offsets"])
            # Quads are cut about their middles for the sake of gradients only.
            middles = torch.is_grad_enabled()
            return flexicubes(self.sdf(), self.parameters["offsets"], self.parameters["weights"], middles=middles)
        except EmptySurfaceError:
            return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for Adam, one a parameter; vertices that stay in place are left out."""
        config = self.config
        rates = {
            "color": config.color_lr,
            "sdf": config.sdf_lr,
            "offsets": config.offsets_lr,
            "weights": config.weights_lr,
            "vertices": config.vertices_lr,
        }
        coarse = config.sdf_lr if self.faces is None else config.vertices_lr
        rates |= {name: coarse for name in self.parameters if name.startswith("coarse")}
        return [
            {"params": [parameter], "lr": rates[name], "betas": _BETAS}
            for name, parameter in self.parameters.items()
            if rates[name] > 0
        ]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Shape and smoothness, in the units of 1/2 sum |rgb - target|^2 over a view's pixels; only those weighted."""
        config, voxel = self.config, self._voxel()
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        losses = {"color_smoothness": (config.color_smoothness, lambda: smoothness(self.parameters["color"]))}
        surface = self._drawn or self.surface()
        if surface is not None:
            mesh = surface.vertices / voxel, surface.faces
            losses |= {
                "normal_consistency": (config.normal_consistency, lambda: normal_consistency(*mesh)),
                "laplacian": (config.laplacian, lambda: laplacian(*mesh)),
                "edge_length": (config.edge_length, lambda: edge_length(*mesh)),
            }
            if isinstance(surface, DualSurface):
                losses["deviation"] = (config.deviation, lambda: deviation(surface) / voxel)
        if self.faces is None:
            losses["eikonal"] = (config.eikonal, lambda: eikonal(self.sdf() / voxel))
        return {name: pixels * weight * loss() for name, (weight, loss) in losses.items() if weight > 0}

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Bring a vanished surface back: as a small ball where the distances are smallest, which may grow again."""
        self._drawn = None
        self._step = step + 1
        if self.faces is not None or bool((self.sdf() < 0).any()):
            return
        points = grid_points(self.config.resolution).to(self.device)
        with torch.no_grad():
            sdf = self.parameters["sdf"]
            center = points.reshape(-1, 3)[self.sdf().argmin()].clamp(-BOUND + 0.1, BOUND - 0.1)
            free = self._free_sdf()
            sdf += torch.minimum(free, (points - center).norm(dim=-1) - _RETURN * self._voxel()) - free

    def to_mesh(self, resolution: int) -> Mesh:
        """The triangles as they are drawn, free of specks and cavities, with vertex colours and normals.

        The surface is as fine as the scene's own grid, whatever `resolution`; a learnable one is decimated to 20 000
        triangles. Raises EmptySurfaceError when there is no surface or only a speck of one.
        """
        with torch.no_grad():
            surface = self.surface()
        vertices, faces = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
        if surface is not None:
            vertices, faces = surface.vertices.detach().cpu().numpy(), surface.faces.cpu().numpy().astype(np.int32)
        if self.faces is None:
            vertices, faces = decimate(*_without_dust_and_cavities(vertices, faces), _MAX_FACES)
            if not len(faces) or np.ptp(vertices, axis=0).max() < _SPECK * self._voxel():
                raise EmptySurfaceError(
                    "the surface has vanished: start from a larger shape (representation.radius), or lower "
                    "representation.sdf_lr"
                )
        return Mesh(
            vertices,
            faces,
            colors=sample_colors(self.colors_of, vertices),
            normals=vertex_normals(vertices, faces),
        )

    @torch.no_grad()
    def colors_of(self, points: FloatArray) -> FloatArray:
        """sRGB colours (P, 3) float32 in [0, 1] of points (P, 3) in metres."""
        return self._color_at(torch.from_numpy(points).to(self.device)).cpu().numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and, for a fixed mesh, its triangles: all that the next step depends on."""
        state = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        state |= {"step": torch.tensor(self._step), "seed": torch.tensor(self._seed)}
        return state if self.faces is None else state | {"faces": self.faces.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a `state_dict` of the same geometry and resolution; a fixed mesh may be any other.

        Raises ValueError for another resolution or for missing tensors.
        """
        for name, setting in (("sdf", "resolution"), ("color", "color_resolution")):
            if name in self.parameters and name in state and state[name].shape != self.parameters[name].shape:
                raise ValueError(
                    f"the state's {name} is {tuple(state[name].shape)}, the scene's "
                    f"{tuple(self.parameters[name].shape)}: set representation.{setting}={state[name].shape[0]}"
                )
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise ValueError(
                f"the state of a {self.config.geometry} mesh scene lacks {', '.join(missing)}: is it of another "
                "representation or representation.geometry?"
            )
        if self.faces is not None:
            self.faces = state["faces"].to(self.device)
        self.parameters = {
            name: torch.nn.Parameter(state[name].detach().clone().to(parameter))
            for name, parameter in self.parameters.items()
        }
        self._step, self._seed = int(state["step"]), int(state["seed"])
        self._drawn = None

    def _voxel(self) -> float:
        return 2 * BOUND / (self.config.resolution - 1)

    def _free_sdf(self) -> Tensor:
        """Signed distances (N, N, N) in metres, wherever the surface may end."""
        sdf = self.parameters["sdf"]
        for coarse in self._coarse():
            fine = functional.interpolate(coarse[None, None], sdf.shape, mode="trilinear", align_corners=True)
            sdf = sdf + fine[0, 0]
        return sdf

    def _vertices(self) -> Tensor:
        """Vertices (V, 3) of a fixed mesh in metres."""
        vertices = self.parameters["vertices"]
        return vertices + sum((trilinear(coarse, vertices) for coarse in self._coarse()), torch.zeros_like(vertices))

    def _coarse(self) -> list[Tensor]:
        return [parameter for name, parameter in self.parameters.items() if name.startswith("coarse")]

    def _shade(self, cameras: Cameras, raster: Raster, normal: Tensor) -> Tensor:
        """What covered pixels look like, (B, H, W, 3); normal: (B, H, W, 3)."""
        shading, ambient = self.config.shading, self.config.ambient
        if shading == "normal":
            return normal_colors(normal, cameras)
        origins, directions = cameras.rays()  # (B, H, W, 3)
        # A colour a little further along the ray says nothing about where the surface is: it would be noise to it.
        points = origins + raster.depth.detach() * directions
        color = torch.ones_like(points)
        if shading != "textureless":
            hit = raster.face >= 0
            color = color.masked_scatter(hit[..., None], self._color_at(points[hit]))
        if shading == "none":
            return color
        return lambert(color, normal, from_points(points, self._lights(cameras)), ambient, 1 - ambient)

    def _lights(self, cameras: Cameras) -> Tensor:
        """Where the light of each camera is, (B, 3)."""
        if not torch.is_grad_enabled():
            return cameras.position()
        # A function of the step alone: a step that is repeated, or resumed, draws the same.
        return lights_near(cameras, self.config.light_spread, torch.Generator().manual_seed(self._seed + self._step))

    def _color_at(self, points: Tensor) -> Tensor:
        """Colours (P, 3) in [0, 1] of points (P, 3) in metres, trilinear in the pre-activations."""
        return torch.sigmoid(trilinear(self.parameters["color"], points))

    def _blank(self, cameras: Cameras, background: Tensor) -> Rendering:
        """The background alone; with gradients, zero ones, so that a step can be made."""
        zero = 0 * self.parameters["sdf"].sum().nan_to_num()
        empty = zero.expand(len(cameras), cameras.height, cameras.width, 3)
        return Rendering(empty + background, empty[..., :1], empty[..., :1], empty)


def eikonal(sdf: Tensor) -> Tensor:
    """Mean of (slope - 1)^2 over the cells within 2.5 voxels of the surface (Gropp et al. 2020, arXiv:2002.10099).

    sdf: (N, N, N) in voxels. 0 where there is no such cell.
    """
    n = len(sdf)
    cells = (sdf.detach().abs() < _BAND)[:-1, :-1, :-1].nonzero()
    low, flat = flat_index(cells, n), sdf.reshape(-1)
    here = flat.index_select(0, low)
    steps = [flat.index_select(0, low + stride) - here for stride in (n * n, n, 1)]
    slope = (torch.stack(steps).square().sum(0) + 1e-12).sqrt()  # (C,); the root's own slope is infinite at 0
    return (slope - 1).square().sum() / max(len(cells), 1)


def _coarse_sizes(n: int) -> list[int]:
    """Samples a side of the coarser lattices below one of n: halved as long as four are left."""
    sizes = []
    while n // 2 >= 4:
        n //= 2
        sizes.append(n)
    return sizes


def _vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit vertex normals (V, 3): means of the adjacent faces' normals, weighted by area."""
    corners = vertices.index_select(0, faces.reshape(-1)).reshape(-1, 3, 3)  # (F, 3, 3)
    weighted = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # (F, 3)
    spread = weighted[:, None].expand(-1, 3, -1).reshape(-1, 3)  # (3 F, 3)
    normals = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), spread)
    return functional.normalize(normals, dim=-1, eps=1e-20)


def _without_dust_and_cavities(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Leave out the components with less than a hundredth of the area, and those that look inwards."""
    if not len(faces):
        return vertices, faces
    n = len(vertices)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), (n, n))
    component = connected_components(graph, directed=False)[1][faces[:, 0]]  # (F,)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    area = np.bincount(component, np.linalg.norm(np.cross(b - a, c - a), axis=1))
    volume = np.bincount(component, np.einsum("fi,fi->f", a, np.cross(b, c)))
    kept = faces[((area >= _DUST * area.sum()) & (volume > 0))[component]]
    used, place = np.unique(kept, return_inverse=True)
    return vertices[used], place.reshape(-1, 3).astype(np.int32)
