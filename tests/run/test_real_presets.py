"""Presets for real models: their values, and a few steps on tiny random pipelines of the real classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
import yaml
from PIL import Image

from sds3d.config import ConfigError, build
from sds3d.presets import load_generator_preset, presets
from sds3d.run.checks import prior_problems
from sds3d.run.config import RunConfig, make_config, new_run, prior_mismatches, run_config, stage_config, stage_count
from sds3d.run.drive import drive
from sds3d.run.train_generator import GeneratorTraining
from tests.guidance.fewest import FEWEST
from tests.priors.test_control import controlnet
from tests.priors.test_disparity import save_disparity
from tests.priors.test_picture_conditions import save_adapter
from tests.priors.tiny import tiny_mvdream, tiny_pipeline
from tests.run.test_rewards import save_clip
from tests.slow import slow_after

REAL = {preset.name: preset for preset in presets() if preset.about.group == "real"}
TABLE = Path(__file__).parent.parent / "data" / "real-presets.yaml"
EXPECTED = {
    name: stages
    for name, stages in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items()
    if not name.startswith(".")  # parts that several entries share
}
PIPELINES = {"sd15": "sd", "sd21-base": "sd", "sd21": "sd v", "if": "if", "sd3": "sd3", "sdxl": "sdxl"}
CONTROLNETS = ("control_v11f1p_sd15_depth", "control_v11p_sd15_normalbae")


ALWAYS = (
    "steps prior.model gradient teachers seen.inverse_depth seen.normal_latents seen.mirrored "
    "prompts.negative prompts.view_dependent prompts.interpolate prompts.front_threshold prompts.overhead_threshold "
    "prompts.perp_neg.strength cameras.views cameras.size cameras.phases cameras.orthogonal cameras.group "
    "cameras.azimuth cameras.stratified cameras.elevation cameras.elevation_by cameras.frame cameras.fovy "
    "cameras.position_jitter cameras.target_jitter cameras.up_jitter optimizer.method optimizer.betas optimizer.eps "
    "optimizer.warmup optimizer.final optimizer.weight_decay optimizer.clip_norm"
)
OF_SECTIONS = {
    "guidance": {
        "sds": "scale rescale weighting random_weight schedule",
        "vsd": "scale entropy weighting schedule variational.model variational.lr variational.betas "
        "variational.weight_decay variational.updates variational.rank variational.camera_dropout "
        "variational.text_dropout",
        "multiview": "space scale rescale schedule",
        "cfd": "scale rescale weighting gamma schedule",
        "asd": "scale shift weighting schedule",
        "csd": "positive negative empty weighting schedule",
        "sdi": "scale inversion_scale inversion_steps eta schedule",
        "hifa": "scale denoising_steps eta latent_weight image_weight schedule",
        "ism": "scale stride interval weighting schedule",
        "bootstrapped": "scale weighting refine_every schedule tuning.updates tuning.lr tuning.betas tuning.rank "
        "tuning.camera_dropout variational.lr variational.betas variational.weight_decay variational.updates "
        "variational.rank variational.camera_dropout variational.text_dropout",
    },
    "representation": {
        "hash_nerf": "levels log2_entries coarsest finest samples fine_samples active_levels hidden separate color "
        "density density_scale blob_shape blob_height blob_radius latent_channels refine lr decoder_lr shading "
        "opacity entropy sparsity orientation z_variance normal_smoothness convexity density_smoothness "
        "color_smoothness",
        "gaussians": "count around radius opacity_start sh_degree means_lr scales_lr quats_lr opacities_lr colors_lr "
        "opacity entropy sparsity z_variance size mean_scale roughness scale_noise",
        "mesh": "shading",
    },
    "representation.densify": {"adaptive": "start until every threshold large largest prune reset_every"},
    "representation.geometry": {
        "dmtet": "resolution sdf_lr offsets_lr normal_consistency laplacian pull_length edge_length eikonal",
        "fixed": "vertices_lr",
    },
    "representation.appearance": {
        "hash_grid": "levels log2_entries coarsest finest hidden lr decoder_lr smoothness",
        "texels": "size lr smoothness",
    },
    "representation.appearance.material": {
        "color": "",
        "pbr": "lr metallic roughness smoothness environments turning",
    },
    "background": {
        "learned": "encoding activation random_share each lr",
        "random": "share each others",
        "solid": "color",
    },
}
"""The settings that the table must give for every stage: always, and in a section by its name."""


def needed(stage: Mapping[str, Any]) -> set[str]:
    """Return the settings that the table must give for a stage with these settings."""
    keys = {*ALWAYS.split(), *(["cameras.distance"] if stage["cameras"]["frame"] is None else [])}
    representation = stage["representation"]
    unpainted = representation["name"] != "mesh" or representation["shading"]["name"] == "normal"
    for section, by_name in OF_SECTIONS.items():
        if section.startswith("representation.appearance") and unpainted:
            continue
        try:
            name = setting(stage, f"{section}.name")
        except KeyError:  # a field has no geometry
            continue
        keys |= {f"{section}.{key}" for key in ["name", *by_name[name].split()]}
    return keys


def setting(stage: Mapping[str, Any], key: str) -> Any:
    """Return the value of a setting such as "guidance.scale"."""
    for part in key.split("."):
        stage = stage[part]
    return stage


def number(value: Any) -> Any:
    """Return a value of the table with fractions such as "10/4096" as numbers."""
    if isinstance(value, list):
        return [number(part) for part in value]
    if isinstance(value, dict):
        return {key: number(part) for key, part in value.items()}
    if isinstance(value, str) and "/" in value:
        above, below = value.split("/")
        return float(Fraction(above) / Fraction(below))
    return value


def same(expected: Any, actual: Any) -> bool:
    """Whether two values are equal up to three digits, or to a whole number. A section may have further keys."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(same(value, actual[key]) for key, value in expected.items())
    if isinstance(expected, list):
        return isinstance(actual, list) and len(expected) == len(actual) and all(map(same, expected, actual))
    if isinstance(expected, float) and isinstance(actual, int):
        return actual == round(expected)
    if isinstance(expected, (int, float)) and not isinstance(expected, bool):
        return actual == pytest.approx(expected, rel=3e-3, abs=0)
    return expected == actual


NOWHERE = defaultdict(lambda: "FILE")


def config_of(name: str, *overrides: str) -> RunConfig:
    return make_config("a red mug", name, [*files_of(name, NOWHERE), *overrides])


def files_of(name: str, paths: Mapping[str, str]) -> list[str]:
    """Return the settings that a preset needs. paths: of "mesh", "picture", "adapter" and "clip"."""
    given = {
        "start_from": paths["mesh"],
        "representation.sketch": paths["mesh"],
        "reference": f"[{{image: {paths['picture']}, azimuth: 0, elevation: 0}}]",
        "prompts.image": paths["picture"],
        "prior.ip_adapter": paths["adapter"],
        "rewards": f"[{{model: {paths['clip']}, image: {paths['picture']}}}]",
    }
    about = REAL[name].about
    return [f"{key}={given[key]}" for key in [*about.needs_settings, *(["start_from"] if about.needs_asset else [])]]


@pytest.mark.parametrize("name", REAL)
def test_values_are_the_published_ones(name: str):
    config = config_of(name)
    assert stage_count(config) == len(EXPECTED[name])
    wrong = []
    for index, expected in enumerate(EXPECTED[name]):
        actual = stage_config(config, index).model_dump(mode="json")
        wrong += [f"stage {index}: the table lacks {key}" for key in sorted(needed(actual) - expected.keys())]
        wrong += [f"stage {index}: {line}" for line in differences(expected, actual)]
    assert not wrong, "\n".join(wrong)


def test_values_of_generators_are_the_published_ones():
    config = build(GeneratorTraining, *load_generator_preset("prd-mvdream").layers)
    assert differences(*EXPECTED["prd-mvdream"], config.model_dump(mode="json")) == []


def differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting that is not as expected."""
    wrong = []
    for key, value in expected.items():
        try:
            found = setting(actual, key)
        except KeyError:
            wrong.append(f"there is no {key}")
            continue
        if key == "prompts.negative" and found:
            found = "words"
        if not same(number(value), found):
            wrong.append(f"{key} = {found}, not {number(value)}")
    return wrong


@pytest.mark.parametrize("name", REAL)
def test_each_is_made_for_its_model(name: str):
    config, about = config_of(name), REAL[name].about
    assert about.description
    assert about.status
    assert config.made_for == ("multiview" if config.prior.model == "mvdream" else "diffusers")  # type: ignore[union-attr]
    assert prior_mismatches(config) == []
    others = {preset.name for preset in presets()}
    assert set(config.other_presets) <= others
    lines = prior_mismatches(config_of(name, "prior.model=toybox"))
    assert lines
    assert all(line.startswith("the settings are made for real models of ") for line in lines)
    assert all(": use the preset " in line for line in lines)


def test_a_preset_that_needs_files_says_which_settings_name_them():
    with pytest.raises(ConfigError, match=r'the preset "sketch-shape" needs representation\.sketch=FILE'):
        make_config("a red mug", "sketch-shape")
    with pytest.raises(ConfigError, match="needs representation"):
        make_config("a red mug", "sketch-shape", ["representation=gaussians"])
    with pytest.raises(ConfigError, match=r'the preset "dreamcraft3d-mvdream" needs --image FILE'):
        make_config("a red mug", "dreamcraft3d-mvdream")
    with pytest.raises(ConfigError, match=r"needs prior\.ip_adapter=FILE rewards=\[{model: FOLDER, image: FILE}\]"):
        make_config("a red mug", "vp3d-sd", ["prompts.image=FILE"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with tiny random pipelines, ControlNets and an estimator, by the names of the models."""
    folder = tmp_path_factory.mktemp("models")
    for model, family in PIPELINES.items():
        tiny_pipeline(family).save_pretrained(folder / model)
    tiny_mvdream(folder / "mvdream")
    for seed, name in enumerate(CONTROLNETS):
        controlnet(tiny_pipeline("sd").unet, seed).save_pretrained(folder / name)
    save_disparity(folder / "stable-diffusion-2-depth")
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that presets need, see `files_of`."""
    folder = tmp_path_factory.mktemp("files")
    trimesh.creation.box((0.8, 0.6, 0.5)).export(folder / "box.ply")
    picture = np.full((32, 32, 3), 255, np.uint8)
    picture[8:24, 8:24] = (200, 30, 30)
    Image.fromarray(picture).save(folder / "square.png")
    save_adapter(folder / "adapter", tiny_pipeline("sd").unet, "plain")
    save_clip(folder / "clip")
    paths = {"mesh": "box.ply", "picture": "square.png", "adapter": "adapter", "clip": "clip"}
    return {name: str(folder / path) for name, path in paths.items()}


LARGEST = {
    "size": 16, "image_size": 16, "count": 300, "log2_entries": 10, "coarsest": 4, "finest": 32, "samples": 24,
    "hidden": 16, "oversampling": 4, "tries": 1000, **FEWEST,
}  # fmt: skip
"""Upper limits of sizes in the tests, by the last part of their keys."""


def small(values: Any, models: Mapping[str, str], key: str = "") -> Any:
    """Return settings with sizes cut to `LARGEST`, resolutions cut to 16, and tiny pipelines for models."""
    if isinstance(values, Mapping):
        return {name: small(value, models, name) for name, value in values.items()}
    if isinstance(values, (list, tuple)) and key in ("stages", "phases", "teachers", "controlnets", "estimators"):
        return [small(value, models) for value in values]
    if key == "model" and isinstance(values, str):
        return models.get(values, values)
    if key == "resolution":
        return min(values, 16)
    return min(values, LARGEST[key]) if key in LARGEST and isinstance(values, int) else values


def reduced(name: str, models: Mapping[str, str], files: Mapping[str, str]) -> RunConfig:
    """Return a preset on tiny pipelines, with three steps in each stage."""
    config = config_of(name, *files_of(name, files))
    tree = small(config.model_dump(mode="json"), models)
    stages = [{key: value for key, value in stage.items() if key != "share"} | {"steps": 3} for stage in tree["stages"]]
    tree |= {
        "stages": stages,
        "steps": 3,
        "export": {"formats": ["glb"], "resolution": 16, "faces": 500, "texture_size": 64, "picture_size": 32},
    }
    return run_config(tree)


@pytest.mark.parametrize("name", slow_after(2, REAL))
def test_three_steps_of_each_stage_on_a_tiny_pipeline(
    name: str, models: dict[str, str], files: dict[str, str], tmp_path: Path
):
    config = reduced(name, models, files)
    run = new_run(tmp_path, config)
    steps = list(drive(run, threads=1))
    assert [step.step for step in steps] == list(range(1, 3 * stage_count(config) + 1))
    assert run.state.status == "done"
    for index in range(stage_count(config)):
        mine = stage_config(config, index)
        loaded = [teacher.prior.load() for teacher in mine.all_teachers]
        assert not any("made for" in line or "no cameras" in line for line in prior_problems(mine, loaded))
    assert all(step.grad_norm > 0 for step in steps)
