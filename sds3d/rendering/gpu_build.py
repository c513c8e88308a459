"""Compile the CUDA kernels of gsplat and nerfacc ahead of time, and load them.

Both packages compile themselves when their kernels are imported, for minutes, and need nvcc even to load what they
compiled before. Here a process of its own imports them, with a folder for the result that is named after the versions.
Later the library in it is loaded as if it had come with the package, which needs no compiler.

nvcc may be of a CUDA toolkit of the system or come from PyPI, whose packages lie together in site-packages/nvidia/cu13.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from sds3d.files import RunError

Compiled = Literal["gsplat", "nerfacc"]

PYPI_TOOLKIT = ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-cuda-runtime")
"""The packages with a compiler. Their version is that of torch.version.cuda."""

LEAST_ON_PYPI = 13
"""The first version of CUDA whose packages make a whole toolkit in one folder."""

_JOBS = 8  # a compiler takes up to 3 GB


def built(package: Compiled) -> bool:
    """Return whether a package's kernels are compiled: in its wheel, or by `build` for the installed versions."""
    return importlib.util.find_spec(f"{package}.csrc") is not None or _library(package).is_file()


def load(package: Compiled) -> None:
    """Load compiled kernels, so that the package finds them as its own. Raises ImportError."""
    if importlib.util.find_spec(f"{package}.csrc") is not None:
        return
    spec = importlib.util.spec_from_file_location(_name(package), _library(package))
    if spec is None or spec.loader is None:
        raise ImportError(f"{_library(package)} is no library")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[f"{package}.csrc"] = module


def build(package: Compiled) -> Path:
    """Compile a package's kernels, which takes minutes, and return the library.

    Raises RunError: what is missing, or the compiler's last line.
    """
    import torch

    if importlib.util.find_spec(package) is None:
        raise RunError(f"{package} is not installed; pip install {package}")
    if torch.version.cuda is None:
        raise RunError(f"torch {torch.__version__} is built without CUDA; install a build for CUDA, see pytorch.org")
    if not torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        raise RunError('torch finds no GPU to compile for; set TORCH_CUDA_ARCH_LIST, for example to "9.0"')
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        raise RunError("a C++ compiler is not found; install one, for example the system's package g++")
    home, library = toolkit(), _library(package)
    environment = {
        **os.environ,
        "CUDA_HOME": str(home),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "TORCH_EXTENSIONS_DIR": str(library.parents[1]),
        "MAX_JOBS": os.environ.get("MAX_JOBS", str(min(_JOBS, os.cpu_count() or 1))),
    }
    library.parents[1].mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", f"from {package}.cuda._backend import _C; assert _C is not None"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or not library.is_file():
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise RunError(f"compiling failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return library


def toolkit() -> Path:
    """Return the folder of a CUDA toolkit with nvcc: the system's, or links to that from PyPI. Raises RunError."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").is_file():
        return Path(CUDA_HOME)
    if (nvcc := shutil.which("nvcc")) is not None:
        return Path(nvcc).resolve().parents[1]
    for folder in _nvidia_folders():
        if (folder / "bin" / "nvcc").is_file():
            return _linked(folder)
    version = str(torch.version.cuda)
    if int(version.partition(".")[0]) < LEAST_ON_PYPI:
        raise RunError(f"nvcc is not found; install NVIDIA's CUDA toolkit {version}")
    wanted = " ".join(f'"{name}=={version}.*"' for name in PYPI_TOOLKIT)
    raise RunError(f"nvcc is not found; pip install {wanted}")


def _nvidia_folders() -> list[Path]:
    """Return where NVIDIA's packages lie together, newest first: nvidia/cu13 and so on."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec is not None else []
    return sorted((folder for root in roots for folder in root.glob("cu[0-9]*")), reverse=True)


def _linked(folder: Path) -> Path:
    """Return a folder of links to a toolkit from PyPI, with the names that compilers and torch look for."""
    home = _folder() / f"toolkit-{folder.name}"
    shutil.rmtree(home, ignore_errors=True)
    (home / "lib64").mkdir(parents=True)
    for path in folder.iterdir():
        if path.name != "lib64":
            (home / path.name).symlink_to(path)
    for path in (folder / "lib").iterdir():
        (home / "lib64" / path.name).symlink_to(path)
        plain = home / "lib64" / f"{path.name.partition('.so')[0]}.so"
        if ".so." in path.name and not plain.is_symlink():
            plain.symlink_to(path)  # the linker looks for libcudart.so, not libcudart.so.13
    return home


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sds3d" / "cuda"


def _library(package: Compiled) -> Path:
    import torch

    versions = (importlib.metadata.version(package), "torch", torch.__version__, "python", platform.python_version())
    name = _name(package)
    return _folder() / "-".join((package, *versions, "for", _architectures())) / name / f"{name}.so"


def _architectures() -> str:
    """Return what kernels are compiled for: a home folder may serve several kinds of GPU."""
    import torch

    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return re.sub(r"[^\w.+]+", "_", chosen)
    if not torch.cuda.is_available():
        return "none"
    kinds = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return "_".join(f"{major}.{minor}" for major, minor in sorted(kinds))


def _name(package: Compiled) -> str:
    return f"{package}_cuda"
