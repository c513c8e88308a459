"""Shading: pictures of a finished mesh, and the formulas that differentiable scenes shade their pixels with.

`shade_mesh` draws Lambertian pictures on a CPU, for the toybox's data set, previews and contact sheets. The other
functions take pictures (B, H, W, C) of base colours, normals and so on, and are differentiable in all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import Cameras
from sds3d.compiled import njit
from sds3d.geometry.mesh import FloatArray, IntArray, Mesh
from sds3d.rendering.mesh_zbuffer import antialiased, rasterize

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@dataclass(frozen=True)
class Light:
    """A distant light with an ambient part: a surface shows color * (ambient + diffuse * max(0, n.l)).

    direction: (3,), or (B, 3) with one per view; unit vectors in the world frame that point towards the light.
    ambient, diffuse: factors in [0, 1]. If their sum is at most 1, no colour is clipped.
    """

    direction: FloatArray
    ambient: float = 0.65
    diffuse: float = 0.35


def headlight(cameras: Cameras, direction: ArrayLike = (-0.4, 0.6, 0.7), ambient: float = 0.65) -> Light:
    """Return a light fixed to each camera. direction: (3,) in the camera's frame (x right, y up, z to the viewer)."""
    local = np.asarray(direction, dtype=np.float32)
    world = cameras.c2w()[:, :3, :3].detach().cpu().numpy() @ (local / np.linalg.norm(local))  # (B, 3)
    return Light(world.astype(np.float32), ambient, 1.0 - ambient)


def shade_mesh(
    mesh: Mesh,
    cameras: Cameras,
    background: ArrayLike = (1.0, 1.0, 1.0),
    light: Light | None = None,
    supersampling: int = 2,
) -> tuple[FloatArray, FloatArray]:
    """Draw pictures (B, H, W, 3) float32 in [0, 1] over the background, and coverage (B, H, W, 1) in [0, 1].

    The base colour is the mesh's texture if it has one (bilinear), else its vertex colours, else light grey. Surfaces
    visible from inside are lit with the flipped normal. Light and filter act on sRGB values without linearising them.

    background: (3,) sRGB in [0, 1]. light: a headlight by default. supersampling: n for n x n samples per pixel.
    """
    light = light or headlight(cameras)
    directions = np.ascontiguousarray(np.broadcast_to(light.direction, (len(cameras), 3)), dtype=np.float32)
    texture = np.ascontiguousarray(mesh.texture) if mesh.uv is not None and mesh.texture is not None else None
    base = mesh.uv if texture is not None else mesh.colors
    if base is None:
        base = np.full_like(mesh.vertices, 0.8)
    corners = mesh.vertices[mesh.faces]  # (F, 3 corners, 3)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).astype(np.float32)  # (F, 3)
    to_camera = cameras.position().detach().cpu().numpy()[:, None] - corners[None, :, 0]  # (B, F, 3)
    inside = np.einsum("bfi,fi->bf", to_camera, face_normals) < 0  # (B, F)
    normals = mesh.normals if mesh.normals is not None else np.zeros_like(mesh.vertices)
    attributes = np.concatenate([normals, base], axis=1)  # (V, 3 + 2 or 3)
    ambient, diffuse = np.float32(light.ambient), np.float32(light.diffuse)
    backdrop = np.asarray(background, dtype=np.float32)

    def render(large: Cameras) -> FloatArray:
        hits = rasterize(mesh.vertices, mesh.faces, attributes, large)
        normal, color = hits.attributes[..., :3], hits.attributes[..., 3:]
        if mesh.normals is None:
            normal = face_normals[hits.face]  # (B, H, W, 3); empty pixels are overwritten below
        if texture is not None:
            uv, color = color, np.empty((*hits.face.shape, 3), np.float32)
            _bilinear(texture, uv.reshape(-1, 2), hits.face.reshape(-1), color.reshape(-1, 3))
        rgba = np.empty((*hits.face.shape, 4), np.float32)
        _lambert(hits.face, normal, color, inside, directions, ambient, diffuse, backdrop, rgba)
        return rgba

    rgba = antialiased(render, cameras, supersampling)
    return rgba[..., :3], rgba[..., 3:]


def sample_texture(texture: NDArray[np.uint8], uv: FloatArray) -> FloatArray:
    """Look up a texture (H, W, 3) uint8 bilinearly, clamped at its borders: uv (..., 2) -> (..., 3) in [0, 1]."""
    flat = np.ascontiguousarray(uv, dtype=np.float32).reshape(-1, 2)
    out = np.empty((len(flat), 3), np.float32)
    _bilinear(np.ascontiguousarray(texture), flat, np.zeros(len(flat), np.int32), out)
    return out.reshape(*uv.shape[:-1], 3)


@njit(cache=True, nogil=True, error_model="numpy")
def _bilinear(texture: NDArray[np.uint8], uv: FloatArray, face: IntArray, out: FloatArray) -> None:
    """Fill `out` (P, 3) where `face` (P,) is not negative. uv: (P, 2)."""
    height, width = texture.shape[:2]
    scale = np.float32(1.0 / 255.0)
    for i in range(uv.shape[0]):
        if face[i] < 0:
            continue
        # Texel centres are at half-integers.
        x = min(max(uv[i, 0] * np.float32(width) - _HALF, _ZERO), np.float32(width - 1))
        y = min(max(uv[i, 1] * np.float32(height) - _HALF, _ZERO), np.float32(height - 1))
        left, top = int(x), int(y)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        fx, fy = x - np.float32(left), y - np.float32(top)
        for k in range(3):
            upper = np.float32(texture[top, left, k]) * (_ONE - fx) + np.float32(texture[top, right, k]) * fx
            lower = np.float32(texture[bottom, left, k]) * (_ONE - fx) + np.float32(texture[bottom, right, k]) * fx
            out[i, k] = (upper * (_ONE - fy) + lower * fy) * scale


@njit(cache=True, nogil=True, error_model="numpy")
def _lambert(
    face: IntArray,
    normal: FloatArray,
    color: FloatArray,
    inside: NDArray[np.bool_],
    directions: FloatArray,
    ambient: np.float32,
    diffuse: np.float32,
    background: FloatArray,
    rgba: FloatArray,
) -> None:
    batch, height, width = face.shape
    for i in range(batch):
        lx, ly, lz = directions[i, 0], directions[i, 1], directions[i, 2]
        for row in range(height):
            for column in range(width):
                f = face[i, row, column]
                if f < 0:
                    for k in range(3):
                        rgba[i, row, column, k] = background[k]
                    rgba[i, row, column, 3] = _ZERO
                    continue
                x, y, z = normal[i, row, column, 0], normal[i, row, column, 1], normal[i, row, column, 2]
                length = np.sqrt(x * x + y * y + z * z)
                cosine = (x * lx + y * ly + z * lz) / length if length > _ZERO else _ZERO
                if inside[i, f]:
                    cosine = -cosine
                shade = ambient + diffuse * max(_ZERO, cosine)
                for k in range(3):
                    rgba[i, row, column, k] = min(max(color[i, row, column, k] * shade, _ZERO), _ONE)
                rgba[i, row, column, 3] = _ONE


# ---- differentiable: Lambert, normals ----


def toward_viewer(normal: Tensor, to_camera: Tensor) -> Tensor:
    """Return normals (B, H, W, 3), flipped where they point away from the camera, since surfaces have two sides."""
    return torch.where((normal * to_camera).sum(-1, keepdim=True) < 0, -normal, normal)


def lambert(color: Tensor, normal: Tensor, to_light: Tensor, ambient: float = 0.1, diffuse: float = 0.9) -> Tensor:
    """Return color (ambient + diffuse max(0, n.l)): (B, H, W, 3), as in DreamFusion (arXiv:2209.14988, section 3.1).

    color: (B, H, W, 3). normal: (B, H, W, 3) unit vectors. to_light: unit vectors towards the light, of any shape that
    expands to that of the normals: (B, 1, 1, 3) for distant lights; see `from_points` for near ones.
    """
    return color * (ambient + diffuse * (normal * to_light).sum(-1, keepdim=True).clamp(min=0))


def textureless(normal: Tensor, to_light: Tensor, ambient: float = 0.1, diffuse: float = 0.9) -> Tensor:
    """Return `lambert` on white: only the shape is visible, so that colours cannot replace it."""
    return lambert(torch.ones_like(normal), normal, to_light, ambient, diffuse)


def from_points(points: Tensor, position: Tensor) -> Tensor:
    """Return unit vectors (B, H, W, 3) from points (B, H, W, 3) to a light or camera at `position` (B, 3), metres."""
    return functional.normalize(position[:, None, None] - points, dim=-1)


def lights_near(cameras: Cameras, spread: float, generator: torch.Generator) -> Tensor:
    """Return a light position per camera (B, 3): the camera's plus a Gaussian offset of `spread` times its distance."""
    position = cameras.position()
    offsets = torch.randn(len(cameras), 3, generator=generator).to(position, non_blocking=True)
    return position + spread * cameras.distance[:, None] * offsets


def normal_colors(normal: Tensor, cameras: Cameras | None = None) -> Tensor:
    """Return normals as colours (n + 1) / 2, (B, H, W, 3), in the world's axes or, with `cameras`, in each camera's.

    A camera's x is right, y is up and z points towards it, the usual convention: surfaces that face it are light blue.
    """
    if cameras is not None:
        normal = torch.einsum("bij,bhwi->bhwj", cameras.c2w()[:, :3, :3].to(normal), normal)
    return 0.5 * (normal + 1)


# ---- differentiable: metallic-roughness under an environment ----


class Environment(NamedTuple):
    """Light from all directions, as returned by `prefilter`, or K such lights one after the other. Maps are octahedral
    with a rim of copied texels.

    diffuse: (K, n, n, 3), what a white Lambertian surface with a given normal reflects: irradiance / pi.
    specular: (K levels, n, n, 3), radiance around a mirrored direction, blurred for roughness 0 to 1 in equal steps.
    """

    diffuse: Tensor
    specular: Tensor

    def to(self, device: torch.device) -> Environment:
        """Return a copy on another device."""
        return Environment(self.diffuse.to(device), self.specular.to(device))


def prefilter(radiance: Tensor, size: int = 32, levels: int = 6) -> Environment:
    """Return the environment of a panorama. Differentiable in the panorama.

    radiance: (h, w, 3), linear, at least 0. The top row looks up (+Y), the middle column along +Z, and the column a
    quarter of the width to its right along +X. size: texels along a side of the maps. levels: number of roughnesses.
    The specular maps hold the first factor of the split sum, with normal and viewer along the mirrored direction (Karis
    2013, "Real shading in Unreal Engine 4").
    Raises ValueError for a panorama of another shape.
    """
    if radiance.ndim != 3 or radiance.shape[2] != 3:
        raise ValueError(f"a panorama must be (h, w, 3), got {tuple(radiance.shape)}")
    weights = _lobes(*radiance.shape[:2], size, levels, radiance.dtype).to(radiance)  # (1 + levels, n n, h w)
    maps = [_with_rim((lobe @ radiance.reshape(-1, 3)).reshape(size, size, 3)) for lobe in weights]
    return Environment(maps[0][None], torch.stack(maps[1:]))


@lru_cache(maxsize=1)
def _lobes(height: int, width: int, size: int, levels: int, dtype: torch.dtype) -> Tensor:
    """Return the shares of a panorama's pixels in each texel of the diffuse map and of the specular maps:
    (1 + levels, size size, height width). They are kept, 59 MB for one panorama, because many lights have one size.
    """
    polar = torch.linspace(0, math.pi, height + 1, dtype=dtype)
    angle = (2 * torch.arange(width, dtype=dtype) + 1 - width) * (math.pi / width)
    middle = 0.5 * (polar[1:] + polar[:-1])[:, None]  # (h, 1)
    light = torch.stack(
        [middle.sin() * angle.sin(), middle.cos().expand(-1, width), middle.sin() * angle.cos()], dim=-1
    ).reshape(-1, 3)  # (h w, 3)
    solid_angle = (polar[:-1].cos() - polar[1:].cos())[:, None].expand(-1, width).reshape(-1)
    center = (2 * torch.arange(size, dtype=dtype) + 1 - size) / size
    cosine = _octahedron(torch.cartesian_prod(center, center).flip(-1)) @ light.T  # (n n, h w)
    texel = math.sqrt(4 * math.pi / min(size * size, height * width))  # radians; a lobe cannot be much narrower
    lobes = [cosine.clamp(min=0)]
    for level in range(levels):
        square = max((level / (levels - 1)) ** 2, 0.1 * texel) ** 2  # alpha^2, alpha = roughness^2
        half = 0.5 * (1 + cosine)  # (n.h)^2, with the viewer along n
        lobes.append(square / (half * (square - 1) + 1).square() * cosine.clamp(min=0))
    weights = torch.stack(lobes) * solid_angle
    return weights / weights.sum(-1, keepdim=True)


def studio(height: int = 16) -> Tensor:
    """Return a panorama (height, 2 height, 3) for `prefilter`: grey walls, light from above, two soft lamps."""
    up = torch.cos((torch.arange(height) + 0.5) * (math.pi / height))[:, None]  # (h, 1)
    azimuth = (2 * torch.arange(2 * height) + 1 - 2 * height) * (math.pi / (2 * height))
    radiance = (0.5 + 0.35 * up).expand(-1, 2 * height)
    for strength, where, elevation in ((3.0, -0.7, 0.6), (1.2, 1.1, 0.3)):
        across = torch.sqrt(1 - up**2) * math.cos(elevation) * torch.cos(azimuth - where)
        radiance = radiance + strength * torch.exp(12 * (across + up * math.sin(elevation) - 1))
    return radiance[..., None].repeat(1, 1, 3)


def metallic_roughness(
    base_color: Tensor,
    metallic: Tensor,
    roughness: Tensor,
    normal: Tensor,
    to_camera: Tensor,
    environment: Environment,
    specular: float = 1.0,
    which: Tensor | None = None,
    turn: Tensor | None = None,
) -> Tensor:
    """Return the linear radiance (B, H, W, 3) of glTF's metallic-roughness material. Differentiable in all tensors.

    base_color: (B, H, W, 3) linear, in [0, 1]; see `srgb_to_linear`. metallic, roughness: (B, H, W, 1) in [0, 1].
    normal, to_camera: (B, H, W, 3) unit vectors in the world frame. Normals may be 0, as in empty pixels.
    specular: factor of the reflection of nonmetals (KHR_materials_specular). At 0 they are Lambertian.
    which: (B, H, W, 1) int64, the number of the light among those of the environment; None: the first. turn: radians,
    of a shape that expands to (B, H, W, 1), by which the light is turned about +Y, counter-clockwise seen from above.

    Uses GGX lobes with height-correlated Smith shadowing by the split sum (Karis 2013). Light that is scattered more
    than once is added (Fdez-Aguera 2019, "A multiple-scattering microfacet model for real-time image-based lighting",
    JCGT 8(1)), so that a white surface in a white environment is white.
    """
    cosine = (normal * to_camera).sum(-1, keepdim=True)
    mirrored = 2 * cosine * normal - to_camera
    f0 = 0.04 * specular * (1 - metallic) + base_color * metallic  # reflectance straight on, (B, H, W, 3)
    f90 = specular * (1 - metallic) + metallic  # reflectance at grazing angles
    scale, bias = _directional_albedo(cosine.clamp(0, 1), roughness).unbind(-1)  # each (B, H, W)
    once = f0 * scale[..., None] + f90 * bias[..., None]
    lost = 1 - (scale + bias)[..., None]
    average = f0 + (f90 - f0) / 21
    again = once * lost * average / (1 - average * lost)
    below = base_color * (1 - metallic) * (1 - once - again)
    if turn is not None:  # the surface is turned back under a light that stays
        mirrored, normal = (_turned_back(direction, turn) for direction in (mirrored, normal))
    count = len(environment.diffuse)
    return once * _look_up(environment.specular, mirrored, roughness, count, which) + (again + below) * _look_up(
        environment.diffuse, normal, torch.zeros_like(roughness), count, which
    )


def srgb_to_linear(color: Tensor) -> Tensor:
    """Return linear values of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return torch.where(color <= 0.04045, color / 12.92, ((color.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(color: Tensor) -> Tensor:
    """Return sRGB values of linear values >= 0. Values above 1 are not clipped."""
    return torch.where(color <= 0.0031308, color * 12.92, 1.055 * color.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def _turned_back(direction: Tensor, turn: Tensor) -> Tensor:
    """Return directions (..., 3) turned by -turn (..., 1) radians about +Y, clockwise seen from above."""
    x, y, z = direction.split(1, dim=-1)
    cosine, sine = turn.cos(), turn.sin()
    return torch.cat([cosine * x - sine * z, y, sine * x + cosine * z], dim=-1)


def _octahedron(place: Tensor) -> Tensor:
    """Return unit vectors (..., 3) of places (..., 2) in [-1, 1] on the unfolded octahedron, +Y in the middle."""
    a, b = place.unbind(-1)
    y = 1 - a.abs() - b.abs()
    fold = (-y).clamp(min=0)
    return functional.normalize(torch.stack([a - fold * a.sign(), y, b - fold * b.sign()], dim=-1), dim=-1)


def _unfolded(direction: Tensor) -> Tensor:
    """Return places (..., 2) of directions (..., 3) of any length: the inverse of `_octahedron`."""
    direction = direction / direction.abs().sum(-1, keepdim=True).clamp(min=1e-8)
    a, y, b = direction.unbind(-1)
    sign_a, sign_b = (torch.where(x < 0, -1.0, 1.0).to(x) for x in (a, b))
    below = y < 0
    return torch.stack(
        [torch.where(below, (1 - b.abs()) * sign_a, a), torch.where(below, (1 - a.abs()) * sign_b, b)], dim=-1
    )


def _with_rim(octahedral: Tensor) -> Tensor:
    """Return a map (n, n, C) with a rim of the texels beyond its edges, (n + 2, n + 2, C), for seamless look-ups."""
    # Each edge is joined to itself in reverse, and all four corners meet at the lower pole.
    top, bottom = (row.flip(1) for row in (octahedral[:1], octahedral[-1:]))
    padded = torch.cat([top, octahedral, bottom])  # (n + 2, n, C)
    left, right = (column.flip(0) for column in (octahedral[:, :1], octahedral[:, -1:]))
    left, right = torch.cat([right[:1], left, right[-1:]]), torch.cat([left[:1], right, left[-1:]])
    return torch.cat([left, padded, right], dim=1)


def _look_up(maps: Tensor, direction: Tensor, roughness: Tensor, count: int = 1, which: Tensor | None = None) -> Tensor:
    """Look up maps (count levels, n + 2, n + 2, 3) in directions (B, H, W, 3), between levels by roughness
    (B, H, W, 1). count, which: of lights, see `metallic_roughness`."""
    n, levels = maps.shape[1], len(maps) // count
    place = _unfolded(direction) * ((n - 2) / n)  # within the rim
    level = 2 * roughness - 1
    if len(maps) > 1:  # levels are at the ends of [-1, 1], texels are not
        level = level * ((levels - 1) / len(maps))
    grid = torch.cat([place, level], dim=-1).reshape(1, 1, 1, -1, 3)
    if count > 1:  # the levels of one light are a part of [-1, 1]
        light = torch.zeros_like(roughness) if which is None else which.to(roughness)
        middle = (2 * light + 1) / count - 1
        grid = grid + functional.pad(middle.reshape(1, 1, 1, -1, 1), (2, 0))
    volume = maps.to(direction).permute(3, 0, 1, 2)[None]  # (1, 3, levels, n, n)
    values = functional.grid_sample(volume, grid, padding_mode="border", align_corners=False)
    return values.reshape(3, -1).T.reshape(direction.shape)


def _directional_albedo(cosine: Tensor, roughness: Tensor) -> Tensor:
    """Return scale and bias (B, H, W, 2) of a GGX surface, which reflects f0 scale + f90 bias of white light."""
    table = _albedo_table().to(cosine.dtype).to(cosine.device, non_blocking=True).permute(2, 0, 1)[None]  # (1, 2, n, n)
    grid = 2 * torch.cat([cosine, roughness], dim=-1).reshape(1, 1, -1, 2) - 1
    values = functional.grid_sample(table, grid, padding_mode="border", align_corners=True)
    return values.reshape(2, -1).T.reshape(*cosine.shape[:-1], 2)


@cache
def _albedo_table(n: int = 32, samples: int = 1024) -> Tensor:
    """Return scale and bias at n roughnesses and n cosines in [0, 1]: (n, n, 2), by sampling half vectors (Karis)."""
    knots = torch.linspace(0, 1, n, dtype=torch.float64)
    square = knots.clamp(min=0.02)[:, None, None] ** 4  # alpha^2, (n, 1, 1)
    nv = knots.clamp(min=1e-3)[:, None]  # (n, 1)
    i = torch.arange(samples, dtype=torch.float64)
    turn = 2 * math.pi * ((i * 0.6180339887498949) % 1)
    part = (i + 0.5) / samples
    nh = ((1 - part) / (1 + (square - 1) * part)).sqrt()  # (n, 1, samples)
    vh = (1 - nv**2).sqrt() * (1 - nh**2).sqrt() * turn.cos() + nv * nh  # (n, n, samples)
    nl = (2 * vh * nh - nv).clamp(min=0)
    shadowing = nl * (nv**2 * (1 - square) + square).sqrt() + nv * (nl**2 * (1 - square) + square).sqrt()
    reflected = torch.where((nl > 0) & (vh > 0), 2 * nl * vh / (nh * shadowing), 0.0)  # brdf n.l / density
    fresnel = (1 - vh.clamp(0, 1)) ** 5
    return torch.stack([(reflected * (1 - fresnel)).mean(-1), (reflected * fresnel).mean(-1)], dim=-1)
