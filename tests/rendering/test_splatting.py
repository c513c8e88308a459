"""Splatting: kernels against plain torch, plain torch against finite differences, closed forms and gsplat."""

import inspect
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.rendering.gpu import Backend
from sds3d.rendering.splatting import (
    RasterizeMode,
    RenderMode,
    Splatted,
    rasterization,
    rasterization_reference,
    rotation_matrices,
    spherical_harmonics,
)
from tests.rendering.bounds import assert_within_rounding, rounding

KERNELS: tuple[Backend, ...] = ("numba", "warp")
"""Kernels that run on a CPU. Those of Warp are the same on a GPU."""

Gaussians = list[Tensor]  # means, quats, scales, opacities, colors


def cloud(n: int, seed: int = 0, size: float = 0.04, coefficients: int = 0) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    colors = torch.rand(n, 3, generator=g) if not coefficients else 0.3 * torch.randn(n, coefficients, 3, generator=g)
    return [
        0.2 * torch.randn(n, 3, generator=g),
        torch.randn(n, 4, generator=g),
        size * torch.exp(0.4 * torch.randn(n, 3, generator=g)),
        torch.rand(n, generator=g),
        colors,
    ]


def draw(function, gaussians: Gaussians, cameras: Cameras, intrinsics: Tensor | None = None, **options) -> Splatted:
    dtype = gaussians[0].dtype
    views = cameras.opencv_viewmats().to(dtype)
    intrinsics = cameras.intrinsics().to(dtype) if intrinsics is None else intrinsics
    return function(*gaussians, views, intrinsics, cameras.width, cameras.height, **options)


def pictures_and_gradients(function, gaussians: Gaussians, cameras: Cameras, **options):
    leaves = [tensor.detach().requires_grad_() for tensor in gaussians]
    out = draw(function, leaves, cameras, **options)
    g = torch.Generator().manual_seed(7)
    weights = [torch.rand(picture.shape, generator=g).to(picture) for picture in out[:2]]
    if "ED" in options.get("render_mode", ""):  # the expected depth is ill-conditioned where alpha is small
        weights[0][..., -1] *= out.alphas.detach()[..., 0]
    loss = (out.colors * weights[0]).sum() + (out.alphas * weights[1]).sum()
    return out, torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def assert_same(gaussians: Gaussians, cameras: Cameras, **options) -> None:
    """Assert that the kernels of Numba and of Warp give the pictures and gradients of the reference."""

    def results(function, *values: Tensor) -> list[Tensor]:
        given = {key: value.to(values[0]) if isinstance(value, Tensor) else value for key, value in options.items()}
        out, gradients = pictures_and_gradients(function, list(values), cameras, **given)
        colors = out.colors.detach().clone()
        if "ED" in options.get("render_mode", ""):  # D = ED alpha is well-conditioned
            colors[..., -1] *= out.alphas.detach()[..., 0]
        meta = (out.meta[key].detach() for key in ("means2d", "depths", "conics", "opacities"))
        return [colors, out.alphas.detach(), out.meta["radii"] > 0, *meta, *gradients]

    def condition(exact: Sequence[Tensor]) -> dict[int, Tensor]:
        """Condition numbers of the conics: gradients of their inverse cancel by this factor in the kernel."""
        a, b, c = exact[5].unbind(-1)
        number = (a + c).square() / (a * c - b * b).clamp(min=1e-30)  # (C, N), about the eigenvalues' quotient
        each = torch.where(a > 0, number / 4, 1.0).amax(0)[:, None]
        # Gradients of means, quaternions and scales, of each of the kernels.
        return {start + i: each for start in range(0, len(exact), len(exact) // len(KERNELS)) for i in (7, 8, 9)}

    ours = [part for backend in KERNELS for part in results(partial(rasterization, backend=backend), *gaussians)]

    def reference(*values: Tensor) -> list[Tensor]:
        return len(KERNELS) * results(rasterization_reference, *values)

    assert_within_rounding(ours, reference, *gaussians, condition=condition)


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_kernels_equal_the_reference_in_every_mode(mode: RenderMode) -> None:
    assert_same(cloud(200), orbit([0.0, 100.0], 20.0, size=37), render_mode=mode)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_kernels_equal_the_reference_over_backgrounds(mode: RasterizeMode) -> None:
    backgrounds = torch.tensor([[0.2, 0.5, 0.9], [1.0, 1.0, 1.0], [0.0, 0.1, 0.0]])
    assert_same(
        cloud(300, 1), orbit([10.0, 130.0, 250.0], size=40), rasterize_mode=mode, backgrounds=backgrounds,
        render_mode="RGB+ED",
    )  # fmt: skip


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_kernels_equal_the_reference_with_harmonics(degree: int) -> None:
    assert_same(cloud(60, 2, coefficients=16), orbit([0.0, 90.0], size=24), sh_degree=degree)


@pytest.mark.parametrize("channels", [1, 4, 9])
def test_any_number_of_channels(channels: int) -> None:
    gaussians = cloud(80, 3)
    gaussians[4] = torch.rand(80, channels, generator=torch.Generator().manual_seed(4))
    assert_same(gaussians, orbit([45.0], size=24), render_mode="RGB+D")


def test_opaque_clouds_stop_early_like_the_reference() -> None:
    gaussians = cloud(400, 5, size=0.15)
    gaussians[3] = torch.full((400,), 0.9995)  # clipped to 0.999: pixels end after a few
    out, gradients = pictures_and_gradients(rasterization, gaussians, orbit([0.0], size=32))
    assert out.alphas.max() > 0.9985
    assert (gradients[4].abs().sum(-1) == 0).sum() > 50  # whole Gaussians are hidden
    assert_same(gaussians, orbit([0.0], size=32))


def test_alphas_are_clamped_and_then_have_no_gradient() -> None:
    gaussians = cloud(12, 18, size=10.0)  # flat over the whole picture
    gaussians[3] = torch.linspace(0.9, 1.0, 12)
    cameras = orbit([0.0, 120.0], size=16)
    first = [tensor[-1:] for tensor in gaussians]
    out = draw(rasterization, first, cameras)
    assert out.alphas.max().item() == pytest.approx(0.999)
    assert (out.alphas > 0.9989).float().mean() > 0.3
    assert_same(first, cameras)
    assert_same(gaussians, cameras)


def test_gaussians_beside_behind_and_in_front_of_the_camera() -> None:
    gaussians = cloud(300, 6, size=0.1)
    gaussians[0] = gaussians[0] * 12  # some behind the camera at 2.1 m, many outside the picture
    assert_same(gaussians, orbit([0.0, 200.0], size=24), near_plane=0.3)


@pytest.mark.parametrize("function", [rasterization, rasterization_reference])
def test_gaussians_are_left_out_before_the_near_plane_and_beyond_the_far_plane(function) -> None:
    depths, gaussians = torch.tensor([0.1, 0.49, 0.51, 1.0, 2.0, 2.99, 3.01, 9.0]), cloud(8, 19)
    gaussians[0], gaussians[3] = torch.zeros(8, 3), torch.full((8,), 0.5)
    gaussians[0][:, 2] = 2 - depths
    meta = draw(function, gaussians, orbit([0.0], 0.0, distance=2.0, size=16), near_plane=0.5, far_plane=3.0).meta
    torch.testing.assert_close(meta["depths"][0], depths, atol=rounding(8, 9), rtol=0)
    assert torch.equal((meta["radii"][0] > 0).all(-1), (depths > 0.5) & (depths < 3.0))


def test_pixels_that_are_not_square() -> None:
    intrinsics = torch.tensor([[60.0, 0.0, 23.0], [0.0, 35.0, 10.0], [0.0, 0.0, 1.0]]).expand(2, 3, 3)
    assert_same(cloud(150, 20), orbit([0.0, 100.0]).resized(24, 40), intrinsics=intrinsics)


def test_needles_and_discs() -> None:
    gaussians = cloud(150, 8)
    gaussians[2] = gaussians[2] * torch.tensor([8.0, 1.0, 0.02])
    assert_same(gaussians, orbit([0.0, 60.0], size=48))


def test_small_radii_can_be_left_out() -> None:
    gaussians, cameras = cloud(200, 9, size=0.02), orbit([0.0], size=32)
    every, large = draw(rasterization, gaussians, cameras), draw(rasterization, gaussians, cameras, radius_clip=3.0)
    assert (large.meta["radii"] > 0).any(-1).sum() < (every.meta["radii"] > 0).any(-1).sum()
    assert large.meta["radii"].amax(-1)[large.meta["radii"][..., 0] > 0].min() > 3
    assert_same(gaussians, cameras, radius_clip=3.0)


def test_the_reference_has_the_gradient_of_finite_differences() -> None:
    gaussians = [tensor.double().requires_grad_() for tensor in cloud(6, 10, size=0.1)]
    with torch.no_grad():
        gaussians[3].clamp_(0.3, 0.9)
    cameras = orbit([30.0], 20.0, size=9)

    def picture(*leaves: Tensor) -> Tensor:
        out = draw(rasterization_reference, list(leaves), cameras, render_mode="RGB+ED", rasterize_mode="antialiased")
        # The picture is discontinuous at the rim alpha = 1/255: compare only its inside.
        return torch.cat([out.colors, out.alphas], dim=-1) * inside

    inside = (draw(rasterization_reference, gaussians, cameras).alphas > 0.1).double()
    assert 10 < inside.sum() < 81
    assert torch.autograd.gradcheck(picture, gaussians, eps=1e-7, atol=2e-4, rtol=1e-3)


def test_one_round_gaussian_in_closed_form() -> None:
    distance, focal, scale, opacity = 2.0, 100.0, 0.05, 0.8
    view = torch.eye(4)[None]
    view[0, 2, 3] = distance
    intrinsics = torch.tensor([[[focal, 0.0, 16.5], [0.0, focal, 16.5], [0.0, 0.0, 1.0]]])
    one = [torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), scale), torch.tensor([opacity])]
    out = rasterization(*one, torch.tensor([[0.2, 0.4, 0.6]]), view, intrinsics, 33, 33, render_mode="RGB+ED")
    variance = (focal * scale / distance) ** 2 + 0.3  # pixels^2, blurred
    x = np.arange(33) - 16.0
    square = x[:, None] ** 2 + x[None] ** 2
    expected = opacity * np.exp(-square / (2 * variance))
    expected[expected < 1 / 255] = 0
    # The exponent x has about ten roundings, which change exp(-x) by at most a third. exp2 itself is off by 2e-7.
    np.testing.assert_allclose(out.alphas[0, ..., 0], expected, atol=rounding(12), rtol=0)
    np.testing.assert_allclose(out.colors[0, ..., 1], 0.4 * expected, atol=rounding(12, 0.4), rtol=0)
    # Alpha is 1 - transmittance, so its rounding counts 1 / alpha times in the quotient.
    off = np.abs(out.colors[0, ..., 3].numpy() - distance)[expected > 0]
    assert (off < rounding(8, distance) / expected[expected > 0]).all()


def test_the_nearer_of_two_covers_the_other() -> None:
    cameras = orbit([0.0, 180.0], 0.0, size=17)
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1), torch.full((2, 3), 0.1)
    means = torch.tensor([[0.0, 0.0, 0.2], [0.0, 0.0, -0.2]])  # red faces the front camera, blue the back
    gaussians = [means, quats, scales, torch.full((2,), 0.9), torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])]
    middle = draw(rasterization, gaussians, cameras).colors[:, 8, 8]
    few = rounding(16)  # the Gaussians' centres are the pixel's except for rounding, and the exponent is flat there
    torch.testing.assert_close(middle[0, [0, 2]], torch.tensor([0.9, 0.09]), atol=few, rtol=0)
    torch.testing.assert_close(middle[1, [2, 0]], torch.tensor([0.9, 0.09]), atol=few, rtol=0)


def test_rotations_agree_with_scipy() -> None:
    quats = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = Rotation.from_quat(quats[:, [1, 2, 3, 0]].numpy()).as_matrix()
    np.testing.assert_allclose(rotation_matrices(quats), expected, atol=1e-12)


def test_harmonics_are_scipys_up_to_the_conventions_sign() -> None:
    g = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(50, 3, generator=g).double(), dim=-1)
    x, y, z = directions.numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    index = 0
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), theta, phi)  # with the Condon-Shortley phase
            real = value.real if order == 0 else math.sqrt(2) * (value.real if order > 0 else value.imag)
            unit = torch.zeros(50, 16, 3, dtype=torch.float64)
            unit[:, index] = 1.0
            np.testing.assert_allclose(spherical_harmonics(degree, directions, unit)[:, 0], real, atol=1e-9)
            index += 1


def test_projection_and_harmonics_agree_with_gsplat() -> None:
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    cameras = orbit([20.0, 170.0], 30.0, size=40)
    coefficients = 0.3 * torch.randn(200, 16, 3, generator=torch.Generator().manual_seed(14))

    def ours(means: Tensor, quats: Tensor, scales: Tensor) -> list[Tensor]:
        gaussians = [means, quats, scales, torch.full((200,), 0.99), coefficients]
        meta = draw(rasterization, gaussians, cameras, sh_degree=3, rasterize_mode="antialiased").meta
        return [meta["radii"], meta["means2d"], meta["depths"], meta["conics"], meta["opacities"]]

    def theirs(means: Tensor, quats: Tensor, scales: Tensor) -> list[Tensor]:
        half = rotation_matrices(quats) * scales[:, None]
        views, intrinsics = cameras.opencv_viewmats().to(means), cameras.intrinsics().to(means)
        radii, means2d, depths, conics, compensations = torch_impl._fully_fused_projection(
            means, half @ half.transpose(1, 2), views, intrinsics, 40, 40, calc_compensations=True
        )
        return [radii, means2d, depths, conics, 0.99 * compensations]

    gaussians = cloud(200, 13)[:3]
    # gsplat measures a Gaussian's reach differently: compare only Gaussians that both show.
    both = (ours(*gaussians)[0] > 0).all(-1) & (theirs(*gaussians)[0] > 0).all(-1)
    assert both.sum() > 300
    mine = [value[both] for value in ours(*gaussians)[1:]]
    assert_within_rounding(mine, lambda *values: [value[both] for value in theirs(*values)[1:]], *gaussians)
    directions = torch.nn.functional.normalize(gaussians[0], dim=-1)
    for degree in range(4):
        reference = partial(torch_impl._spherical_harmonics, degree)
        mine = spherical_harmonics(degree, directions, coefficients)
        assert_within_rounding([mine], lambda *values, of=reference: [of(*values)], directions, coefficients)


def test_parameters_are_named_as_gsplats() -> None:
    gsplat = pytest.importorskip("gsplat")
    theirs, ours = (inspect.signature(f).parameters for f in (gsplat.rasterization, rasterization))
    assert list(theirs)[:9] == list(ours)[:9]
    assert {name: p.default for name, p in ours.items()}.items() <= {
        "backend": None,
        **{name: p.default for name, p in theirs.items()},
    }.items()


def test_threads_change_nothing() -> None:
    # Enough Gaussians for several threads.
    gaussians, cameras = cloud(6000, 11, size=0.02), orbit([0.0, 90.0, 180.0], size=45)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            out, gradients = pictures_and_gradients(rasterization, gaussians, cameras)
            results.append([out.colors, out.alphas, *gradients])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_results_do_not_depend_on_vector_lanes() -> None:
    """Kernels take eight Gaussians at a time, but results do not depend on how many Gaussians there are."""
    gaussians, cameras = cloud(21, 15), orbit([0.0, 130.0], size=24)
    every = draw(rasterization, gaussians, cameras).meta
    for part in (slice(0, 3), slice(5, 13), slice(9, 20)):
        some = draw(rasterization, [tensor[part] for tensor in gaussians], cameras).meta
        assert all(torch.equal(some[key], every[key][:, part]) for key in some)


def test_gaussians_at_the_same_depth_keep_their_order() -> None:
    """The first of equals is in front, also where the lists of Gaussians are longer than a word of 32 bits."""
    n, cameras = 100, orbit([0.0], size=17)
    gaussians = [torch.zeros(n, 3), torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1), torch.full((n, 3), 10.0)]
    gaussians += [torch.full((n,), 0.05), torch.eye(n)]  # the color's channel i is the weight of Gaussian i
    weights = 0.05 * 0.95 ** torch.arange(n)
    for backend in KERNELS:
        middle = draw(rasterization, gaussians, cameras, backend=backend).colors[0, 8, 8]
        torch.testing.assert_close(middle, weights, atol=rounding(16, 0.05), rtol=rounding(n))


def test_thousands_in_a_tile() -> None:
    gaussians = cloud(3000, 21, size=0.05)
    gaussians[3] = 0.01 * gaussians[3] + 0.004
    assert_same(gaussians, orbit([0.0], size=16))


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_broken_gaussian_breaks_no_other(which: int) -> None:
    gaussians, cameras = cloud(40, 22), orbit([0.0, 90.0], size=20)
    gaussians[which][7] = math.nan
    others = torch.arange(40) != 7
    out, gradients = pictures_and_gradients(rasterization, gaussians, cameras, backend="warp")
    some, expected = pictures_and_gradients(
        rasterization, [tensor[others] for tensor in gaussians], cameras, backend="warp"
    )
    assert torch.equal(out.colors, some.colors)
    for gradient, other in zip(gradients, expected, strict=True):
        assert torch.equal(gradient[others], other)


def test_warp_is_deterministic_on_a_cpu() -> None:
    gaussians, cameras = cloud(500, 23), orbit([0.0, 90.0], size=33)
    first, second = (pictures_and_gradients(rasterization, gaussians, cameras, backend="warp") for _ in range(2))
    assert torch.equal(first[0].colors, second[0].colors)
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_renders_are_differentiated_in_any_order() -> None:
    cameras = orbit([40.0], size=32)
    alone, together = [], []
    for seed in (16, 17):
        leaves = [tensor.requires_grad_() for tensor in cloud(200, seed)]
        alone.append(torch.autograd.grad(draw(rasterization, leaves, cameras).colors.square().sum(), leaves))
        together.append((leaves, draw(rasterization, leaves, cameras).colors.square().sum()))
    for (leaves, loss), before in zip(together, alone, strict=True):
        for _ in range(2):
            now = torch.autograd.grad(loss, leaves, retain_graph=True)
            assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True))


def test_the_gradient_of_positions_in_the_picture_is_kept() -> None:
    leaves = [tensor.requires_grad_() for tensor in cloud(50, 12)]
    out = draw(rasterization, leaves, orbit([0.0, 90.0], size=24))
    out.meta["means2d"].retain_grad()
    out.colors.square().sum().backward()
    assert out.meta["means2d"].grad is not None
    assert out.meta["means2d"].grad.shape == (2, 50, 2)
    assert out.meta["means2d"].grad.abs().max() > 0


@pytest.mark.parametrize("backend", KERNELS)
def test_nothing_to_draw(backend: Backend) -> None:
    cameras, backgrounds = orbit([0.0], size=16), torch.tensor([[0.1, 0.2, 0.3]])
    for gaussians in (cloud(0), [*cloud(5)[:3], torch.zeros(5), torch.rand(5, 3)]):
        leaves = [tensor.requires_grad_() for tensor in gaussians]
        out = draw(rasterization, leaves, cameras, backgrounds=backgrounds, render_mode="RGB+ED", backend=backend)
        assert out.alphas.max() == 0
        torch.testing.assert_close(out.colors[..., :3], backgrounds.expand(1, 16, 16, 3))
        out.colors.sum().backward()
        assert all(leaf.grad is None or leaf.grad.abs().sum() == 0 for leaf in leaves)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    broken=st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 0.0]),
    which=st.integers(0, 4),
    backend=st.sampled_from(KERNELS),
)
def test_broken_values_never_crash(seed: int, broken: float, which: int, backend: Backend) -> None:
    gaussians = cloud(12, seed)
    gaussians[which].reshape(12, -1)[seed % 12] = broken
    out, gradients = pictures_and_gradients(rasterization, gaussians, orbit([0.0], size=20), backend=backend)
    assert out.colors.shape == (1, 20, 20, 3)
    assert len(gradients) == 5


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (1, torch.zeros(5, 3), "quats must be"),
        (3, torch.zeros(5, 1), "opacities must be"),
        (4, torch.zeros(4, 3), "colors must begin"),
    ],
    ids=["quats", "opacities", "colors"],
)
def test_wrong_shapes_of_inputs_are_refused(index: int, value: Tensor, message: str) -> None:
    gaussians = cloud(5)
    gaussians[index] = value
    with pytest.raises(ValueError, match=message):
        draw(rasterization, gaussians, orbit([0.0], size=16))


def test_too_few_harmonics() -> None:
    with pytest.raises(ValueError, match="needs 16 coefficients"):
        draw(rasterization, cloud(5, coefficients=9), orbit([0.0], size=16), sh_degree=3)
