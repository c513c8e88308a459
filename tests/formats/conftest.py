"""Assets to write, and readers of other projects that `npm install` in this folder provides."""

import json
import locale
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from export_shapes import position_color, torus_mesh
from loading import ball

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats
from sds3d.geometry.uv_atlas import bake

HERE = Path(__file__).parent
NODE_MODULES = [folder / "node_modules" for folder in (HERE, HERE.parents[1])]

Validate = Callable[[bytes], dict[str, Any]]
Transform = Callable[..., bytes]


def missing(program: str, why: Exception) -> NoReturn:
    """Skip the test and name the cure, or fail if CI=true."""
    if os.environ.get("CI", "").lower() == "true":
        raise why
    pytest.skip(f"{program} is missing (run `npm install` in {HERE}): {why}")


@pytest.fixture(autouse=True)
def keep_locale() -> Iterator[None]:
    """Restore the locale: lib3mf leaves "C", in which `open` reads ASCII only."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def validate() -> Validate:
    """Return a function that returns the Khronos glTF validator's report on a GLB file."""
    environment = dict(os.environ)
    environment["NODE_PATH"] = os.pathsep.join([*map(str, NODE_MODULES), environment.get("NODE_PATH", "")])

    def run(glb: bytes) -> dict[str, Any]:
        script = str(HERE / "validate_glb.mjs")
        done = subprocess.run(["node", script], input=glb, capture_output=True, env=environment, check=False)
        if done.returncode:
            lines = done.stderr.decode().splitlines()
            raise RuntimeError(next((line for line in lines if line.startswith("Error")), "node failed"))
        return json.loads(done.stdout)

    try:
        if not shutil.which("node"):
            raise RuntimeError("node is not installed")
        run(b"glTF")
    except RuntimeError as error:
        missing("gltf-validator", error)
    return run


@pytest.fixture(scope="session")
def splat_transform(tmp_path_factory) -> Transform:
    """Return a function that converts (file, its suffix, new suffix, options) with PlayCanvas' splat-transform."""
    programs = [folder / "@playcanvas/splat-transform/bin/cli.mjs" for folder in NODE_MODULES]
    program = next((path for path in programs if path.exists()), programs[0])

    def run(data: bytes, source: str, target: str, *options: str) -> bytes:
        folder = tmp_path_factory.mktemp("splats")
        (folder / f"in.{source}").write_bytes(data)
        command = ["node", str(program), "--quiet", *options, f"in.{source}", f"out.{target}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).decode()[-2000:])
        return (folder / f"out.{target}").read_bytes()

    if not shutil.which("node") or not program.exists():
        missing("splat-transform", RuntimeError(f"there is no node, or no {program}"))
    return run


@pytest.fixture(scope="session")
def colored() -> Mesh:
    """A torus with vertex colours and normals."""
    return replace(torus_mesh(1500), roughness=0.6, metallic=0.1)


@pytest.fixture(scope="session")
def textured(colored) -> Mesh:
    return bake(colored, position_color, 128)


@pytest.fixture(scope="session")
def metal(textured) -> Mesh:
    """A torus with a metallic-roughness texture whose size differs from that of the base colour."""
    return replace(textured, metallic_roughness=np.random.default_rng(0).integers(0, 256, (32, 16, 3)).astype("u1"))


@pytest.fixture(scope="session")
def colored_ball() -> Mesh:
    return ball()


@pytest.fixture(scope="session")
def textured_ball(colored_ball) -> Mesh:
    """A ball with a base-colour and a metallic-roughness texture."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 16, 3)).astype(np.uint8)
    return replace(bake(colored_ball, size=128), metallic_roughness=picture)


@pytest.fixture(scope="session")
def splats() -> Splats:
    rng = np.random.default_rng(0)
    arrays = (
        rng.uniform(-0.5, 0.5, (200, 3)),
        rng.normal(size=(200, 4)),
        np.exp(rng.uniform(-6, -2.5, (200, 3))),
        rng.uniform(0.02, 1, 200),
        rng.uniform(-0.5, 0.5, (200, 4, 3)),
    )
    return Splats(*(array.astype(np.float32) for array in arrays)).checked()
