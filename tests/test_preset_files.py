"""Metadata of presets, shared settings, and former names."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from sds3d import presets as presets_module
from sds3d.cli.main import main
from sds3d.config import ConfigError, build, configs_dir, merge
from sds3d.presets import RENAMED, load_preset, presets
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import toybox_folder
from sds3d.representations.base import Rendering, opacity_losses
from sds3d.representations.gaussians import GaussiansConfig
from sds3d.run.config import RunConfig, close_cameras, make_config, new_run, prior_mismatches, run_config, stage_config
from sds3d.run.drive import drive
from tests.run.tiny_runs import TINY, disc

SHIPPED = {preset.name: preset for preset in presets()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that replaces the folder of shipped presets."""
    monkeypatch.setattr(presets_module, "configs_dir", lambda: tmp_path)
    return tmp_path


def preset_file(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


TOY = [name for name, preset in SHIPPED.items() if preset.about.group != "real"]


@pytest.mark.parametrize("name", TOY)
def test_every_shipped_preset_makes_a_configuration_and_describes_itself(name: str):
    preset = SHIPPED[name]
    config = make_config("a red mug", name, ["start_from=FILE"])
    assert preset.about.description
    assert preset.about.status
    assert config.made_for == preset.made_for == "toybox"
    assert prior_mismatches(config) == []
    assert preset == load_preset(name) == load_preset(str(configs_dir() / f"{name}.yaml"))
    assert all(SHIPPED[other].about.group == "real" for other in config.other_presets)


def test_a_process_reads_each_preset_once_and_changes_none(monkeypatch: pytest.MonkeyPatch):
    """The studio asks for all presets with every form and every run that it shows."""
    for name in TOY:
        make_config("a red mug", name, ["start_from=FILE", "cameras.size=32", "optimizer.warmup=3"])
    fresh = [presets_module._read(path) for path in presets_module.shipped().values()]  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(presets_module, "load_yaml", lambda path: pytest.fail(f"{path} is read again"))
    assert presets() == fresh
    assert load_preset("mesh") == SHIPPED["mesh"]


def test_files_with_shared_settings_are_not_presets():
    assert not any(name.startswith("_") for name in SHIPPED)
    with pytest.raises(ConfigError, match='there is no preset "_rule"'):
        load_preset("_rule")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match='there is no preset "dreamfuson"; did you mean "dreamfusion"'):
        load_preset("dreamfuson")


@pytest.mark.parametrize("name", RENAMED)
def test_a_former_name_loads_the_new_preset_with_a_warning(name: str):
    with pytest.warns(FutureWarning, match=f'the preset "{name}" is now named "{RENAMED[name]}"'):
        assert load_preset(name) == SHIPPED[RENAMED[name]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_preset(RENAMED[name])


def test_a_preset_may_be_a_file(tmp_path: Path):
    preset = load_preset(str(preset_file(tmp_path, "mine", "description: mine\nsteps: 7\n")))
    assert (preset.name, preset.about.description, preset.values) == ("mine", "mine", {"steps": 7})
    assert (preset.about.status, preset.about.seconds, preset.made_for) == (None, None, "")


def test_a_users_file_may_have_a_shipped_preset_as_its_base(tmp_path: Path):
    preset = load_preset(str(preset_file(tmp_path, "mine", "base: sjc\nguidance: {scale: 7}\nsteps: 9\n")))
    guidance = SHIPPED["sjc"].values["guidance"] | {"scale": 7}
    assert preset.values == SHIPPED["sjc"].values | {"guidance": guidance, "steps": 9}
    assert preset.about.status is None  # a status only applies to the unchanged preset


def test_settings_override_those_of_all_bases(folder: Path):
    preset_file(folder, "_lowest", "steps: 1\nseed: 1\nguidance: {scale: 5}\n")
    preset_file(folder, "_lower", "base: _lowest\nsteps: 2\ngradient: [{name: clamp}]\n")
    preset_file(folder, "top", "description: Top.\nbase: _lower\nguidance: {name: sds}\ngradient: []\n")
    (preset,) = presets_module.presets()
    assert preset.name == "top"
    assert preset.values == {"steps": 2, "seed": 1, "guidance": {"scale": 5, "name": "sds"}, "gradient": []}


def test_settings_of_a_base_hold_in_the_section_that_the_preset_names(folder: Path):
    # By default, guidance is another rule: a base without a name must not speak of that one.
    preset_file(folder, "_lowest", "guidance: {scale: 5, schedule: {max: 0.5}}\n")
    preset_file(folder, "_lower", "base: _lowest\n")
    preset_file(folder, "top", "base: _lower\nguidance: {name: sds, schedule: {name: uniform, min: 0.1}}\n")
    guidance = make_config("a red mug", "top").guidance.model_dump()
    assert (guidance["name"], guidance["scale"]) == ("sds", 5)
    assert guidance["schedule"] == {"name": "uniform", "min": 0.1, "max": 0.5, "shift": 1}


@pytest.mark.parametrize("name", [name for name, preset in SHIPPED.items() if "stages" not in preset.values])
def test_a_preset_means_what_it_shows(name: str):
    preset = SHIPPED[name]
    prompt = {"prompt": "a red mug"}
    assert run_config(*preset.layers, prompt) == run_config(preset.values, prompt)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("base: _rul", r'wrong\.yaml: there is no base "_rul"; did you mean "_rule"\?'),
        ("base: _a", r'wrong\.yaml: .*_a\.yaml: .*_b\.yaml: the base "_a" has itself as a base'),
        ("base: [_rule]", r"wrong\.yaml: base = \['_rule'\]: input should be a valid string"),
        ("status: proven", r"wrong\.yaml: status = 'proven' is unknown; use one of: verified"),
        ("seconds: quick", r"wrong\.yaml: seconds = 'quick': input should be a valid number"),
    ],
)
def test_invalid_metadata_of_a_preset_is_reported_in_one_line(text: str, problem: str, folder: Path):
    preset_file(folder, "_rule", "steps: 3\n")
    preset_file(folder, "_a", "base: _b\n")
    preset_file(folder, "_b", "base: _a\n")
    with pytest.raises(ConfigError, match=problem) as caught:
        load_preset(str(preset_file(folder, "wrong", text)))
    assert len(str(caught.value).splitlines()) == 1


def test_settings_made_for_another_kind_of_prior_are_named(tmp_path: Path):
    def mismatches(*overrides: str, preset: str = "toybox") -> list[str]:
        return prior_mismatches(make_config("a red mug", preset, overrides))

    (line,) = mismatches(f"prior.model={tmp_path}", preset="sjc")
    assert line == (
        f'the settings are made for the prior "toybox", not for {tmp_path}: expect to change guidance.scale, steps and '
        "cameras.size"
    )
    (line,) = mismatches("prior.model=sd21", preset="dreamfusion")
    assert line.endswith("not for sd21: use the preset dreamfusion-sd or dreamfusion-if")
    (line,) = mismatches("prior.model=toybox", preset="dreamfusion-sd")
    assert line == "the settings are made for real models of single views, not for toybox: use the preset dreamfusion"
    assert mismatches(preset="mvdream") == []  # what the model sees is known when it is loaded
    assert mismatches("prior.model=sd21", 'made_for=""') == []
    assert mismatches(f"prior.model={toybox_folder()}") == []  # a folder with the embedded prior
    stages = 'stages=[{}, {"prior": {"model": "sd21"}}, {"prior": {"model": "sd21"}}]'
    assert len(mismatches(stages)) == 1


def test_the_kind_of_a_prior_is_known_without_loading_it():
    assert DiffusersConfig().kind == "toybox"
    assert DiffusersConfig(model="sd21").kind == "diffusers"


def test_a_run_with_another_kind_of_prior_warns_before_its_first_step(tmp_path: Path):
    changes = {"made_for": "toybox", "prior": {"model": "sd21"}}
    run = new_run(tmp_path, build(RunConfig, merge(TINY, changes)))
    steps = drive(run, threads=1, prior=disc())
    with pytest.warns(UserWarning, match='the settings are made for the prior "toybox", not for sd21'):
        assert next(steps).step == 1
    steps.close()
    log = (run.folder / "run.log").read_text()
    assert log.index("warning: the settings are made for the prior") < log.index("starting at step")


def test_a_run_whose_cameras_may_be_inside_the_object_warns_before_its_first_step(tmp_path: Path):
    run = new_run(tmp_path, build(RunConfig, merge(TINY, {"cameras": {"distance": [0.6, 1.0]}})))
    steps = drive(run, threads=1, prior=disc())
    with pytest.warns(UserWarning, match=r"cameras at a distance of 0\.6 m may be inside the cube"):
        assert next(steps).step == 1
    steps.close()
    assert "warning: cameras at a distance of 0.6 m" in (run.folder / "run.log").read_text()
    later = merge(TINY, {"cameras": {"phases": [{"at": 0.5, "distance": [0.7, 1.0]}]}})
    assert close_cameras(build(RunConfig, later))[0].startswith("cameras at a distance of 0.7 m may be inside")


def test_the_command_line_lists_the_metadata_of_presets(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["presets"])
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith("nfsd"))
    assert row.split()[1:4] == ["toybox", "unverified", "84"]
    (row,) = (line for line in lines if line.startswith("magic3d "))
    assert "not measured" in row


def test_the_command_line_reports_the_new_name_of_a_preset_in_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["settings", "guidance", "--preset", "dsd-reconstructed"])
    assert end.value.code == 0
    output = capsys.readouterr()
    assert [line for line in output.err.splitlines() if "warning" in line] == [
        'warning: the preset "dsd-reconstructed" is now named "dsd"'
    ]
    assert 'guidance = "dsd"' in output.out


@pytest.mark.parametrize("preset", ["mesh", "splats"])
def test_parts_as_pale_as_the_background_are_worth_their_opacity(preset: str):
    config = stage_config(make_config("a red mug", preset), 0).representation
    assert isinstance(config, GaussiansConfig)
    opacity = config.opacity.at(0.5)
    costs, alphas, contrast = [], torch.linspace(0, 1, 1001), 0.2  # of each of three channels
    for alpha in alphas:
        pixel = torch.ones(1, 1, 1, 1)
        penalty = opacity_losses(Rendering(pixel, alpha * pixel, pixel, pixel), opacity, 0.0)["opacity"]
        costs.append(0.5 * 3 * (contrast * (1 - alpha)) ** 2 + penalty)
    best = float(alphas[torch.stack(costs).argmin()])
    assert best == pytest.approx(1 - opacity / (3 * contrast**2), abs=1e-3)  # where the cost has no slope
    assert best > 0.9
