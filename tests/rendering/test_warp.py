"""NVIDIA Warp's kernels: the other tests of this folder run them on the CPU. Here they are compiled for GPUs."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sds3d import rendering

MODULES = sorted(path.stem for path in Path(rendering.__file__).parent.glob("*_warp.py") if path.stem != "launch_warp")
OLDEST_GPU = 75  # compute capability times ten: the oldest that CUDA 13 compiles for


@pytest.mark.parametrize("name", MODULES)
def test_kernels_compile_for_cuda(name: str, tmp_path: Path) -> None:
    """The compiler is in Warp's wheel and needs no GPU."""
    import warp as wp

    module = importlib.import_module(f"sds3d.rendering.{name}")
    wp.compile_aot_module(module, arch=OLDEST_GPU, module_dir=tmp_path, use_ptx=True)
    (path,) = tmp_path.glob("*.ptx")
    code = path.read_text()
    assert f".target sm_{OLDEST_GPU}" in code
    assert ".entry" in code
    assert not re.search(r"\b(add|sub|mul|fma|div|sqrt|cvt)\S*\.f64", code)  # 64 times slower on GPUs for games


def test_the_threads_of_a_warp_add_their_gradients_before_an_atomic(tmp_path: Path) -> None:
    import warp as wp

    from sds3d.rendering import splatting_blend_warp

    wp.compile_aot_module(splatting_blend_warp, arch=OLDEST_GPU, module_dir=tmp_path, use_ptx=True)
    (path,) = tmp_path.glob("*.ptx")
    code = path.read_text()
    assert code.count("shfl.sync.bfly") == 10 * 5  # ten sums over 32 threads, in five rounds each
    assert code.count("vote.sync.any") == 3


def started(cache: Path) -> subprocess.CompletedProcess[str]:
    """Start Warp in a process of its own and launch a kernel. Its cache folder is the last line of stderr."""
    script = """
import torch
from sds3d.rendering.launch_warp import wp
from sds3d.rendering.triplane_warp import TriplaneEncode
total = TriplaneEncode.apply(torch.rand(2, 3), torch.ones(3, 4, 4, 8)).sum()
assert abs(total - 48) < 1e-3, total  # the weights of four texels add up to 1 but for rounding
raise SystemExit(wp.config.kernel_cache_dir)
"""
    environment = {**os.environ, "WARP_CACHE_PATH": str(cache)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_warp_starts_in_silence(tmp_path: Path) -> None:
    """No banner, and a cache folder that the user chooses."""
    done = started(tmp_path)
    assert done.stdout == ""
    assert str(tmp_path) in done.stderr.splitlines()[-1]
    assert list(tmp_path.rglob("*triplane_warp*"))


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = started(file)
    assert "Warp's compiled kernels cannot be kept, set WARP_CACHE_PATH to a folder: " in done.stderr
    assert not Path(done.stderr.splitlines()[-1]).exists()
