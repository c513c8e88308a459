"""Packages with kernels for CUDA: whether they can be used, and what renders without them.

A warning tells once when a package that would be faster is not used.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Literal

Package = Literal["gsplat", "nerfacc", "warp"]

INSTEAD: dict[Package, str] = {
    "gsplat": "splats are projected by torch and blended on the CPU, which is slower",
    "nerfacc": "radiance fields are rendered by plain torch, which is slower",
    "warp": "meshes are rasterized on the CPU, which is slower",
}
"""What renders on CUDA without a package."""

_KERNELS: dict[Package, str] = {
    "gsplat": "gsplat.cuda._backend",
    "nerfacc": "nerfacc.cuda._backend",
    "warp": "sds3d.rendering.mesh_warp",
}
"""The module that compiles or loads a package's kernels when it is imported."""


@cache
def usable(package: Package) -> bool:
    """Return whether a package's kernels work, with a warning if not. At first use they are compiled, for minutes."""
    problem = obstacle(package)
    if not problem:
        try:
            kernels = importlib.import_module(_KERNELS[package])
            if getattr(kernels, "_C", kernels) is None:
                problem = "its kernels cannot be compiled"
        except Exception as error:  # a compiler, a linker and a driver may fail in any way
            problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if problem:
        warnings.warn(f"{package} is not used: {problem}; {INSTEAD[package]}", stacklevel=2)
    return not problem


def obstacle(package: Package) -> str:
    """Return why a package's kernels cannot work on CUDA, as far as can be known without compiling them; or ""."""
    if importlib.util.find_spec(package) is None:
        return "not installed"
    if package == "warp" or importlib.util.find_spec(f"{package}.csrc") is not None:  # brings its compiler or kernels
        return ""
    return "" if _has_compiler(package) else "nvcc, which compiles its kernels, is not found"


def _has_compiler(package: Package) -> bool:
    if shutil.which("nvcc") is not None:
        return True
    from torch.utils.cpp_extension import CUDA_HOME

    return package == "gsplat" and CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").is_file()
