"""Rules, priors, representations and formats of other packages: a complete package, and faulty ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from sds3d.config import Config, ConfigError, load_yaml
from sds3d.guidance.base import RuleConfig
from sds3d.guidance.sds import SDSConfig
from sds3d.plugins import choices, from_other_packages

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of a process in which tests/plugin_package is installed."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(TESTS / "plugin_package", folder / "source")  # building leaves files in it
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "packages"), str(source)], check=True, timeout=300)
    path = os.pathsep.join([str(folder / "packages"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def sds3d(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sds3d", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def generate(environment: dict[str, str], folder: Path, *settings: str) -> Path:
    """Make a small asset in two steps. Return its run folder."""
    small = ["cameras.size=16", "export.resolution=24", "export.frames=4", "export.picture_size=32"]
    made = sds3d(environment, "generate", "a red mug", *settings, *small, "--steps", "2", "--out", str(folder))
    assert made.returncode == 0, made.stderr
    (run,) = folder.iterdir()
    return run


@pytest.mark.slow
def test_parts_of_another_package_make_an_asset(environment: dict[str, str], tmp_path: Path):
    chosen = ["guidance=plain_sds", "prior=one_color", "prior.color=[0.1, 0.7, 0.2]", "export.formats=[geomview]"]
    chosen += ["representation=mirrored", "representation.resolution=16"]
    run = generate(environment, tmp_path / "first", *chosen)
    config = load_yaml(run / "config.yaml")
    assert config["guidance"]["name"] == "plain_sds"
    assert config["prior"] == {"name": "one_color", "color": [0.1, 0.7, 0.2], "size": 16}
    assert config["representation"]["name"] == "mirrored"
    written = run / "exports" / "a-red-mug.off"
    assert written.read_bytes().startswith(b"OFF\n")
    second = generate(environment, tmp_path / "second", f"start_from={written}", *chosen)
    assert (second / "exports" / "a-red-mug.off").is_file()


@pytest.mark.slow
def test_a_rule_of_another_package_guides_the_embedded_prior(environment: dict[str, str], tmp_path: Path):
    assert (generate(environment, tmp_path, "guidance=plain_sds") / "exports" / "a-red-mug.glb").is_file()
    listed = sds3d(environment, "settings", "guidance", "guidance=plain_sds").stdout
    assert 'guidance = "plain_sds"' in listed
    assert "guidance.schedule" in listed


def test_without_the_package_its_names_are_unknown(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    made = sds3d(environment, "settings", "guidance", "guidance=plain_sds")
    assert made.returncode == 1
    assert 'guidance.name = "plain_sds" is unknown' in made.stderr


def registered(folder: Path, package: str, group: str, **points: str) -> None:
    """Make a distribution in a folder that registers entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


class Unnamed(RuleConfig):
    """A rule without a literal name."""


class AnotherSDS(SDSConfig):
    """A rule with the name of another rule."""


class Named(Config):
    """Not a rule, although it has a name."""

    name: Literal["named"] = "named"


GROUP = "sds3d.guidance"


def test_two_packages_that_register_one_name_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for package in ("first", "second"):
        registered(tmp_path, package, GROUP, mine=f"{package}.rules:Mine")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        from_other_packages(GROUP)
    assert 'two of sds3d.guidance are named "mine": first.rules:Mine of first and second.rules:Mine of second' in str(
        caught.value
    )


def test_two_rules_of_one_name_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    registered(tmp_path, "other", GROUP, mine=f"{__name__}:AnotherSDS")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        choices(GROUP, RuleConfig, without="sds3d.guidance.rules")
    sources = f"sds3d.guidance.sds.SDSConfig and {__name__}.AnotherSDS"
    assert str(caught.value) == f'two of sds3d.guidance are named "sds": {sources}; rename or uninstall one'


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("Unnamed", "is no RuleConfig with a literal name and is left out"),
        ("Named", "is no RuleConfig with a literal name and is left out"),
        ("missing", "cannot be loaded: "),
    ],
)
def test_an_unusable_plug_in_is_skipped_with_a_warning(
    target: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = choices(GROUP, RuleConfig, without="sds3d.guidance.rules")
    registered(tmp_path, "other", GROUP, mine=f"{__name__}:{target}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=f'the plug-in "mine" .*{problem}'):
        assert choices(GROUP, RuleConfig, without="sds3d.guidance.rules") == before
