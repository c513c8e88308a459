from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from sds3d import config as config_module
from sds3d.config import (
    Config,
    ConfigError,
    assets_dir,
    build,
    configs_dir,
    dump_yaml,
    help_texts,
    load_yaml,
    merge,
    parse_override,
)
from sds3d.guidance.schedules import AnnealedSchedule, UniformSchedule
from sds3d.guidance.sds import SDSConfig
from sds3d.run.config import RunConfig


class Ramp(Config):
    start: float = 0.98
    kind: Literal["linear", "cosine"] = "linear"


class Alpha(Config):
    name: Literal["alpha"] = "alpha"
    scale: float = Field(7.5, gt=0)
    schedule: Ramp = Ramp()


class Beta(Config):
    name: Literal["beta"] = "beta"
    rate: float = 1.0


class Root(Config):
    prompt: str
    steps: int = 400
    rule: Annotated[Alpha | Beta, Field(discriminator="name")] = Alpha()
    limit: Ramp | None = None
    bounds: tuple[float, float] = (0.0, 1.0)


def made(*overrides: str) -> Root:
    return build(Root, {"prompt": "p"}, *(parse_override(text) for text in overrides))


def complaint(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        made(*overrides)
    return str(caught.value)


def test_a_partial_section_keeps_the_other_defaults():
    config = made("rule.schedule.start=0.5")
    assert isinstance(config.rule, Alpha)
    assert (config.rule.schedule.start, config.rule.scale, config.rule.schedule.kind) == (0.5, 7.5, "linear")


def test_changing_the_name_drops_keys_of_the_other_choice():
    config = made("rule.scale=3", "rule.name=beta", "rule.rate=2")
    assert config.rule == Beta(rate=2.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [("steps=12", 12), ("bounds=[0.25, 0.5]", (0.25, 0.5)), ("prompt=a red mug", "a red mug")],
)
def test_values_are_yaml(text: str, value: object):
    assert getattr(made(text), text.partition("=")[0]) == value


def test_numbers_in_scientific_notation_are_numbers():
    # YAML 1.1 reads 1e-3 as a string.
    rule = made("rule.scale=1e-3").rule
    assert isinstance(rule, Alpha)
    assert rule.scale == 1e-3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stepz=3", 'unknown key "stepz"; did you mean "steps"?'),
        ("rule.scal=3", 'unknown key "rule.scal"; did you mean "rule.scale"?'),
        ("rule.schedule.strat=3", 'unknown key "rule.schedule.strat"; did you mean "rule.schedule.start"?'),
        ("scal=3", 'unknown key "scal"; did you mean "rule.scale"?'),
        ("scale=3", 'unknown key "scale"; did you mean "rule.scale"?'),
        ("rule.name=alfa", 'rule.name = "alfa" is unknown; did you mean "alpha"?'),
        ("rule.name=zzz", 'rule.name = "zzz" is unknown; use one of: alpha, beta'),
        ("rule.schedule.kind=cosin", "rule.schedule.kind = 'cosin' is unknown; did you mean \"cosine\"?"),
        ("limit.strat=1", 'unknown key "limit.strat"; did you mean "limit.start"?'),
    ],
)
def test_the_nearest_key_or_value_is_named(override: str, expected: str):
    assert complaint(override) == expected


def test_an_unknown_key_without_a_near_one_lists_the_valid_ones():
    assert complaint("rule.qqq=1") == 'unknown key "rule.qqq"; valid keys: name, scale, schedule'


def test_an_invalid_value_names_the_required_type():
    assert complaint("rule.scale=-1") == "rule.scale = -1: input should be greater than 0"
    assert complaint("steps=many").startswith("steps = 'many': input should be a valid integer")
    assert complaint("bounds=[0, x]").startswith("bounds.1 = 'x': ")


def test_every_problem_has_its_own_line():
    assert len(complaint("stepz=3", "rule.scal=1", "rule.schedule.kind=x").splitlines()) == 3


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"^prompt is missing$"):
        build(Root)


@pytest.mark.parametrize("text", ["steps", "=3", "rule..scale=1", ""])
def test_overrides_need_a_key_and_a_value(text: str):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_override(text)


def test_a_value_that_is_not_yaml_is_refused():
    with pytest.raises(ConfigError, match="not a YAML value"):
        parse_override("prompt=[1, 2")


def test_a_plain_string_is_the_name_of_a_section():
    assert made("rule=beta").rule == Beta()
    assert made("rule.scale=3", "rule=alpha").rule == Alpha(scale=3.0)
    assert made("rule=beta", "rule.rate=2").rule == Beta(rate=2.0)
    assert 'rule.name = "betta" is unknown; did you mean "beta"?' in complaint("rule=betta")


def test_a_section_without_a_name_keeps_its_keys_below_one_with_a_name():
    assert merge({"rule": {"scale": 5}}, {"rule": {"name": "alpha"}}) == {"rule": {"scale": 5, "name": "alpha"}}
    assert merge({"rule": {"name": "beta", "scale": 5}}, {"rule": {"name": "alpha"}}) == {"rule": {"name": "alpha"}}


def test_merge_does_not_change_its_arguments():
    base, patch = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}
    assert merge(base, patch) == {"a": {"b": 3, "c": 2}}
    assert (base, patch) == ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})


def test_yaml_round_trip(tmp_path: Path):
    config = build(Root, {"prompt": "ein Krüglein: rot", "limit": {"start": 0.123456789}})
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert build(Root, load_yaml(path)) == config


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "3"])
def test_a_file_that_is_not_a_mapping_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_yaml(path)


def test_configs_are_frozen():
    with pytest.raises(ValidationError):
        made().steps = 3  # type: ignore[misc]


def test_shipped_folders_are_found():
    assert configs_dir().is_dir()
    assert assets_dir().is_dir()


def test_an_installed_wheel_finds_its_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sds3d" / "_assets").mkdir(parents=True)
    monkeypatch.setattr(config_module, "__file__", str(tmp_path / "sds3d" / "config.py"))
    assert assets_dir() == tmp_path / "sds3d" / "_assets"
    assert configs_dir() == tmp_path / "configs"


def test_a_wheel_holds_every_package():
    root = Path(__file__).parents[1]
    listed = re.findall(r'^    "(sds3d[a-z0-9_.]*)",$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    there = {".".join(path.parent.relative_to(root).parts) for path in (root / "sds3d").rglob("__init__.py")}
    assert there == {name for name in listed if name not in {"sds3d._assets", "sds3d._configs"}}


def test_a_part_of_a_section_keeps_the_rest_of_its_own_defaults():
    """This also holds if the section belongs to a choice that is not the default."""
    base = {"prompt": "a mug", "guidance": {"name": "sds"}}
    config = build(RunConfig, base, {"guidance": {"schedule": {"max": 0.5}}})
    assert config.guidance == SDSConfig(schedule=UniformSchedule(max=0.5))
    config = build(RunConfig, base, {"guidance": {"schedule": "annealed"}}, {"guidance": {"schedule": {"until": 0.5}}})
    assert config.guidance == SDSConfig(schedule=AnnealedSchedule(until=0.5))
    with pytest.raises(ConfigError, match=r"guidance\.schedule\.max"):
        build(RunConfig, base, {"guidance": {"schedule": {"max": 2}}})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[&a [1, 1], *a]", "not a YAML value"),  # nested aliases can expand to gigabytes
        ("[" * 5000, "not a YAML value"),  # deeper than the parser allows
        ("x" * 20_000, "20000 characters is too long"),
        ("2026-13-45", "not a YAML value"),  # an impossible date
    ],
)
def test_malicious_values_are_refused_in_one_short_line(value: str, message: str):
    error = complaint(f"limit={value}")
    assert message in error
    assert len(error) < 250


def test_long_values_are_shortened_in_errors():
    error = complaint(f"rule.scale={'y' * 5000}")
    assert error.startswith("rule.scale = 'yyy")
    assert len(error) < 300


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
def test_numbers_are_finite(number: str):
    assert "finite" in complaint(f"rule.schedule.start={number}")


def test_settings_of_a_run_are_bounded():
    for wrong, message in (
        ({"background": (2.0, 0.0, 0.0)}, "background"),
        ({"export": {"frames": 3600, "picture_size": 2048}}, "3600 frames of 2048 px are 235.9 times the limit"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(RunConfig, {"prompt": "a mug", **wrong})


class Documented(Config):
    size: int = 1
    """Height and width,
    in pixels."""
    other: int = 2
    side: float = 3.0
    """In metres."""


class Changed(Documented):
    side: float = 4.0
    depth: int = 1
    """In bits."""


def test_help_texts_are_the_docstrings_below_settings_and_a_redefined_setting_needs_its_own():
    assert help_texts(Documented) == {"size": "Height and width,\nin pixels.", "side": "In metres."}
    assert help_texts(Changed) == {"size": "Height and width,\nin pixels.", "depth": "In bits."}


def test_a_model_without_readable_source_has_no_help_texts():
    made: dict[str, type[Config]] = {}
    exec('class Made(Config):\n    size: int = 1\n    "In pixels."', {"Config": Config, "__name__": "made"}, made)
    assert help_texts(made["Made"]) == {}
