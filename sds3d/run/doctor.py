"""What this machine can do and what is missing: one line per finding, for users and bug reports."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sds3d.compiled import examine_cache
from sds3d.config import assets_dir
from sds3d.files import first_line
from sds3d.rendering.gpu import PACKAGE_NAMES, PACKAGES, Package, backend, failure
from sds3d.run.gpu_trials import trial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FREE_NEEDED = 0.5e9  # bytes: more than a run with its checkpoints and exports


@dataclass(frozen=True)
class Finding:
    """The result of one check. ok: whether it works. needed: whether `sds3d generate` needs it."""

    name: str
    ok: bool
    detail: str
    needed: bool = False


def examine(folder: Path | None = None) -> list[Finding]:
    """Check everything that a run depends on. folder: where runs are written; default: the working folder."""
    return [
        _python(),
        *_package("torch"),
        *_package("diffusers"),
        *_package("transformers"),
        *_package("numba"),
        _threads(),
        _numba_layer(),
        _kernel_cache(),
        _cuda(),
        *map(_cuda_backend, PACKAGE_NAMES),
        _ffmpeg(),
        _prior(),
        _large_priors(),
        _disk(folder or Path.cwd()),
    ]


def can_generate(findings: list[Finding]) -> bool:
    """Return whether everything that `sds3d generate` needs works."""
    return all(finding.ok for finding in findings if finding.needed)


def _python() -> Finding:
    version = platform.python_version()
    return Finding("Python", sys.version_info >= (3, 11), f"{version} on {platform.platform(terse=True)}", needed=True)


def _package(name: str) -> list[Finding]:
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken install raises anything
        return [Finding(name, False, first_line(error), needed=True)]
    return [Finding(name, True, importlib.metadata.version(name), needed=True)]


def _threads() -> Finding:
    from sds3d.devices import default_threads

    return Finding("threads", True, f"{default_threads()} of {os.cpu_count()} logical cores by default")


def _numba_layer() -> Finding:
    """Run a parallel loop: numba looks for its threading layer only then."""
    try:
        import numpy as np
        from numba.np.ufunc.parallel import threading_layer

        _parallel_loop()(np.ones(8))
        return Finding("numba threading", True, threading_layer())
    except Exception as error:
        return Finding("numba threading", False, f"CPU kernels cannot be compiled: {first_line(error)}", needed=True)


@cache
def _parallel_loop() -> Callable[[NDArray[np.float64]], float]:
    """Return a parallel loop. One for the whole process: numba never frees machine code, here some MB."""
    import numba

    @numba.njit(parallel=True)
    def total(values):
        result = 0.0
        for i in numba.prange(len(values)):
            result += values[i]
        return result

    return total


def _kernel_cache() -> Finding:
    report = examine_cache()
    if report.problem:
        return Finding("kernel cache", False, report.problem)
    detail = f"{report.size / 1e6:.1f} MB in {report.folder}"
    if report.damaged:
        count = f"{len(report.damaged)} damaged file{'s' * (len(report.damaged) > 1)}"
        return Finding("kernel cache", False, f"{detail}; {count}, for example {report.damaged[0]}: compiled again")
    return Finding("kernel cache", True, detail)


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        if torch.version.hip is not None:
            detail = f"{device.name}, {device.total_memory / 1e9:.0f} GB, ROCm {torch.version.hip}"
            return Finding("GPU", True, f"{detail}; scenes are rendered by plain torch and the CPU")
        return Finding("CUDA", True, f"{device.name}, {device.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Finding("GPU", True, "Apple's, by Metal; scenes are rendered by plain torch and the CPU")
    if torch.version.cuda is None:
        return Finding("CUDA", False, "this torch is built without CUDA; runs use the CPU")
    return Finding("CUDA", False, f"torch is built for CUDA {torch.version.cuda} but finds no GPU or driver")


def _cuda_backend(package: Package) -> Finding:
    """Whether a package's CUDA kernels work, see `trial`."""
    import torch

    try:
        version = importlib.metadata.version("warp-lang" if package == "warp" else package)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    if not torch.cuda.is_available():
        return Finding(package, False, f"{version}; off: it is only used on CUDA")
    if problem := failure(package) or trial(package, torch.device("cuda")):
        return Finding(package, False, f"{version}; off: {problem}")
    tasks = [task for task in PACKAGES if backend(task) == package]
    return Finding(package, True, f"{version}, on; for {', '.join(tasks) or 'nothing: others come first'}")


def _ffmpeg() -> Finding:
    try:
        import imageio_ffmpeg

        path = imageio_ffmpeg.get_ffmpeg_exe()
        line = subprocess.run([path, "-version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except Exception as error:
        return Finding("ffmpeg", False, f"no turntable videos: {first_line(error)}", needed=True)
    return Finding("ffmpeg", True, " ".join(line.split()[:3]))


def _prior() -> Finding:
    folder = assets_dir() / "toybox" / "prior"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights:
        return Finding("embedded prior", False, f"missing at {folder}: reinstall sds3d", needed=True)
    size = sum(path.stat().st_size for path in files)
    return Finding(
        "embedded prior", True, f"{size / 1e6:.1f} MB, sha256 {_digest(folder, files)[:12]}, {folder}", needed=True
    )


def _large_priors() -> Finding:
    """List the models with a short name in the local cache. Does not use the network."""
    try:
        from sds3d.priors.loading import ALIASES, cached

        there = [name for name, model_id in ALIASES.items() if cached(model_id) is not None]
    except Exception as error:
        return Finding("large priors", False, first_line(error))
    found = ", ".join(f"prior.model={name}" for name in there) or "none in the local cache"
    return Finding(
        "large priors", bool(there), f"{found}; any model folder in diffusers format works: prior.model=FOLDER"
    )


def _digest(folder: Path, files: list[Path]) -> str:
    """Return one hash of a folder's file names and contents."""
    import hashlib

    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    enough = free > FREE_NEEDED
    detail = f"{free / 1e9:.1f} GB free in {folder}" + ("" if enough else "; a run needs about 0.5 GB")
    return Finding("disk", enough, detail, needed=True)
