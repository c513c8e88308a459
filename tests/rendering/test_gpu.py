"""What renders on CUDA when a package with its kernels cannot be used. The steps in question are run on a CPU here."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.rendering import gpu, mesh_differentiable, splatting
from sds3d.rendering.mesh_differentiable import mesh_edges, rasterize_mesh
from sds3d.run.doctor import examine
from tests.rendering.test_mesh_differentiable import ball
from tests.rendering.test_splatting import cloud, draw


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The answers of other tests are forgotten, and those of these tests as well."""
    gpu.usable.cache_clear()
    yield
    gpu.usable.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else find(name))


@pytest.mark.parametrize("package", gpu.INSTEAD)
def test_a_missing_package_is_reported_once(package: gpu.Package, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, package)
    with pytest.warns(UserWarning, match=f"{package} is not used: not installed; .* slower") as warned:
        assert [gpu.usable(package) for _ in range(3)] == [False] * 3
    assert len(warned) == 1


@pytest.mark.parametrize("package", ["gsplat", "nerfacc"])
def test_without_a_compiler_nothing_is_compiled(package: gpu.Package, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, f"{package}.csrc")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    with pytest.warns(UserWarning, match=f"{package} is not used: nvcc, which compiles its kernels, is not found"):
        assert not gpu.usable(package)


def test_a_compiler_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "obstacle", lambda package: "")
    monkeypatch.setitem(gpu._KERNELS, "gsplat", "broken_kernels")
    (tmp_path / "broken_kernels.py").write_text("raise RuntimeError('ninja: build stopped\\nmuch more')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="gsplat is not used: ninja: build stopped; splats are"):
        assert not gpu.usable("gsplat")


def test_doctor_says_what_will_render(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("sds3d.run.doctor._cuda", lambda: examine)  # it would ask the driver
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    without(monkeypatch, "gsplat.csrc", "nerfacc.csrc", "warp")
    found = {finding.name: finding for finding in examine(tmp_path) if hasattr(finding, "name")}
    for package, instead in gpu.INSTEAD.items():
        assert not found[package].ok
        assert instead in found[package].detail
        assert gpu.obstacle(package) in found[package].detail
    assert "pip install" in found["warp"].detail


def test_splats_blended_elsewhere_than_projected() -> None:
    """Projection by torch, as on CUDA, and blending by the kernel: pictures and gradients of the reference."""
    gaussians, cameras = cloud(80), orbit([20.0, 140.0]).resized(24, 32)
    camera = splatting._Camera(32, 24, 0.01, 1e10, 0.3, 0.0)
    results = []
    for blend in (splatting._blend_fused, splatting._blend_reference):
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
