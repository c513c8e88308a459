"""Packages with kernels for CUDA: which of them renders what, and what renders without them.

NVIDIA Warp brings its compiler. gsplat and nerfacc have to be compiled, which takes minutes: `sds3d doctor --build`
does it, and they are not used before.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from sds3d.extras import install_command
from sds3d.files import first_line
from sds3d.rendering import gpu_build

if TYPE_CHECKING:
    from torch import Tensor

Package = Literal["gsplat", "nerfacc", "warp"]
Task = Literal["splats", "rays", "grids", "meshes"]
"""rays: samples along them and their sums, for any field. grids: dense voxels, hash tables and planes of features."""
Backend = Literal[Package, "numba", "torch"]

PACKAGE_NAMES: tuple[Package, ...] = get_args(Package)

PACKAGES: dict[Task, tuple[Package, ...]] = {
    "splats": ("gsplat", "warp"),
    "rays": ("nerfacc", "warp"),
    "grids": ("warp",),
    "meshes": ("warp",),
}
"""The packages that can render something on CUDA. The first that works does."""

INSTEAD: dict[Task, str] = {
    "splats": "splats are projected by torch and blended on the CPU, which is slower",
    "rays": "radiance fields are rendered by plain torch, which is slower",
    "grids": "voxels, hash tables and feature planes are computed by plain torch, which is slower",
    "meshes": "meshes are rasterized on the CPU, which is slower",
}
"""What renders on CUDA without a package."""

_OLDEST_WARP = (1, 10)  # versions before 1.6 convert floats where kernels reinterpret them: faces would be wrong


@cache
def backend(task: Task) -> Package | None:
    """Return the package that renders something on CUDA, None with a warning if none of them works."""
    problems = []
    for package in PACKAGES[task]:
        problem = failure(package)
        if not problem:
            return package
        problems.append(f"{package} is not used: {problem}")
    warnings.warn(f"{'; '.join(problems)}; {INSTEAD[task]}", stacklevel=2)
    return None


def choose(task: Task, *tensors: Tensor) -> Backend:
    """Return what computes with these tensors: Numba's kernels on a CPU, a package's on CUDA, else plain torch."""
    import torch

    if any(tensor.dtype != torch.float32 for tensor in tensors):
        return "torch"
    device = tensors[0].device.type
    return "numba" if device == "cpu" else (backend(task) or "torch") if device == "cuda" else "torch"


def summary() -> str:
    """Return in one line which package renders what on CUDA, and why others do not."""
    chosen = ", ".join(f"{task} by {backend(task) or 'torch and the CPU'}" for task in PACKAGES)
    problems = [f"{package} is not used: {failure(package)}" for package in PACKAGE_NAMES if failure(package)]
    return "; ".join([chosen, *problems])


@cache
def announce() -> None:
    """Print `summary` on stderr, once in a process."""
    sys.stderr.write(f"kernels: {summary()}\n")
    sys.stderr.flush()


@cache
def failure(package: Package) -> str:
    """Load a package's kernels. Returns why they do not work, or ""."""
    try:
        if problem := obstacle(package):
            return problem
        if package == "warp":
            importlib.import_module("sds3d.rendering.launch_warp")
            return ""
        gpu_build.load(package)
        kernels = importlib.import_module(f"{package}.cuda._backend")
        return "its kernels cannot be loaded" if kernels._C is None else ""
    except Exception as error:  # a package, a linker and a driver may fail in any way
        return first_line(error)


def obstacle(package: Package) -> str:
    """Return why a package's kernels cannot work on CUDA, as far as can be known without loading them; or ""."""
    import torch

    if importlib.util.find_spec(package) is None:
        return f"not installed; {install_command('cuda')}" if package == "warp" else "not installed"
    if torch.version.hip is not None:
        return "it needs an NVIDIA GPU"
    if package != "warp":
        return "" if gpu_build.built(package) else "not compiled; sds3d doctor --build compiles it"
    version = importlib.metadata.version("warp-lang")
    old = tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_WARP
    return f"version {version} is too old; {install_command('cuda')}" if old else ""
