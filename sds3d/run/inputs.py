"""Check what a run reads before it is queued: the file or run it starts from, and the folder of its model."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sds3d.config import ConfigError
from sds3d.files import PriorError, RunError
from sds3d.formats.load import load_asset
from sds3d.formats.panoramas import read_panorama
from sds3d.geometry.splats import Splats
from sds3d.guidance.variational import VariationalConfig
from sds3d.priors.clip import clip_folder
from sds3d.priors.control import control_folder
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import ALIASES, MOVED, find
from sds3d.priors.pictures import adapter_file
from sds3d.priors.starts import load_start, start_folder
from sds3d.representations.mesh_fixed import FixedTrianglesConfig
from sds3d.representations.mesh_scene import MeshConfig
from sds3d.run.config import RunConfig, stage_config, stage_count
from sds3d.run.copies import files_in
from sds3d.run.folder import open_run
from sds3d.run.generated_start import check_generator, is_generator, start_path
from sds3d.run.prompt_picture import read_picture_file, read_prompt_picture
from sds3d.run.references import check_references

GIVE = {
    "normal": "give one of Marigold's for normals, or train one with `sds3d toybox train-normals`",
    "material": "give one of Marigold's for intrinsics with albedo, roughness or metallicity",
    "depth": "give that of stable-diffusion-2-depth, DPT or Depth Anything, or set estimators=[]",
}
"""What to do without the estimator of a map."""


def check_inputs(config: RunConfig, own: Path | None = None) -> None:
    """Raise ConfigError if the run could not start. Models that have to be downloaded are not checked.

    own: a file in place of `start_from`.
    """
    for stage in [stage_config(config, i) for i in range(stage_count(config))]:
        for index, teacher in enumerate(stage.all_teachers):
            place = f"teachers.{index - 1}." if index else ""
            if isinstance(teacher.prior, DiffusersConfig):
                _check_model(teacher.prior, f"{place}prior.model")
                _check_parts(teacher.prior, place)
            phi = getattr(teacher.guidance, "variational", None)
            if isinstance(phi, VariationalConfig) and phi.model:
                model = DiffusersConfig(model=phi.model, offline=phi.offline)
                _check_model(model, f"{place}guidance.variational.model")
        for key, path in files_in(stage.model_dump()):
            try:
                read_panorama(path)
            except (ValueError, ImportError, OSError) as error:
                raise ConfigError(f"{key}: {error}") from None
        _check_pictures(stage)
    check_references(config.reference, config.cameras)
    if own or config.start_from:
        _check_start(config, own)


def _check_start(config: RunConfig, own: Path | None) -> None:
    """Check what the object starts from."""
    try:
        path = own or start_path(config.start_from)
        if (folder := None if own else start_folder(config.start_from)) is not None:
            load_start(folder, stage_config(config, 0).prior)
        elif is_generator(path):
            check_generator(path, stage_config(config, 0).prior)
        elif path.is_dir():
            if not open_run(path).checkpoints:
                raise RunError(f"{path} has no checkpoint yet")
        else:
            asset = load_asset(path, config.up_axis)
            if isinstance(asset, Splats) and _keeps_triangles(config):
                raise ValueError(f"{path.name} has no triangles to paint: use another preset than texture")
    except (ValueError, RunError, PriorError, OSError) as error:
        raise ConfigError(f"start_from: {error}") from None


def _keeps_triangles(config: RunConfig) -> bool:
    shape = config.representation
    return not config.stages and isinstance(shape, MeshConfig) and isinstance(shape.geometry, FixedTrianglesConfig)


def _check_parts(prior: DiffusersConfig, place: str) -> None:
    try:
        if prior.ip_adapter:
            adapter_file(prior.ip_adapter)
        for control in prior.controlnets:
            control_folder(control.model)
    except PriorError as error:
        raise ConfigError(f"{place}{error}") from None


def _check_pictures(stage: RunConfig) -> None:
    """Check the picture beside the prompt, and the files of rewards and estimators."""
    read_prompt_picture(stage.prompts)
    for index, reward in enumerate(stage.rewards):
        try:
            clip_folder(reward.model)
        except PriorError as error:
            raise ConfigError(f"rewards.{index}.model: {error}") from None
        read_picture_file(reward.image, f"rewards.{index}.image")
    for index, estimator in enumerate(stage.estimators):
        if not Path(estimator.model).expanduser().is_dir():
            raise ConfigError(
                f"estimators.{index}.model: {estimator.model} is no folder of an estimator: {GIVE[estimator.map]}"
            )


def _check_model(prior: DiffusersConfig, key: str) -> None:
    name = MOVED.get(prior.model) or ALIASES.get(prior.model) or prior.model
    on_the_hub = not Path(prior.model).expanduser().exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    if on_the_hub and not prior.offline:
        return
    try:
        files = find(prior.model, offline=True, dtype=torch.float32, device=torch.device("cpu"))
        files.index()
    except PriorError as error:
        raise ConfigError(f"{key}: {error}") from None
