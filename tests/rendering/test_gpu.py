"""What renders on CUDA when a package with its kernels cannot be used. The steps in question are run on a CPU here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.files import RunError
from sds3d.jobs.queue import enqueue
from sds3d.rendering import gpu, gpu_build, mesh_differentiable, splatting
from sds3d.rendering.mesh_differentiable import mesh_edges, rasterize_mesh
from sds3d.rendering.splatting import _in_fours
from sds3d.run.config import new_run
from sds3d.run.doctor import examine
from sds3d.run.drive import drive
from sds3d.run.gpu_trials import trial
from tests.rendering.test_mesh_differentiable import ball
from tests.rendering.test_splatting import cloud, draw
from tests.run.tiny_runs import tiny


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The answers of other tests are forgotten, and those of these tests as well."""
    for function in (gpu.backend, gpu.failure, gpu.announce):
        function.cache_clear()
    yield
    for function in (gpu.backend, gpu.failure, gpu.announce):
        function.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else find(name))


@pytest.mark.parametrize("task", gpu.PACKAGES)
def test_missing_packages_are_reported_once(task: gpu.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, *gpu.PACKAGE_NAMES)
    with pytest.warns(UserWarning, match=r"warp is not used: not installed; run pip install .*; .* slower") as warned:
        assert [gpu.backend(task) for _ in range(3)] == [None] * 3
    assert len(warned) == 1


@pytest.mark.parametrize("task", gpu.PACKAGES)
def test_warp_renders_while_nothing_else_is_compiled(
    task: gpu.Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch, "gsplat.csrc", "nerfacc.csrc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu.backend(task) == "warp"
    line = gpu.summary()
    assert line.startswith(
        "splats by warp, rays by warp, grids by warp, meshes by warp; gsplat is not used: not compiled;"
    )
    assert line.count("sds3d doctor --build") == 2
    assert "\n" not in line


def test_each_run_on_cuda_logs_what_renders_and_a_process_prints_it_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sds3d.run.drive.pick_device", lambda wanted: torch.device("cuda"))
    without(monkeypatch, "gsplat", "nerfacc")
    runs = [new_run(tmp_path, tiny(seed=seed)) for seed in range(2)]
    for run in runs:
        enqueue(run)
        run.request("pause")  # before anything is computed
        assert list(drive(run, threads=1)) == []
        assert f"kernels: {gpu.summary()}" in (run.folder / "run.log").read_text()
    assert capfd.readouterr().err == f"kernels: {gpu.summary()}\n"


def test_kernels_that_cannot_be_loaded_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "gsplat.csrc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = gpu_build._library("gsplat")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF and no more")
    assert gpu_build.built("gsplat")
    assert "gsplat_cuda.so" in gpu.failure("gsplat")
    assert gpu.backend("splats") == "warp"


@pytest.mark.parametrize(("version", "usable"), [("1.5.1", False), ("1.9.9", False), ("1.10.0", True), ("2.0", True)])
def test_warp_has_to_be_new_enough(version: str, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert gpu.obstacle("warp").startswith("" if usable else f"version {version} is too old; run pip install")
    assert bool(gpu.obstacle("warp")) != usable


def test_amd_gpus_have_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.warns(UserWarning, match="warp is not used: it needs an NVIDIA GPU"):
        assert gpu.backend("splats") is None


def test_doctor_says_what_will_render(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("sds3d.run.doctor._cuda", lambda: examine)  # it would ask the driver
    monkeypatch.setattr("sds3d.run.doctor.trial", lambda package, device: "")  # it would use the GPU
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    without(monkeypatch, "gsplat.csrc", "nerfacc.csrc")
    found = {finding.name: finding for finding in examine(tmp_path) if hasattr(finding, "name")}
    assert found["warp"].ok
    assert found["warp"].detail.endswith("on; for splats, rays, grids, meshes")
    for package in ("gsplat", "nerfacc"):
        assert not found[package].ok
        assert found[package].detail.endswith("off: not compiled; sds3d doctor --build compiles it")


def test_doctor_compares_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warp's kernels are tried on the CPU here. Without CUDA, the others cannot work, which is said in one line."""
    assert trial("warp", torch.device("cpu")) == ""
    for package in ("gsplat", "nerfacc"):
        problem = trial(package, torch.device("cpu"))
        assert problem
        assert "\n" not in problem
    monkeypatch.setattr(splatting, "_in_fours", lambda *inputs: tuple(0.9 * each for each in _in_fours(*inputs)))
    assert "values of splats differ by" in trial("warp", torch.device("cpu"))


class TestBuild:
    """Compiling needs a GPU and a compiler. Here is tried what is found out before."""

    @pytest.fixture(autouse=True)
    def torch_for_cuda(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
        monkeypatch.setenv("CXX", "true")
        monkeypatch.setenv("PATH", str(tmp_path))
        self.nvidia = tmp_path / "nvidia"
        monkeypatch.setattr(gpu_build, "_nvidia_folders", lambda: [*self.nvidia.glob("cu13")])
        (tmp_path / "true").symlink_to("/bin/true")

    def test_nvcc_of_the_system_is_found(self, tmp_path: Path) -> None:
        home = tmp_path / "cuda"
        (home / "bin").mkdir(parents=True)
        nvcc = home / "bin" / "nvcc"
        nvcc.write_text("#!/bin/sh\n")
        nvcc.chmod(0o755)
        (tmp_path / "nvcc").symlink_to(nvcc)
        assert gpu_build.toolkit() == home

    def test_nvcc_of_pypi_gets_the_names_that_linkers_look_for(self) -> None:
        for name in ("bin/nvcc", "include/cuda.h", "nvvm/bin/cicc", "lib/libcudart.so.13", "lib/libcudart_static.a"):
            path = self.nvidia / "cu13" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for _ in range(2):
            home = gpu_build.toolkit()
            assert home.name == "toolkit-cu13"
            for name in (
                "bin/nvcc",
                "include/cuda.h",
                "nvvm/bin/cicc",
                "lib64/libcudart.so",
                "lib64/libcudart_static.a",
            ):
                assert (home / name).is_file(), name

    def test_what_to_install_is_said_without_nvcc(self) -> None:
        with pytest.raises(
            RunError, match=r'nvcc is not found; pip install "nvidia-cuda-nvcc==13\.0\.\*" "nvidia-nvvm==13'
        ):
            gpu_build.build("gsplat")

    @pytest.mark.parametrize(
        ("missing", "message"),
        [("GPU", "set TORCH_CUDA_ARCH_LIST"), ("C++", "a C.. compiler is not found"), ("CUDA", "built without CUDA")],
    )
    def test_what_is_missing_is_said(self, missing: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if missing == "GPU":
            monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
        if missing == "C++":
            monkeypatch.setenv("CXX", "no-such-compiler")
        if missing == "CUDA":
            monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(RunError, match=message):
            gpu_build.build("nerfacc")

    def test_the_last_line_of_a_compiler_that_fails_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The real packages run with an empty toolkit."""
        monkeypatch.setattr(gpu_build, "toolkit", lambda: self.nvidia)
        without(monkeypatch, "gsplat.csrc")
        with pytest.raises(RunError, match=r"compiling failed: .+") as caught:
            gpu_build.build("gsplat")
        assert "\n" not in str(caught.value)
        assert not gpu_build.built("gsplat")


def test_splats_blended_elsewhere_than_projected() -> None:
    """Projection by torch, as on CUDA, and blending by the kernel: pictures and gradients of the reference."""
    gaussians, cameras = cloud(80), orbit([20.0, 140.0]).resized(24, 32)
    camera = splatting._Camera(32, 24, 0.01, 1e10, 0.3, 0.0)
    results = []
    for blend in (splatting._blend_on_cpu, splatting._blend_reference):
        means, quats, scales, opacities, colors = leaves = [tensor.clone().requires_grad_() for tensor in gaussians]
        projected = splatting._project_reference(
            means, quats, scales, opacities, cameras.opencv_viewmats(), cameras.intrinsics(), camera
        )
        picture, alpha = blend(projected, opacities.expand(2, 80), colors.expand(2, 80, -1), camera)
        projected.means2d.retain_grad()
        (picture.square().sum() + alpha.sum()).backward()
        results.append([picture, alpha, projected.means2d.grad, *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(draw(splatting.rasterization, gaussians, cameras).colors, results[1][0])


def test_faces_and_edges_chosen_on_the_cpu() -> None:
    vertices, faces = ball(2)
    cameras = orbit([10.0, 130.0]).resized(40, 56)
    raster, edges = rasterize_mesh(vertices, faces, cameras), mesh_edges(faces, len(vertices))
    view = mesh_differentiable._view(cameras, vertices)
    screen = mesh_differentiable._project_reference(vertices, view)
    face = mesh_differentiable._nearest_on_cpu(screen, faces, view)
    expected = torch.stack([mesh_differentiable._nearest_faces(of_view, faces, view) for of_view in screen])
    assert (expected >= 0).sum() > 500
    assert (face != expected).sum() <= 1  # where two faces are equally near except for rounding
    crossing = mesh_differentiable._crossings_on_cpu(screen, faces, edges, raster, view)
    distance = mesh_differentiable._distances(raster, view)
    by_torch = torch.stack(
        [mesh_differentiable._crossings(*pair) for pair in zip(screen, [faces] * 2, [edges] * 2, distance, strict=True)]
    )
    assert (by_torch >= 0).sum() > 50
    assert (crossing != by_torch).sum() <= 1
