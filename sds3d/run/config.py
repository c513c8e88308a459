"""The settings of a run: the keys of YAML files, and of KEY=VALUE on the command line."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from sds3d.cameras import CameraConfig, cameras_inside
from sds3d.config import Config, ConfigError, build, load_yaml, parse_override
from sds3d.files import write_atomically
from sds3d.formats.base import UpAxis
from sds3d.formats.table import DEFAULT_FORMATS, Format, export_format
from sds3d.guidance.multiview import MultiViewConfig
from sds3d.guidance.rules import GuidanceConfig
from sds3d.guidance.transforms import GradientTransform
from sds3d.presets import DEFAULT_PRESET, is_file, load_preset
from sds3d.priors.available import AnyPriorConfig
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.prompt import PromptConfig, checked_prompt, slug
from sds3d.ramps import Ramp
from sds3d.rendering.volume import BOUND
from sds3d.representations.make import AnyRepresentationConfig
from sds3d.representations.mesh_appearance import PBRMaterial
from sds3d.representations.mesh_scene import MeshConfig
from sds3d.representations.voxel_grid import VoxelGridConfig
from sds3d.run.backgrounds import Background, by_name
from sds3d.run.copies import beside, with_paths, without_paths
from sds3d.run.estimated_maps import EstimatorConfig
from sds3d.run.folder import Run, create_run
from sds3d.run.generated_start import start_path
from sds3d.run.migration import migrated
from sds3d.run.optimize import OptimizerConfig
from sds3d.run.reference_config import MOST, ReferenceConfig
from sds3d.run.rewards import RewardConfig
from sds3d.run.seen import SeenConfig
from sds3d.run.stages import on_stages, representations_of, steps_of
from sds3d.run.teachers import TeacherConfig, with_own

SinkName = Literal["tensorboard", "wandb"]
"""Programs that show the progress of runs, see `sds3d.run.sinks`."""

NOT_IDENTITY = frozenset({"log_to", "other_presets"})
"""Settings that do not change the result. Runs that differ only in these are the same run."""

OF_THE_WHOLE_RUN = {
    "prompt", "seed", "export", "log_to", "start_from", "up_axis", "start_from_sha256", "reference", "stages",
}  # fmt: skip
"""Settings that a stage cannot change."""

MADE_FOR = {
    "diffusers": "real models of single views",
    "multiview": "real models of several views with their cameras",
}
"""Kinds of prior in words, see `RunConfig.made_for`; others are called by their names."""

FILM = 64_000_000
"""Largest number of pixels of a turntable video; all its frames are in memory at once."""


LEAST_FACES = 4
"""Faces of the smallest closed mesh."""

DRAFT_SHARE = 0.25
"""Part of a run's steps that a draft does: enough to tell what it becomes."""


class ExportConfig(Config):
    """The files that are written after the optimisation."""

    formats: tuple[Format, ...] = DEFAULT_FORMATS
    """Formats of the asset. For splat formats, splats are placed on a surface. usdz needs the extra `usd`."""
    resolution: int = Field(default=128, ge=16, le=1024)
    """Samples per side of the grid from which the surface is extracted."""
    texture_size: int = Field(default=1024, ge=64, le=8192)
    """Height and width of the texture in pixels."""
    faces: int = Field(default=0, ge=0, le=1_000_000)
    """Most triangles of the exported mesh; 0: all. Textures and a normal map keep the look of all triangles."""
    occlusion: bool = False
    """Whether the material gets an occlusion map, ray-cast from the mesh: viewers darken hollows in ambient light."""
    print_size: float = Field(default=100.0, gt=0, le=10_000)
    """Longest side of STL and 3MF files in millimetres."""
    picture_size: int = Field(default=256, ge=32, le=2048)
    """Height and width of the turntable video in pixels."""
    frames: int = Field(default=60, ge=4, le=3600)
    """Frames of the turntable video."""

    @model_validator(mode="after")
    def _film_fits(self) -> Self:
        if (pixels := self.frames * self.picture_size**2) > FILM:
            raise ValueError(
                f"{self.frames} frames of {self.picture_size} px are {pixels / FILM:.1f} times the limit; reduce one"
            )
        return self

    @field_validator("faces")
    @classmethod
    def _faces_are_a_mesh(cls, faces: int) -> int:
        if 0 < faces < LEAST_FACES:
            raise ValueError(f"{faces} faces are too few: give {LEAST_FACES} or more, or 0 for all")
        return faces

    @field_validator("formats", mode="before")
    @classmethod
    def _formats_are_known(cls, given: object) -> object:
        for name in given if isinstance(given, (list, tuple)) else ():
            export_format(name)
        return given


class RunConfig(Config):
    """A complete run: the same configuration, seed and thread count give the same asset on a CPU."""

    prompt: Annotated[str, AfterValidator(checked_prompt)]
    """The object, for example "a red mug"."""
    seed: int = Field(default=0, ge=0)
    """Seed of all random choices."""
    steps: int = Field(default=300, ge=0)
    """Optimisation steps. 0: what `start_from` names is exported as it is."""
    prior: AnyPriorConfig = DiffusersConfig()
    """The frozen diffusion model."""
    guidance: GuidanceConfig = MultiViewConfig()
    """The score-distillation rule."""
    gradient: tuple[GradientTransform, ...] = ()
    """Transforms of the rule's gradient, applied in this order."""
    teachers: tuple[TeacherConfig, ...] = ()
    """Further teachers beside `prior` and `guidance`, whose gradients add up at the render: a list of {prior, guidance,
    gradient, weight, views}. For example a 2D model that sees 1 of the 4 views of a multi-view model."""
    representation: AnyRepresentationConfig = VoxelGridConfig()
    """What is optimised: a field, a mesh or splats."""
    particles: int = Field(default=1, ge=1, le=64)
    """Number of objects that share the steps and the rule's networks (ProlificDreamer). Previews show the first."""
    cameras: CameraConfig = CameraConfig()
    """The cameras of each step."""
    prompts: PromptConfig = PromptConfig()
    """How the prompt becomes a text for each view."""
    seen: SeenConfig = SeenConfig()
    """How the teachers see the renders of some steps: as inverse depths, normals in place of latents, or mirrored."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Adam and its learning-rate schedule."""
    background: Background = None
    """What is behind the renders: a colour, three numbers in [0, 1]; random: drawn for each step or view; learned: an
    environment, which the asset does not contain. null: a random light grey each step."""
    preview_every: float = Field(default=5.0, gt=0)
    """Seconds between preview pictures."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    export: ExportConfig = ExportConfig()
    """The files that are written after the last step."""
    log_to: tuple[SinkName, ...] = ()
    """Where losses, metrics and previews also go: tensorboard, wandb. Each needs the extra of that name."""
    start_from: str = ""
    """Where the object starts from: a file with a mesh, splats or points, or a folder: that of another run, of a
    network that turns pictures by the prior into a solid, see `sds3d toybox train-start`, or of a generator, see `sds3d
    generator train`, which makes the object of the prompt. instant: the generator that ships with this package."""
    reference: tuple[ReferenceConfig, ...] = Field(default=(), max_length=MOST)
    """Pictures of the object that it follows beside the prompt: a list of {image: FILE, azimuth, elevation, distance,
    fovy, mask, ...}, see the page "Pictures". The run keeps copies of the files."""
    reference_weight: Annotated[Ramp, Field(ge=0)] = Ramp(1.0)
    """Factor on the losses of these pictures; stages may have their own."""
    rewards: tuple[RewardConfig, ...] = Field(default=(), max_length=8)
    """Judges of the renders, whose losses add to those of any rule: a list of {model: FOLDER of a CLIPModel, text,
    text_weight, image, image_weight, every}."""
    estimators: tuple[EstimatorConfig, ...] = Field(default=(), max_length=4)
    """Estimators of normals, depth or materials, whose answers to the renders the surface follows: a list of {map,
    model: FOLDER, weight, every}. map: normal, depth or material."""
    up_axis: UpAxis = "auto"
    """Axis of that file that points up: y or z; auto is z for STL and 3MF, -y for splats in .ply, .splat and .sog, and
    y for other formats. The front faces +Z if +Y is up, and -Y if +Z is up."""
    start_from_sha256: str = ""
    """Digest of that file, filled in when the run is created, so that a changed file gives a new run."""
    made_for: str = ""
    """The kind of prior that these settings suit: toybox, the embedded one; diffusers, a real model of single views;
    multiview, a real model of several views with their cameras. A run with another kind of prior warns before its first
    step. Empty: any kind."""
    other_presets: tuple[str, ...] = ()
    """Presets of the same method for other kinds of prior, which that warning names."""
    stages: tuple[dict[str, Any], ...] = ()
    """Stages that run one after the other. Each is a partial configuration on top of this one, and its scene starts
    from the result of the stage before, converted if its representation differs. `share` gives a stage a part of
    the run's steps, in proportion to the shares of the other stages."""

    @field_validator("background", mode="before")
    @classmethod
    def _background_by_name(cls, given: object) -> object:
        return by_name(given)

    @property
    def all_teachers(self) -> list[TeacherConfig]:
        """All teachers of a stage: its own prior and guidance, and the further ones."""
        return with_own(self.prior, self.guidance, self.gradient, self.teachers)

    @model_validator(mode="after")
    def _teachers_get_pictures(self) -> Self:
        if self.representation.renders_latents and any(other.prior != self.prior for other in self.teachers):
            raise ValueError("the representation renders latents, which no other prior has: remove teachers")
        return self

    @model_validator(mode="after")
    def _colours_can_be_replaced(self) -> Self:
        if self.representation.latents and self.seen != SeenConfig():
            raise ValueError("the representation renders latents, which are no pictures: remove seen")
        if self.seen.normal_latents and any(other.prior != self.prior for other in self.teachers):
            raise ValueError("seen.normal_latents is for the latents of one prior: set it to 0, or remove teachers")
        return self

    @model_validator(mode="after")
    def _materials_are_there(self) -> Self:
        wanted = not self.stages and any(estimator.map == "material" for estimator in self.estimators)
        scene = self.representation
        if wanted and not (isinstance(scene, MeshConfig) and isinstance(scene.appearance.material, PBRMaterial)):
            raise ValueError("estimators: map=material is for meshes with representation.appearance.material=pbr")
        return self

    @model_validator(mode="after")
    def _stages_are_valid(self) -> Self:
        for i, stage in enumerate(self.stages):
            share = stage.get("share", 1)
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < math.inf:
                raise ValueError(f"stages.{i}.share = {share!r}: give a number above 0, its part of the steps")
        for i, stage in enumerate(self.stages):
            if {"share", "steps"} <= stage.keys():
                raise ValueError(f"stages.{i}: give either steps or share, not both")
            if wrong := stage.keys() & OF_THE_WHOLE_RUN:
                raise ValueError(f"stages.{i}.{min(wrong)}: it applies to the whole run, so set it outside of stages")
            try:
                stage_config(self, i)
            except ConfigError as error:
                raise ValueError(f"in stages.{i}: {error}") from None
        return self


def run_config(*layers: Mapping[str, Any]) -> RunConfig:
    """Build a configuration from the defaults and `layers`, of which the last has precedence. Raises ConfigError.

    A layer has precedence over the stages of the layers below it, too, see `sds3d.run.stages`. Former names of settings
    still work.
    """
    return build(RunConfig, *on_stages(RunConfig, migrated(*layers)))


def make_config(
    prompt: str,
    preset: str = DEFAULT_PRESET,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> RunConfig:
    """Build a configuration from defaults, a preset, the prompt, settings and KEY=VALUE overrides, in this order.

    If the preset is a file, such as one that was unpacked, it may name the files in its folder, see
    `sds3d.run.copies.beside`. Raises ConfigError.
    """
    chosen = load_preset(preset)
    given = [settings, *(parse_override(text) for text in overrides)]
    layers = [beside(layer, Path(preset).parent) for layer in chosen.layers] if is_file(preset) else chosen.layers
    config = run_config(*layers, {"prompt": prompt}, *given)
    stages = chosen.values.get("stages", ())
    if stages and not config.stages and not any("stages" in layer for layer in given):
        warnings.warn(
            f"representation={config.representation.name} replaces the stages of the preset "
            f'"{chosen.name}" ({", ".join(representations_of(stages))}): the run has one stage of {config.steps} steps',
            stacklevel=2,
        )
    check_start(config)
    if chosen.about.needs_asset and not config.start_from:
        raise ConfigError(f'the preset "{preset}" needs a mesh: sds3d texture FILE PROMPT, or start_from=FILE')
    missing = [how for key, how in chosen.about.needs_settings.items() if not _setting(config, key)]
    if missing:
        raise ConfigError(f'the preset "{preset}" needs {" ".join(missing)}')
    return config


def _setting(config: RunConfig, key: str) -> Any:
    """Return the value of a dotted key; "" if the configuration has no such key."""
    return reduce(lambda section, name: getattr(section, name, ""), key.split("."), config)


def stage_count(config: RunConfig) -> int:
    """Return the number of stages of a run; a run without stages counts as one."""
    return max(len(config.stages), 1)


def stage_config(config: RunConfig, stage: int) -> RunConfig:
    """Return the complete configuration of a stage, without stages. Raises ConfigError."""
    patch = dict(config.stages[stage]) if config.stages else {}
    if patch.pop("share", None) is not None:
        patch["steps"] = steps_of(config.steps, config.stages)[stage]
    return run_config(config.model_dump(exclude={"stages"}), patch)


def total_steps(config: RunConfig, stages: int | None = None) -> int:
    """Return the number of steps of the first `stages` stages, or of all."""
    return sum(stage_config(config, i).steps for i in range(stage_count(config) if stages is None else stages))


def stage_at(config: RunConfig, step: int) -> int:
    """Return the index of the stage that follows `step` finished steps; after the last step, that of the last stage."""
    stages = stage_count(config)
    return next((i for i in range(stages) if step < total_steps(config, i + 1)), stages - 1)


def draft_steps(config: RunConfig) -> int:
    """Return the number of steps after which a run pauses as a draft; 0 for a run without steps, which does not."""
    total = total_steps(config)
    return min(max(1, round(DRAFT_SHARE * total)), total)


def check_start(config: RunConfig, own: Path | None = None) -> None:
    """Raise ConfigError for a run without steps that has nothing to start from, and for one that starts from the
    generator that ships with this package if none does. own: a file in place of `start_from`.
    """
    if not (own or config.start_from or total_steps(config)):
        raise ConfigError("steps=0 needs start_from=..., a file, a run or a generator, whose object is exported")
    start_path(config.start_from)


def prior_mismatches(config: RunConfig) -> list[str]:
    """Return a line for each stage whose settings are made for another kind of prior, without duplicates."""
    stages = [stage_config(config, index) for index in range(stage_count(config))]
    return list(dict.fromkeys(filter(None, map(_prior_mismatch, stages))))


def close_cameras(config: RunConfig) -> list[str]:
    """Return a line for each stage whose cameras may be inside the object's cube, without duplicates."""
    stages = [stage_config(config, index) for index in range(stage_count(config))]
    cameras = [now for stage in stages for _, now in stage.cameras.parts()]
    return list(dict.fromkeys(filter(None, (cameras_inside(now, BOUND) for now in cameras))))


def unsought_pictures(config: RunConfig) -> list[str]:
    """Return a line about the pictures whose cameras are not found, because no stage has more than one step."""
    names = [f"reference.{i}" for i, picture in enumerate(config.reference) if picture.sought]
    if not names or any(stage_config(config, index).steps > 1 for index in range(stage_count(config))):
        return []
    return [f"{', '.join(names)}: it takes two steps to find a camera, so the run does not follow it: give more steps"]


def _prior_mismatch(config: RunConfig) -> str:
    loaded_before_it_is_known = config.made_for == "multiview" and config.prior.kind == "diffusers"
    if config.made_for in ("", config.prior.kind) or loaded_before_it_is_known:
        return ""
    return mismatch(config)


def mismatch(config: RunConfig) -> str:
    """Return the line that warns of a prior of another kind than the settings are made for."""
    suited = MADE_FOR.get(config.made_for, f'the prior "{config.made_for}"')
    better = " or ".join(config.other_presets)
    do = f"use the preset {better}" if better else "expect to change guidance.scale, steps and cameras.size"
    return f"the settings are made for {suited}, not for {model_of(config)}: {do}"


def model_of(config: RunConfig) -> str:
    """Return what a run's prior is called: its model, or its kind."""
    return config.prior.model if isinstance(config.prior, DiffusersConfig) else config.prior.kind


def read_config(run: Run) -> RunConfig:
    """Read the configuration of a run folder, with the paths of the files in it. Raises ConfigError."""
    return run_config(with_paths(load_yaml(run.config_path, follow=False), run.folder))


def new_run(
    root: Path, config: RunConfig, mine: Callable[[Run], bool] = lambda run: True, own: Path | None = None
) -> Run:
    """Return the run folder of a configuration under `root`, and create it if it does not exist.

    mine: whether an existing run may be returned; if not, another folder is created. own: a file to start from, of
    which the run keeps a copy, so that its folder is complete; it also keeps copies of the files of settings, see
    `sds3d.run.copies`. Raises RunError, and OSError if they cannot be copied.
    """
    values, copies = without_paths(config)
    run = _created(root, config if values is None else run_config(values), mine, own)
    for place, data in copies.items():
        if not (run.folder / place).exists():
            write_atomically(run.folder / place, data)
    return run


def _created(root: Path, config: RunConfig, mine: Callable[[Run], bool], own: Path | None) -> Run:
    asset = own or Path(config.start_from)
    if own is None and not asset.is_file():
        return create_run(root, slug(config.prompt), config, NOT_IDENTITY, mine)
    data = asset.read_bytes()
    named = {"start_from": own.name} if own else {}
    config = config.model_copy(update={**named, "start_from_sha256": hashlib.sha256(data).hexdigest()})
    run = create_run(root, slug(config.prompt), config, NOT_IDENTITY, mine)
    if own is not None and run.own is None:
        write_atomically(run.folder / "own" / own.name, data)
    return run
