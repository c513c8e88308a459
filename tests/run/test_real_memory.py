"""The memory column of the page on presets for real models: what its own arithmetic gives for the resolved settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sds3d.guidance.bootstrapped import BootstrappedConfig
from sds3d.guidance.variational import VariationalConfig
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.representations.gaussians import GaussiansConfig
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.mesh_dmtet import DMTetConfig
from sds3d.representations.mesh_hash_grid import HashGridConfig
from sds3d.representations.mesh_scene import MeshConfig
from sds3d.representations.mesh_texels import TexelsConfig
from sds3d.run.config import RunConfig, stage_config, stage_count
from tests.run.test_real_presets import REAL, config_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "real-presets.md"
UNET = {"sd15": 1.7, "sd21-base": 1.7, "sd21": 1.7, "mvdream": 1.7, "sdxl": 5.1, "if": 8.6, "sd3": 4.2}
PICTURE = {"mvdream": 256, "sdxl": 1024}
VAE, VAE_GRADIENT, CONTROLNET, CLIP, ESTIMATOR, PHI, COPY, T5 = 0.2, 1.8, 0.7, 0.3, 0.5, 1.5, 14.0, 9.5
"""GB; the gradient is that of 512 x 512 pixels."""
WITH_MOMENTS = 16 / 1e9  # bytes of a parameter with its gradient and Adam's moments, in GB
SAMPLE = 0.8e3 / 1e9


def networks_of(config: RunConfig) -> float:
    """Return the GB of all networks of a stage, and of what its rules keep."""
    total, seen = 0.0, set[str]()
    for teacher in config.all_teachers:
        assert isinstance(teacher.prior, DiffusersConfig)
        model = teacher.prior.model
        if model not in seen:
            total += UNET[model] + (0 if model == "if" else VAE) + CONTROLNET * len(teacher.prior.controlnets)
        seen.add(model)
        phi = getattr(teacher.guidance, "variational", None)
        if isinstance(teacher.guidance, BootstrappedConfig):
            total += 2 * (COPY + PHI)
        elif isinstance(phi, VariationalConfig):
            total += PHI + (UNET[phi.model] if phi.model and phi.model not in seen else 0)
    return total + CLIP * len(config.rewards) + ESTIMATOR * len(config.estimators)


def gradients_of(config: RunConfig, views: int) -> float:
    """Return the GB of the gradient through the VAEs with this number of views."""
    total = 0.0
    for teacher in config.all_teachers:
        assert isinstance(teacher.prior, DiffusersConfig)
        model = teacher.prior.model
        if model != "if" and not config.representation.latents:
            total += VAE_GRADIENT * (teacher.views or views) * (PICTURE.get(model, 512) / 512) ** 2
    return total


def scene_of(config: RunConfig) -> float:
    """Return the GB of the scene's parameters."""
    shape = config.representation
    if isinstance(shape, GaussiansConfig):
        return 14 * 1e6 * WITH_MOMENTS  # up to a million
    if isinstance(shape, MeshConfig):
        points = shape.geometry.resolution**3 if isinstance(shape.geometry, DMTetConfig) else 0
        look = shape.appearance
        texels = look.size**2 if isinstance(look, TexelsConfig) else 0
        entries = look.levels * 2**look.log2_entries if isinstance(look, HashGridConfig) else 0
        return (4 * points + 3 * texels + 2 * entries) * WITH_MOMENTS
    assert isinstance(shape, HashNerfConfig)
    return shape.levels * 2 * 2**shape.log2_entries * WITH_MOMENTS


def samples_of(config: RunConfig, pixels: int) -> float:
    """Return the GB of the samples of a field on this number of rays, or of a mesh's grid at half of its pixels."""
    shape = config.representation
    if isinstance(shape, MeshConfig) and isinstance(shape.appearance, HashGridConfig):
        return pixels / 2 * SAMPLE
    if not isinstance(shape, HashNerfConfig):
        return 0
    samples = 40 * shape.samples / 163 + shape.fine_samples / 2
    normals = shape.shading is not None or shape.orientation or shape.normal_smoothness or shape.convexity
    return pixels * samples * SAMPLE * (2 if normals else 1)


def needed(config: RunConfig) -> float:
    """Return the GB of a stage in its largest phase. Each picture that it follows is a further view."""
    phases = [
        gradients_of(config, now.views) + samples_of(config, (now.views + len(config.reference)) * now.size**2)
        for _, now in config.cameras.parts()
    ]
    return networks_of(config) + scene_of(config) + max(phases)


@pytest.mark.parametrize("name", REAL)
def test_the_memory_column_is_what_its_arithmetic_gives(name: str):
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "GB" in line.rpartition(" | ")[2]]
    row = next(line for line in rows if f"`{name}`" in line)
    written = [int(number) for number in re.findall(r"\d+", row.split("|")[-2])]
    config = config_of(name)
    stages = [needed(stage_config(config, index)) for index in range(stage_count(config))]
    if name == "dreamcraft3d-mvdream":
        assert written == [round(gb) for gb in stages]
    elif getattr(config.prior, "model", "") == "if":
        assert written == [round(T5), round(max(stages))]
    else:
        assert written == [round(max(stages))]
