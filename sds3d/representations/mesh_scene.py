"""A triangle mesh with learnable geometry and a colour field, rendered by differentiable rasterisation.

The geometry is the zero level of signed distances on a grid, extracted anew for each render by deep marching
tetrahedra (Shen et al. 2021, arXiv:2111.04276) or FlexiCubes (Shen et al. 2023, arXiv:2308.05371), or a mesh of fixed
connectivity. Gradients arrive as in nvdiffrec (Munkberg et al. 2022, arXiv:2111.12503).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.geometry.mesh import EmptySurfaceError, FloatArray, IntArray, Mesh
from sds3d.geometry.sampling import sample_surface
from sds3d.geometry.triangles import decimate, vertex_normals
from sds3d.rendering.mesh_differentiable import Raster, antialias, interpolate, mesh_edges, rasterize_mesh
from sds3d.rendering.mesh_losses import edge_length, laplacian
from sds3d.rendering.shading import (
    from_points,
    lambert,
    lights_near,
    linear_to_srgb,
    metallic_roughness,
    normal_colors,
    prefilter,
    sample_texture,
    srgb_to_linear,
    studio,
)
from sds3d.rendering.volume import BOUND, smoothness
from sds3d.representations.base import SURFACE, Rendering, RepresentationConfig, Scene, Start
from sds3d.representations.fields import trilinear
from sds3d.representations.isosurface import Surface, dmtet, flat_index, grid_points
from sds3d.representations.isosurface_flexicubes import WEIGHTS, DualSurface, deviation, flexicubes
from sds3d.representations.mesh_texture import (
    Layout,
    Texels,
    look_up,
    picture,
    roughening,
    start_colors,
    texels_of,
    welded,
    with_uv,
)
from sds3d.representations.signed_distance import mesh_to_colors, mesh_to_sdf

_BETAS = (0.9, 0.95)  # a grid point is seen rarely, so the second moment must not remember for long
_RETURN = 2.0  # radius, in voxels, of the ball that is put where a surface vanished
_SPECK = 6.0  # a surface that extends over fewer voxels is no result
_BAND = 2.5  # voxels round the surface within which the distances are held to be distances
_DUST = 0.01  # a component with a smaller share of the surface area is dropped
_MAX_FACES = 20_000
_MATTE = (-3.0, 1.0)  # pre-activations that metallic and roughness start from: a dull plastic
_SAMPLES = 4096  # points of the surface that the material's means are taken of
_PAIRS = 65_536  # neighbouring texels whose smoothness a step looks at
_LAYOUT = "layout_"


class MeshConfig(RepresentationConfig):
    """A learnable mesh. The weights balance the loop's data term, 1/2 sum |rgb - target|^2 a view."""

    name: Literal["mesh"] = "mesh"
    geometry: Literal["dmtet", "flexicubes", "fixed"] = "dmtet"
    """What makes the triangles: marching tetrahedra on a grid of signed distances, FlexiCubes on one (fewer triangles,
    sharper edges, more to learn), or one mesh whose triangles stay the same."""
    resolution: int = Field(default=48, ge=8, le=256)
    """Samples of the signed distances along an edge of the cube [-0.55, 0.55]^3 metres."""
    texture: Literal["field", "texels"] = "field"
    """Where colours are kept: in voxels, or in a texture on a fixed mesh, whose UVs are kept if it has any."""
    color_resolution: int = Field(default=64, ge=4, le=256)
    """Voxels of the colour field along an edge of the cube."""
    texture_size: int = Field(default=256, ge=16, le=4096)
    """Texels along an edge of the texture."""
    material: Literal["color", "pbr"] = "color"
    """What is learnt of the surface: its colour, or also how metallic and how rough it is, under the light of a studio
    (Fantasia3D, arXiv:2303.13873)."""
    radius: float = Field(default=0.3, gt=0, le=0.5)
    """Radius in metres of the ball that the mesh starts as."""
    shading: Literal["none", "lambert", "textureless", "normal"] = "none"
    """What is drawn: plain colours, colours lit by a lamp near each camera, white lit by it, or each camera's normals
    as colours. The last two teach shape alone."""
    ambient: float = Field(default=0.65, ge=0, le=1)
    """Share of the light that comes from everywhere; the rest is the lamp's."""
    light_spread: float = Field(default=0.3, ge=0)
    """How far lamps are drawn round their cameras: standard deviation as a share of the camera's distance."""
    sdf_lr: float = Field(default=0.0065, gt=0)
    """Learning rate of the signed distances, in metres, on each of their lattices."""
    offsets_lr: float = Field(default=0.003, gt=0)
    """Learning rate of the pre-activations of the grid points' offsets; 1 is about a third of a voxel."""
    weights_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the pre-activations of FlexiCubes' weights."""
    vertices_lr: float = Field(default=0.001, ge=0)
    """Learning rate of the vertices of a fixed mesh, in metres; 0 leaves them where they are."""
    color_lr: float = Field(default=0.1, gt=0)
    """Learning rate of the pre-activation of the colour."""
    material_lr: float = Field(default=0.05, gt=0)
    """Learning rate of the pre-activations of metallic and roughness."""
    normal_consistency: float = Field(default=0.02, ge=0)
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

    texel_smoothness: float = Field(default=0.03, ge=0)
    """The same for neighbouring texels, which are all seen: of voxels most are not."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.texture == "texels" and self.geometry != "fixed":
            raise ValueError("texture=texels needs triangles that stay the same: set geometry=fixed, or texture=field")
        if self.material == "pbr" and self.shading == "lambert":
            raise ValueError("material=pbr is lit by a studio, not by lamps: set shading=none, textureless or normal")
        return self

    def make(self, start: Start) -> MeshScene:
        """A ball, or the surface of `start.before`."""
        if start.before is None:
            return MeshScene(self, start.generator, start.device)
        return MeshScene.from_mesh(start.before.to_mesh(SURFACE), self, start.generator, start.device)


class MeshScene(Scene):
    """A scene of triangles.

    parameters: color (M, M, M, 3), axes x, y, z, or (S, S, 3) for texels: sigmoid(color) is the sRGB colour; for
    material=pbr material, of 2 channels likewise: metallic and roughness. For a learnable surface sdf (N, N, N) metres,
    offsets (N, N, N, 3) and, for FlexiCubes, weights (N - 1, N - 1, N - 1, 21), both as `flexicubes` takes them; for a
    fixed one vertices (V, 3) metres, each place once. faces: (F, 3) int64 of a fixed mesh, else None.
    What pictures say is about the few samples that make an outline. So that the surface moves as a whole, lattices of
    N/2, N/4, ... samples a side are added: coarse_K (K, K, K) to the distances, or (K, K, K, 3) to where vertices are.
    """

    def __init__(self, config: MeshConfig, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        n = config.resolution
        sdf = grid_points(n).norm(dim=-1) - config.radius
        shape = (config.texture_size,) * 2 if config.texture == "texels" else (config.color_resolution,) * 3
        start = {"color": 0.1 * torch.randn(*shape, 3, generator=generator)}
        if config.material == "pbr":
            start["material"] = torch.tensor(_MATTE).expand(*shape, 2).clone()
        self._environment = prefilter(studio()) if config.material == "pbr" else None
        self._layout: Layout | None = None  # of a fixed mesh
        self._texels: Texels | None = None
        self.faces: Tensor | None = None
        if config.geometry == "fixed":
            start["vertices"], self.faces = dmtet(sdf)
            index = torch.arange(len(start["vertices"]))
            self._layout = Layout(index, self.faces, torch.zeros(0, 2)).to(self.device)
        else:
            start |= {"sdf": sdf, "offsets": torch.zeros(n, n, n, 3)}
        start |= {f"coarse_{k}": torch.zeros(k, k, k, *(3,) * (self.faces is not None)) for k in _coarse_sizes(n)}
        if config.geometry == "flexicubes":
            start["weights"] = torch.zeros(n - 1, n - 1, n - 1, WEIGHTS)
        self.parameters = {name: torch.nn.Parameter(value.to(self.device)) for name, value in start.items()}
        for name, rate in self._rates().items():
            self.parameters[name].requires_grad_(rate > 0)
        inner = torch.full((n - 2, n - 2, n - 2), -torch.inf, device=self.device)
        self._floor = functional.pad(inner, (1,) * 6, value=self._voxel())  # the least distance of each grid point
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._step = 0
        # What the last render with gradients showed, and its faces' normals.
        self._drawn: tuple[Surface | DualSurface, Tensor] | None = None

    @classmethod
    def from_mesh(
        cls, mesh: Mesh, config: MeshConfig, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> Self:
        """A scene that starts as `mesh`, with its colours, if any: itself if fixed, else as closely as the grid can.

        Raises ValueError for a mesh without area, EmptySurfaceError for one too small or thin for the grid.
        """
        scene = cls(config, generator, device)
        start = {name: parameter.detach() for name, parameter in scene.parameters.items()} | scene._counters()
        if config.geometry == "fixed":
            start["vertices"], layout = welded(mesh)
            if config.texture == "texels":
                layout = with_uv(start["vertices"], layout, config.texture_size)
                start["color"] = start_colors(mesh, texels_of(layout, config.texture_size))
            start |= {_LAYOUT + name: tensor for name, tensor in layout._asdict().items()}
        else:
            start["sdf"] = torch.from_numpy(mesh_to_sdf(mesh, config.resolution))
        if config.texture == "field" and mesh.is_colored():
            start["color"] = torch.logit(torch.from_numpy(mesh_to_colors(mesh, config.color_resolution)), eps=0.02)
        if "material" in start:
            factors = torch.tensor([mesh.metallic, mesh.roughness])
            start["material"] = torch.logit(factors, eps=0.05).expand_as(start["material"])
        scene.load_state_dict(start)
        if config.geometry != "fixed":
            dmtet(scene.sdf())  # raises where nothing is inside
        return scene

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Pictures of the B views over `background`, (B, 3) or (3,) in [0, 1]; it alone where there is no surface.

        With gradients enabled, lights are drawn anew after each step; under `torch.no_grad` they are at the cameras.
        """
        cameras = cameras.to(self.device)
        background = background.to(self.device).expand(len(cameras), 3)[:, None, None]  # (B, 1, 1, 3)
        surface = self.surface()
        if surface is None:
            return self._blank(cameras, background)
        vertices, faces = surface.vertices, surface.faces
        normals = face_normals(vertices, faces)
        if torch.is_grad_enabled():
            self._drawn = surface, normals
        raster = rasterize_mesh(vertices, faces, cameras)
        hit = raster.face[..., None] >= 0  # (B, H, W, 1)
        normal = functional.normalize(
            interpolate(_vertex_normals(normals, faces, len(vertices)), faces, raster), dim=-1
        )
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
        rates = self._rates()
        return [
            {"params": [parameter], "lr": rates[name], "betas": _BETAS}
            for name, parameter in self.parameters.items()
            if parameter.requires_grad
        ]

    def _rates(self) -> dict[str, float]:
        """The learning rate of each parameter."""
        config = self.config
        rates = {
            "color": config.color_lr,
            "material": config.material_lr,
            "sdf": config.sdf_lr,
            "offsets": config.offsets_lr,
            "weights": config.weights_lr,
            "vertices": config.vertices_lr,
        }
        coarse = config.sdf_lr if self.faces is None else config.vertices_lr
        return {name: rates.get(name, coarse) for name in self.parameters}

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Shape and smoothness, in the units of 1/2 sum |rgb - target|^2 over a view's pixels; only those weighted."""
        config, voxel = self.config, self._voxel()
        pixels = rendering.alpha.shape[1] * rendering.alpha.shape[2]
        smooth = config.texel_smoothness if config.texture == "texels" else config.color_smoothness
        losses = {"color_smoothness": (smooth, self._color_smoothness)}
        surface, normals = self._drawn or (self.surface(), None)
        if surface is not None and (self.faces is None or config.vertices_lr > 0):
            mesh = surface.vertices / voxel, surface.faces
            if normals is None:
                normals = face_normals(surface.vertices, surface.faces)
            bent = normals, surface.faces, len(surface.vertices)
            losses |= {
                "normal_consistency": (config.normal_consistency, lambda: bending(*bent)),
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
        if self.faces is not None:
            return
        with torch.no_grad():
            sdf, free = self.sdf(), self._free_sdf()
            if bool((sdf < 0).any()):
                return
            points = grid_points(self.config.resolution).to(self.device)
            center = points.reshape(-1, 3)[sdf.argmin()].clamp(-BOUND + 0.1, BOUND - 0.1)
            ball = (points - center).norm(dim=-1) - _RETURN * self._voxel()
            self.parameters["sdf"].add_(torch.minimum(free, ball) - free)

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
        normals = vertex_normals(vertices, faces)
        if self.config.texture == "texels":
            self.atlas()  # unwrapped, if it was not
        if self._layout is not None:
            origin, faces = self._layout.origin.cpu().numpy(), self._layout.faces.cpu().numpy().astype(np.int32)
            vertices, normals = vertices[origin], normals[origin]
        mesh = Mesh(vertices, faces, normals=normals)
        return self._textured(mesh) if self.config.texture == "texels" else self._colored(mesh)

    @torch.no_grad()
    def _colored(self, mesh: Mesh) -> Mesh:
        """With the field's colours at the vertices, and the means of the material over the surface."""

        def values(name: str, points: NDArray[np.floating]) -> Tensor:
            return torch.sigmoid(trilinear(self.parameters[name], torch.from_numpy(points).float().to(self.device)))

        mesh = replace(mesh, colors=values("color", mesh.vertices).nan_to_num().cpu().numpy())
        if "material" not in self.parameters:
            return mesh
        metallic, roughness = values("material", sample_surface(mesh, _SAMPLES).points).mean(0).tolist()
        return replace(mesh, metallic=metallic, roughness=roughness)

    def _textured(self, mesh: Mesh) -> Mesh:
        """With the texture, and its colours at the vertices."""
        layout, texels = self.atlas()
        texture, uv = picture(self.parameters["color"], texels.source), layout.uv.cpu().numpy()
        mesh = replace(mesh, colors=sample_texture(texture, uv), uv=uv, texture=texture)
        if "material" not in self.parameters:
            return mesh
        factors = picture(self.parameters["material"], texels.source)  # (S, S, 2)
        metallic, roughness = (factors[texels.face >= 0].mean(0) / 255).tolist()
        channels = np.stack([np.zeros_like(factors[..., 0]), factors[..., 1], factors[..., 0]], axis=-1)
        return replace(mesh, metallic=metallic, roughness=roughness, metallic_roughness=channels)

    def atlas(self) -> tuple[Layout, Texels]:
        """Where the mesh lies in its texture; unwrapped when it is first needed."""
        assert self._layout is not None, "only fixed meshes have a texture"
        if self._texels is None:
            self._layout = with_uv(self._vertices(), self._layout, self.config.texture_size).to(self.device)
            texels = texels_of(self._layout, self.config.texture_size)
            source, neighbours = texels.source.to(self.device), texels.neighbours.to(self.device)
            self._texels = texels._replace(source=source, neighbours=neighbours)
        return self._layout, self._texels

    def _color_smoothness(self) -> Tensor:
        """How much neighbours differ, summed over colour and material."""
        values = [self.parameters[name] for name in self._looks()]
        if self.config.texture == "field":
            return torch.stack([smoothness(value) for value in values]).sum()
        pairs = self.atlas()[1].neighbours
        if len(pairs) > _PAIRS:  # some at a time: a large texture has millions
            chosen = torch.randint(len(pairs), (_PAIRS,), generator=self._chance())
            pairs = pairs[chosen.to(pairs.device)]
        return torch.stack([roughening(value, pairs) for value in values]).sum()

    def _chance(self) -> torch.Generator:
        """A function of the step alone: a step that is repeated, or resumed, draws the same."""
        return torch.Generator().manual_seed(self._seed + self._step)

    def _counters(self) -> dict[str, Tensor]:
        return {"step": torch.tensor(self._step), "seed": torch.tensor(self._seed)}

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and, for a fixed mesh, its triangles and their UVs: all that the next step depends on."""
        state = {name: parameter.detach().clone() for name, parameter in self.parameters.items()} | self._counters()
        if self.config.texture == "texels":
            self.atlas()  # unwrapped, if it was not
        if self._layout is not None:
            state |= {_LAYOUT + name: tensor.clone() for name, tensor in self._layout._asdict().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a `state_dict` of the same geometry and resolution; a fixed mesh may be any other.

        Raises ValueError for another resolution or for missing tensors.
        """
        size = "texture_size" if self.config.texture == "texels" else "color_resolution"
        for name, setting in (("sdf", "resolution"), ("color", size)):
            if name in self.parameters and name in state and state[name].shape != self.parameters[name].shape:
                raise ValueError(
                    f"the state's {name} is {tuple(state[name].shape)}, the scene's "
                    f"{tuple(self.parameters[name].shape)}: set representation.{setting}={state[name].shape[0]}"
                )
        layout = () if self._layout is None else tuple(_LAYOUT + name for name in Layout._fields)
        needed = {*self.parameters, *self._counters(), *layout}
        missing = sorted(needed - state.keys())
        if missing:
            raise ValueError(
                f"the state of a {self.config.geometry} mesh scene lacks {', '.join(missing)}: is it of another "
                "representation, geometry, texture or material?"
            )
        if self._layout is not None:
            self._layout, self._texels = Layout(*(state[name].clone() for name in layout)).to(self.device), None
            self.faces = self._layout.origin[self._layout.faces]
        self.parameters = {
            name: torch.nn.Parameter(state[name].detach().clone().to(parameter), requires_grad=parameter.requires_grad)
            for name, parameter in self.parameters.items()
        }
        self._step, self._seed = int(state["step"]), int(state["seed"])
        self._drawn = None

    def _voxel(self) -> float:
        return 2 * BOUND / (self.config.resolution - 1)

    def _free_sdf(self) -> Tensor:
        """Signed distances (N, N, N) in metres, wherever the surface may end."""
        coarse = torch.zeros_like(self._coarse()[-1])
        for level in reversed(self._coarse()):
            coarse = _resized(coarse, len(level)) + level
        return self.parameters["sdf"] + _resized(coarse, self.config.resolution)

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
            values = {name: self._values_at(name, raster, points, hit) for name in self._looks()}  # (P, C)
            seen = values["color"]
            if self._environment is not None:
                factors = values["material"].split(1, dim=-1)
                base, metallic, roughness, facing, to_camera = (
                    value[None, None] for value in (srgb_to_linear(seen), *factors, normal[hit], -directions[hit])
                )
                light = metallic_roughness(base, metallic, roughness, facing, to_camera, self._environment)
                seen = linear_to_srgb(light[0, 0]).clamp(max=1)
            color = color.masked_scatter(hit[..., None], seen)
        if shading == "none":
            return color
        return lambert(color, normal, from_points(points, self._lights(cameras)), ambient, 1 - ambient)

    def _looks(self) -> list[str]:
        """Names of the parameters that say what the surface looks like."""
        return [name for name in ("color", "material") if name in self.parameters]

    def _values_at(self, name: str, raster: Raster, points: Tensor, hit: Tensor) -> Tensor:
        """Values (P, C) in [0, 1] of the covered pixels, hit (B, H, W), at points (B, H, W, 3) in metres."""
        if self.config.texture == "field":
            return torch.sigmoid(trilinear(self.parameters[name], points[hit]))
        layout, texels = self.atlas()
        raster = raster._replace(barycentric=raster.barycentric.detach())
        return look_up(self.parameters[name], texels.source, interpolate(layout.uv, layout.faces, raster)[hit])

    def _lights(self, cameras: Cameras) -> Tensor:
        """Where the light of each camera is, (B, 3)."""
        if not torch.is_grad_enabled():
            return cameras.position()
        return lights_near(cameras, self.config.light_spread, self._chance())

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


def bending(normals: Tensor, faces: Tensor, n_vertices: int) -> Tensor:
    """`normal_consistency` of a mesh whose faces' normals (F, 3) of any length are known: several times faster.

    The mean over the edges between two faces of 1 - cos of the angle by which the surface bends there.
    """
    edges = mesh_edges(faces, n_vertices)
    first = edges.starts[:-1][edges.starts.diff() == 2]  # (I,)
    corner = edges.corners[torch.stack([first, first + 1]).long()].long()  # (2, I), opposite to the edge
    face = corner // 3
    # Faces that run along the edge the same way look to different sides of the surface.
    begin = faces.reshape(-1)[3 * face + (corner + 1) % 3]
    turned = 1 - 2 * (begin[0] == begin[1]).to(normals)
    normals = functional.normalize(normals, dim=-1, eps=1e-30)
    one, other = (normals.index_select(0, index) for index in face)
    whole = (one.detach().abs().sum(1) > 0) & (other.detach().abs().sum(1) > 0)  # no area, no angle
    cosines = turned * (one * other).sum(1)
    return ((1 - cosines) * whole).sum() / max(len(cosines), 1)


def _resized(lattice: Tensor, n: int) -> Tensor:
    """A lattice (K, K, K) at n samples a side, trilinear, the corners in place; products of matrices are faster."""
    k = len(lattice)
    place = torch.linspace(0, k - 1, n, device=lattice.device)
    knots = torch.arange(k, device=lattice.device)
    matrix = (1 - (place[:, None] - knots).abs()).clamp(min=0).to(lattice)  # (n, K)
    for _ in range(3):  # the last axis is stretched and goes to the front
        lattice = torch.einsum("nk,xyk->nxy", matrix, lattice)
    return lattice


def _coarse_sizes(n: int) -> list[int]:
    """Samples a side of the coarser lattices below one of n: halved as long as four are left."""
    sizes = []
    while n // 2 >= 4:
        n //= 2
        sizes.append(n)
    return sizes


def _vertex_normals(weighted: Tensor, faces: Tensor, n_vertices: int) -> Tensor:
    """Unit vertex normals (V, 3): means of the adjacent faces' normals (F, 3), each as long as twice its area."""
    normals = weighted.new_zeros(n_vertices, 3)
    for corner in faces.unbind(1):
        normals = normals.index_add(0, corner, weighted)
    return functional.normalize(normals, dim=-1, eps=1e-20)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals (F, 3), each as long as twice its face's area."""
    a, b, c = (vertices.index_select(0, corner) for corner in faces.unbind(1))
    (ux, uy, uz), (vx, vy, vz) = (b - a).unbind(1), (c - a).unbind(1)  # faster than torch.linalg.cross
    return torch.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], dim=1)


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
