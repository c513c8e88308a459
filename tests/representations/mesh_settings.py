"""Settings of mesh scenes in tests, small."""

from __future__ import annotations

from typing import Any

from sds3d.config import build
from sds3d.representations.mesh_scene import MeshConfig


def mesh_config(
    geometry: str = "dmtet",
    appearance: str = "voxels",
    *,
    material: dict[str, Any] | str = "color",
    shading: dict[str, Any] | str = "none",
    size: int = 24,
    **settings: Any,
) -> MeshConfig:
    """A mesh of these choices.

    size: voxels along an edge, or texels. settings: those of the geometry; `lr` and `smoothness` are the appearance's.
    """
    look = {key: settings.pop(key) for key in ("lr", "smoothness") if key in settings}
    look |= {"name": appearance, "material": material, "resolution" if appearance == "voxels" else "size": size}
    shape = {"resolution": 24, "name": geometry} | settings
    return build(MeshConfig, {"geometry": shape, "appearance": look, "shading": shading})
