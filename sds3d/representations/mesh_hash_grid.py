"""Appearance as a hash grid with a small network, for any geometry: a colour for each point in space, of which the mesh
shows those on its surface (threestudio's meshes of Magic3D and ProlificDreamer; nvdiffrec, arXiv:2111.12503)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.sampling import mesh_colors, sample_surface
from sds3d.geometry.uv_atlas import filled, rasterize_uv, with_materials
from sds3d.ramps import Ramp
from sds3d.rendering.mesh_differentiable import Raster
from sds3d.representations.fields import BETAS, linear, to_unit
from sds3d.representations.fields_hash import HashColors, hash_encode, hash_table, level_cells
from sds3d.representations.isosurface import Surface
from sds3d.representations.isosurface_flexicubes import DualSurface
from sds3d.representations.mesh_appearance import CHANNELS, MATTE, Appearance, AppearanceConfig
from sds3d.representations.mesh_geometry import MeshGeometry, learnable

_NEAR = 0.01  # metres between the points that smoothness compares
_PAIRS = 4096  # of them in a step
_AT_ONCE = 1 << 17  # points, for the texture
_FIT_STEPS, _FIT_POINTS = 200, 4096  # to take over the colours of a mesh
_FIT_LR, _FIT_DECODER_LR = 0.02, 0.005


class HashGridConfig(AppearanceConfig):
    """Colours of a hash grid with a small network, evaluated at the point of the surface that each pixel shows."""

    name: Literal["hash_grid"] = "hash_grid"
    levels: int = Field(default=8, ge=1, le=24)
    """Number of resolutions at which colours are stored."""
    log2_entries: int = Field(default=14, ge=8, le=24)
    """Binary logarithm of the number of entries of a level's table; the corners of finer grids share entries."""
    coarsest: int = Field(default=8, ge=1)
    """Cells per side of the coarsest level."""
    finest: int = Field(default=192, ge=1, le=4096)
    """Cells per side of the finest level."""
    hidden: int = Field(default=32, ge=4, le=256)
    """Width of the hidden layer of the network."""
    lr: float = Field(default=0.02, gt=0)
    """Learning rate of the tables."""
    decoder_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the network. The last layer of a learnt material has its own, `material.lr`."""
    smoothness: Ramp = Field(default=Ramp(0.0), ge=0)
    """Weight, times a view's number of pixels, of the mean squared difference of the colours' pre-activations between
    random points of the surface and points about 1 cm away."""
    size: int = Field(default=512, ge=16, le=4096)
    """Height and width in texels of the texture in which the mesh is exported."""

    def make(self, geometry: MeshGeometry, generator: torch.Generator) -> HashGrid:
        """Make a grey appearance with a little noise."""
        return HashGrid(self, geometry, generator)


class HashGrid(Appearance[HashGridConfig]):
    """Colours and materials of a hash grid with a network of one hidden layer.

    parameters: table (L, T, 2); hidden (H, 2 L) and hidden_bias (H,); color (3, H) and color_bias (3,); for a PBR
    material also material (2, H) and material_bias (2,).
    """

    def __init__(self, config: HashGridConfig, geometry: MeshGeometry, generator: torch.Generator) -> None:
        super().__init__(config, geometry)
        self.cells = level_cells(config.levels, config.coarsest, config.finest)  # on the CPU, where it is read
        layers = {"hidden": linear(2 * config.levels, config.hidden, math.sqrt(2), generator)}
        layers |= {name: linear(config.hidden, CHANNELS[name], 1.0, generator) for name in self.names}
        start = {"table": hash_table(config.levels, 1 << config.log2_entries, generator)}
        start |= {name: layer.weight for name, layer in layers.items()}
        start |= {f"{name}_bias": layer.bias for name, layer in layers.items()}
        if self.material is not None:
            start["material_bias"] = torch.tensor(MATTE)
        start = {name: value.detach() for name, value in start.items()}
        self.parameters = learnable(start, geometry.device)

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        rates = dict.fromkeys(self.parameters, self.config.decoder_lr) | {"table": self.config.lr}
        if self.material is not None:
            rates |= {"material": self.material.lr, "material_bias": self.material.lr}
        return rates

    def at(self, name: str, points: Tensor) -> Tensor:
        """Return pre-activations (P, C) of "color" or "material" at points (P, 3) in metres, which get no gradient."""
        own = self.parameters
        encoding = hash_encode(to_unit(points.detach()), own["table"], self.cells)  # (P, 2 L)
        hidden = functional.relu(functional.linear(encoding, own["hidden"], own["hidden_bias"]), inplace=True)
        return functional.linear(hidden, own[name], own[f"{name}_bias"])

    def values(self, name: str, raster: Raster, points: Tensor, hit: Tensor) -> Tensor:
        """Return the values (P, C) at the points that the covered pixels show."""
        return torch.sigmoid(self.at(name, points[hit]))

    def roughening(
        self, names: Sequence[str], surface: Surface | DualSurface | None, generator: torch.Generator
    ) -> Tensor:
        """Return the smoothness loss between random points of the triangles, drawn evenly among these, and points
        near them.
        """
        if surface is None or not len(surface.faces):
            return 0 * self.parameters["color_bias"].sum()
        device = self.geometry.device
        face = torch.randint(len(surface.faces), (_PAIRS,), generator=generator).to(device)
        weights = functional.normalize(torch.rand(_PAIRS, 3, generator=generator), p=1.0, dim=1).to(device)
        away = _NEAR * torch.randn(_PAIRS, 3, generator=generator).to(device)
        corners = surface.vertices.detach()[surface.faces[face]]  # (P, 3, 3)
        points = (weights[..., None] * corners).sum(1)
        pairs = torch.cat([points, points + away])
        differences = [torch.sub(*self.at(name, pairs).chunk(2)).square().mean() for name in names]
        return torch.stack(differences).sum()

    @torch.no_grad()
    def painted(self) -> Mesh:
        """Return the mesh with the colours and materials of its points in a texture, and the colours of its vertices.

        A fixed mesh keeps its UVs, if it has any.
        """
        mesh = self.geometry.unwrapped(self.config.size)
        assert mesh.uv is not None
        face, weights = rasterize_uv(mesh.uv, mesh.faces, self.config.size)
        inside = face >= 0
        points = np.einsum("pk,pkc->pc", weights[inside], mesh.vertices[mesh.faces[face[inside]]])
        colors = np.rint(255 * self._activated("color", points)).astype(np.uint8)
        mesh = replace(mesh, colors=self._activated("color", mesh.vertices), texture=filled(inside, colors))
        if self.material is None:
            return mesh
        shares = torch.from_numpy(self._activated("material", points))
        return with_materials(mesh, inside, self.material.scaled(shares).numpy())

    def _activated(self, name: str, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return values (P, C) in [0, 1] at points (P, 3) in metres."""
        parts = torch.from_numpy(points).float().split(_AT_ONCE)
        values = [torch.sigmoid(self.at(name, part.to(self.geometry.device))).cpu() for part in parts]
        return torch.cat(values).nan_to_num().numpy()

    def start_from(self, mesh: Mesh, colors: HashColors | None = None) -> None:
        """Start from `colors` if they have the same sizes, otherwise from the colours of `mesh`."""
        if colors is not None and self._fits(colors):
            self.load_state_dict(self.state_dict() | colors.tensors)
        elif mesh.is_colored():
            self._learn(mesh)
        if self.material is not None:
            with torch.no_grad():
                self.parameters["material"].zero_()
                self.parameters["material_bias"].copy_(self.material.start(mesh))

    def _fits(self, colors: HashColors) -> bool:
        shapes = all(colors.tensors[name].shape == self.parameters[name].shape for name in colors.tensors)
        return shapes and torch.equal(colors.cells, self.cells)

    def _learn(self, mesh: Mesh) -> None:
        """Fit the colours of a mesh."""
        device = self.geometry.device
        learnt = [self.parameters[name] for name in ("hidden", "hidden_bias", "color", "color_bias")]
        groups = [{"params": [self.parameters["table"]], "lr": _FIT_LR}, {"params": learnt, "lr": _FIT_DECODER_LR}]
        optimizer = torch.optim.Adam(groups, betas=BETAS, eps=1e-15)
        samples = sample_surface(mesh, _FIT_STEPS * _FIT_POINTS)
        wanted = mesh_colors(mesh, samples.face, samples.weights)
        places, colors = (torch.from_numpy(array).float().to(device) for array in (samples.points, wanted))
        for step in range(_FIT_STEPS):  # each step has points from all over the surface
            points, wanted = places[step::_FIT_STEPS], colors[step::_FIT_STEPS]
            with torch.enable_grad():
                loss = (torch.sigmoid(self.at("color", points)) - wanted).square().sum()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        for parameter in self.parameters.values():
            parameter.grad = None

    def hash_colors(self) -> HashColors:
        """Return the grid and the network of the colours."""
        names = ("table", "hidden", "hidden_bias", "color", "color_bias")
        return HashColors({name: self.parameters[name].detach() for name in names}, self.cells)

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError for another size of the grid or the network."""
        for name, parameter in self.parameters.items():
            if "table" in state and name in state and state[name].shape != parameter.shape:
                raise ValueError(
                    f"the state's {name} is {tuple(state[name].shape)}, the scene's {tuple(parameter.shape)}: set "
                    "levels, log2_entries and hidden of representation.appearance as they were in the state's run"
                )
