"""Former names and keys of settings, so that older run folders, YAML files and commands still work.

A configuration is built from layers: the preset, Python keywords, KEY=VALUE, a stage. Each layer is updated to the
present names before it is merged with the layers below it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from sds3d.config import Tree, alternatives, merge
from sds3d.representations.mesh_scene import MeshConfig

REPRESENTATIONS = {"nerf": "voxel_grid"}
"""Former name of a representation -> its name."""

MESH = {
    "geometry": "geometry.name",
    "resolution": "geometry.resolution",
    "radius": "geometry.radius",
    "sdf_lr": "geometry.sdf_lr",
    "offsets_lr": "geometry.offsets_lr",
    "weights_lr": "geometry.weights_lr",
    "vertices_lr": "geometry.vertices_lr",
    "normal_consistency": "geometry.normal_consistency",
    "laplacian": "geometry.laplacian",
    "edge_length": "geometry.edge_length",
    "eikonal": "geometry.eikonal",
    "deviation": "geometry.deviation",
    "appearance": "appearance.name",
    "texture": "appearance.name",
    "color_resolution": "appearance.resolution",
    "texture_size": "appearance.size",
    "color_lr": "appearance.lr",
    "color_smoothness": "appearance.smoothness",
    "texel_smoothness": "appearance.smoothness",
    "material": "appearance.material.name",
    "material_lr": "appearance.material.lr",
    "shading": "shading.name",
    "ambient": "shading.ambient",
    "light_spread": "shading.light_spread",
}
"""Former or short key of a setting of `representation: {name: mesh}` -> its present key in this section."""

APPEARANCES = {"field": "voxels"}
"""Former value of a mesh's `texture` -> name of its appearance."""

OTHER_APPEARANCE = {"color_smoothness": "texels", "texel_smoothness": "voxels"}
"""Former settings that have the same present key -> name of the appearance that they did not apply to."""


def migrated(*layers: Mapping[str, Any]) -> list[Tree]:
    """Return the layers, in their order, with the present names and keys. Warns of settings that are left out."""
    so_far: Tree = {"representation": {"name": "voxel_grid"}}
    result = []
    for layer in layers:
        new = dict(layer)
        if "optimizer" in new:
            new["optimizer"] = _optimizer(new["optimizer"])
        new = _perp_neg(new)
        if "representation" in new:
            new["representation"] = _representation(new["representation"], so_far)
            so_far = merge(so_far, {"representation": new["representation"]})
        result.append(new)
    return result


def _optimizer(given: Any) -> Any:
    """Return the section `optimizer` of a layer.

    In complete settings of former versions, which have no `decay`, `betas` only applied to scenes without their own. As
    these have none now, its former default is left out.
    """
    complete = isinstance(given, Mapping) and given.keys() == {"betas", "eps", "warmup", "final", "max_grad_norm"}
    if complete and given["betas"] in ([0.9, 0.99], (0.9, 0.99)):
        return {key: value for key, value in given.items() if key != "betas"}
    return given


def _perp_neg(layer: Tree) -> Tree:
    """Return a layer in which Perp-Neg, once a setting of SDS alone, is one of the prompts."""
    guidance, prompts = layer.get("guidance"), layer.get("prompts", {})
    if not (isinstance(guidance, Mapping) and "perp_neg" in guidance and isinstance(prompts, Mapping)):
        return layer
    on = bool(guidance["perp_neg"])
    # It blended the texts of views whatever the prompts said.
    present: Tree = {"view_dependent": True, "perp_neg": {"strength": 1.0}} if on else {"perp_neg": {"strength": 0.0}}
    rest = {key: value for key, value in guidance.items() if key != "perp_neg"}
    return layer | {"guidance": rest, "prompts": merge(prompts, present)}


def _representation(given: Any, before: Tree) -> Any:
    """Return the section `representation` of a layer. before: the layers below it."""
    section = {"name": given} if isinstance(given, str) else given
    if not isinstance(section, Mapping):
        return given  # building the configuration reports it
    if isinstance(name := section.get("name"), str):
        section = {**section, "name": REPRESENTATIONS.get(name, name)}
    is_mesh = merge(before, {"representation": section})["representation"].get("name") == "mesh"
    return _mesh(section, before) if is_mesh else dict(section)


def _mesh(section: Mapping[str, Any], before: Tree) -> Tree:
    """Return a mesh's settings, with former keys replaced by the present ones.

    Former settings that do not apply to the chosen geometry, appearance, material or shading had no effect. They are
    left out with a warning.
    """
    new: Tree = {key: value for key, value in section.items() if key not in MESH or isinstance(value, Mapping)}
    former = [key for key in section if key not in new]
    left_out = []
    for key in sorted(former, key=lambda key: not MESH[key].endswith(".name")):  # choices first
        *sections, leaf = MESH[key].split(".")
        value = section[key]
        if leaf == "name":
            value = APPEARANCES.get(value, value) if isinstance(value, str) else value
        else:
            chosen = _chosen(merge(before, {"representation": new})["representation"], sections)
            if chosen is not None and not _applies(key, leaf, chosen):
                left_out.append(key)
                continue
        tree = {leaf: value}
        for part in reversed(sections):
            tree = {part: tree}
        new = merge(new, tree)
    if left_out:
        problem = "do not apply to the chosen geometry, appearance, material or shading and are left out"
        warnings.warn(f"old settings of a mesh {problem}: {', '.join(left_out)}", stacklevel=2)
    return new


def _chosen(mesh: Mapping[str, Any], sections: list[str]) -> type[BaseModel] | None:
    """Return the class of a section's settings, as chosen by its names; None if there is no such choice."""
    model: type[BaseModel] = MeshConfig
    for part in sections:
        mesh = mesh.get(part, {})
        name = mesh.get("name", model.model_fields[part].default.name)
        models = {other.model_fields["name"].default: other for other in alternatives(model, part)}
        if not isinstance(name, str) or name not in models:
            return None
        model = models[name]
    return model


def _applies(key: str, leaf: str, chosen: type[BaseModel]) -> bool:
    return leaf in chosen.model_fields and OTHER_APPEARANCE.get(key) != chosen.model_fields["name"].default
