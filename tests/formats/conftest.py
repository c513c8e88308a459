"""Readers that are not ours; `npm install` in this folder provides them."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).parent
NODE_MODULES = [folder / "node_modules" for folder in (HERE, HERE.parents[1])]

Validate = Callable[[bytes], dict[str, Any]]
Transform = Callable[[bytes, str, str], bytes]


def missing(program: str, why: Exception) -> NoReturn:
    """A skip that says what to do, or a failure where nothing may be skipped."""
    if os.environ.get("CI", "").lower() == "true":
        raise why
    pytest.skip(f"{program} is missing (run `npm install` in {HERE}): {why}")


@pytest.fixture(scope="session")
def validate() -> Validate:
    """The report of the Khronos Group's glTF validator on a GLB file."""
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
    """PlayCanvas' splat-transform: (file, its ending, another ending) to the converted file."""
    programs = [folder / "@playcanvas/splat-transform/bin/cli.mjs" for folder in NODE_MODULES]
    program = next((path for path in programs if path.exists()), programs[0])

    def run(data: bytes, source: str, target: str) -> bytes:
        folder = tmp_path_factory.mktemp("splats")
        (folder / f"in.{source}").write_bytes(data)
        command = ["node", str(program), "--quiet", f"in.{source}", "--spz-version", "3", f"out.{target}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).decode()[-2000:])
        return (folder / f"out.{target}").read_bytes()

    if not shutil.which("node") or not program.exists():
        missing("splat-transform", RuntimeError(f"there is no node, or no {program}"))
    return run
