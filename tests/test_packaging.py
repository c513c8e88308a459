"""Packaging: declared dependencies, version, entry point, and the files of distributions."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import get_args

import pytest
import yaml

import sds3d
from sds3d.extras import Extra

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
EXTRAS = PROJECT["optional-dependencies"]
IMPORTED_BY_OTHERS = {"httpx", "protobuf", "sentencepiece"}
TOOLS = {"pytest-xdist", "pyright", "ruff", "uv"}
UNLIKE_THEIR_MODULES = {"dracopy": "DracoPy", "usd-core": "pxr", "warp-lang": "warp"}
"""Modules of the extras, which need not be installed, where the names differ."""


def names(requirements: Iterable[str]) -> set[str]:
    """Return the names of the distributions in a list of requirements, without this project."""
    return {re.split(r"[^\w.-]", each, maxsplit=1)[0].lower() for each in requirements} - {"sds3d"}


@cache
def imported(folder: str) -> set[str]:
    """Return the top-level modules of other distributions that files in a folder import, also within functions."""
    found = set()
    paths = list((ROOT / folder).rglob("*.py"))
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
    own = {"sds3d"} if folder == "sds3d" else {"sds3d", "docs", "tests", *(path.stem for path in paths)}
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - own


def provided(distribution: str) -> set[str]:
    """Return the top-level modules of a distribution, or its name if it is not installed."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return {UNLIKE_THEIR_MODULES.get(distribution, distribution)}
    return {inspect.getmodulename(file.parts[0]) or file.parts[0] for file in files}


def provided_by(distributions: Iterable[str]) -> set[str]:
    return set().union(*map(provided, distributions))


class TestDependencies:
    def test_every_import_is_declared(self) -> None:
        declared = [PROJECT["dependencies"], *(EXTRAS[extra] for extra in EXTRAS if extra != "test")]
        assert imported("sds3d") <= provided_by(names(chain(*declared)))

    def test_every_import_of_the_tests_is_declared(self) -> None:
        assert imported("tests") <= provided_by(names(chain(PROJECT["dependencies"], *EXTRAS.values())))

    @pytest.mark.parametrize("name", sorted(names(PROJECT["dependencies"]) - IMPORTED_BY_OTHERS))
    def test_every_dependency_is_imported(self, name: str) -> None:
        assert provided(name) & imported("sds3d")

    @pytest.mark.parametrize("name", sorted(names(EXTRAS["test"]) - TOOLS))
    def test_every_dependency_of_the_tests_is_imported(self, name: str) -> None:
        assert provided(name) & imported("tests")

    def test_extras_are_those_that_errors_name(self) -> None:
        assert set(get_args(Extra)) == set(EXTRAS) - {"docs", "test"}

    def test_only_the_rooms_that_use_them_import_what_is_heavy(self) -> None:
        """A run imports neither the studio's toolkit nor packages that need a GPU, a cluster or an extra."""
        heavy = ["gradio", "gsplat", "nerfacc", "pxr", "ray", "warp"]
        code = f"import sys, sds3d.run.asset; print(*(name for name in {heavy} if name in sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == []


class TestInstalled:
    def test_version(self) -> None:
        assert metadata.version("sds3d") == sds3d.__version__

    def test_citation(self) -> None:
        assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == sds3d.__version__

    def test_command(self) -> None:
        (command,) = metadata.entry_points(group="console_scripts", name="sds3d")
        assert callable(command.load())


class TestContents:
    def test_packages_are_the_folders(self) -> None:
        folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "sds3d").rglob("*.py")}
        mapped = set(SETUPTOOLS["package-dir"])
        assert {name.replace(".", "/") for name in set(SETUPTOOLS["packages"]) - mapped} == folders


def tracked() -> list[str]:
    """Return the files of the checkout, relative to its root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is missing: pip install uv")
class TestDistributions:
    """A source distribution has all files of the checkout. Its wheel has the package, its assets and its presets."""

    @pytest.fixture(scope="class")
    @staticmethod
    def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
        source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
        for name in tracked():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
        subprocess.run(["uv", "build", "--quiet", source, "--out-dir", built], check=True)
        return built

    def test_source_distribution(self, built: Path) -> None:
        (path,) = built.glob("*.tar.gz")
        with tarfile.open(path) as archive:
            files = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
        generated = {name for name in files if name.startswith("sds3d.egg-info/")} | {"PKG-INFO", "setup.cfg"}
        assert files - generated == set(tracked())

    def test_wheel(self, built: Path) -> None:
        (path,) = built.glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            files = {name for name in archive.namelist() if ".dist-info/" not in name}
        assets = {f"assets/{name}/": f"sds3d/_assets/{name}/" for name in ("instant", "studio", "toybox")}
        moved = {**assets, "configs/": "sds3d/_configs/", "sds3d/": "sds3d/"}
        expected = {
            new + name.removeprefix(old) for name in tracked() for old, new in moved.items() if name.startswith(old)
        }
        assert files == expected
