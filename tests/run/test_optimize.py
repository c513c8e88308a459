from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras, turntable
from sds3d.guidance.base import Guided, Views
from sds3d.guidance.cfd import CFD, CFDConfig
from sds3d.guidance.multiview import MultiView, MultiViewConfig
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.ramps import Ramp
from sds3d.rendering.resizing import resize
from sds3d.representations.base import Rendering
from sds3d.representations.densify import FixedCountConfig
from sds3d.representations.gaussians import GaussiansConfig, GaussiansScene
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from sds3d.run.backgrounds import STREAM, LearnedBackground, SolidBackground, make_environment
from sds3d.run.lessons import Teacher, border_color, image_loss
from sds3d.run.optimize import (
    NumericalError,
    OptimizerConfig,
    Setup,
    Step,
    learning_rate_factor,
    optimize,
    pack,
    random_streams,
    resume,
    sample_background,
    start,
    undisturbed,
)
from tests.run.scenes import CAMERAS, SIZE, Canvas, encoded, gaussian_prior


def run(scene: Any, prior: Any, rule: Any, steps: int = 5, stop: int | None = None, **options: Any) -> list[Step]:
    config, cameras = options.pop("config", OptimizerConfig()), options.pop("cameras", CAMERAS)
    state = options.pop("state", None) or start(scene, config, random_streams(0, "cameras", "guidance"))
    teachers = [Teacher(prior, rule, encoded(prior), options.pop("transforms", ())), *options.pop("others", ())]
    loop = optimize(Setup(scene, teachers, steps, cameras, config, **options), state)
    return list(itertools.islice(loop, stop))


def test_sds_ends_at_its_fixed_point():
    # With equal variances, the fixed point of SDS is m + (S - 1) (m - m_null) for every t and weighting.
    prior = gaussian_prior(mean=0.6, null=0.55)
    scene = Canvas()
    run(scene, prior, SDS(SDSConfig(scale=3.0), prior), steps=200, config=OptimizerConfig(eps=1e-8))
    assert scene.rgb.mean().item() == pytest.approx(0.6 + 2 * 0.05, abs=0.01)


def test_a_learned_background_is_pulled_to_the_prior_where_the_scene_is_empty():
    prior, scene, config = gaussian_prior(mean=0.7), Canvas(alpha=0.0), OptimizerConfig(eps=1e-8)
    background = LearnedBackground(lr=0.02)
    generators = random_streams(0, "cameras", "guidance", STREAM)
    around = make_environment(background, 0, generators, "cpu")
    assert around is not None
    state = start(scene, config, generators, around)  # type: ignore[arg-type]
    run(scene, prior, SDS(SDSConfig(scale=1.0), prior), steps=300, config=config, state=state, background=background)
    picture = around(turntable(4, size=8).rays()[1])
    torch.testing.assert_close(picture, torch.full_like(picture, 0.7), atol=0.03, rtol=0)


class GradientRule:
    """Returns the given gradient or target, whatever the render."""

    def __init__(self, gradient: Tensor | None = None, target: Tensor | None = None) -> None:
        self.gradient, self.target = gradient, target

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        return Guided(t=torch.ones(len(x)), gradient=self.gradient, image_target=self.target)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


def test_the_rules_gradient_is_averaged_over_views():
    prior, scene = gaussian_prior(), Canvas()
    gradient = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    run(scene, prior, GradientRule(gradient), steps=1)
    expected = gradient.mean(dim=0).permute(1, 2, 0)  # (H, W, 3)
    assert scene.rgb.grad is not None
    torch.testing.assert_close(scene.rgb.grad, expected)


def test_networks_are_trained_after_the_renders_graph_is_freed():
    """The encoder's saved tensors are freed before a network's backward pass, so both are never in memory together."""
    prior, scene, kept, alive = gaussian_prior(), Canvas(), [], []
    encode = prior.encode_image

    def encode_image(rgb: Tensor) -> Tensor:
        half = rgb.sqrt()
        kept.append(weakref.ref(half))
        return encode(half * half)  # autograd saves both factors

    class Learning(GradientRule):
        def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
            alive.append(kept[-1]() is not None)
            return Guided(t=torch.ones(len(x)), gradient=x, metrics={"t": 1.0}, learn=self.learn)

        def learn(self) -> dict[str, float]:
            assert scene.rgb.grad is not None
            alive.append(kept[-1]() is not None)
            return {"loss": 3.0}

    prior.encode_image = encode_image
    steps = run(scene, prior, Learning(), steps=2)
    assert alive == [True, False] * 2
    assert [step.guided.metrics for step in steps] == [{"t": 1.0, "loss": 3.0}] * 2


def test_a_diverging_step_trains_no_network():
    class Learning(GradientRule):
        def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
            return Guided(
                t=torch.ones(len(x)), gradient=1e30 * torch.ones_like(x), learn=lambda: pytest.fail("learned")
            )

    with pytest.raises(NumericalError, match="norm"):
        run(Canvas(), gaussian_prior(), Learning(), steps=1)


def test_transforms_get_each_picture_once_per_step():
    """If a scene's pictures are its parameters, it returns the same tensor in every step."""

    class Bare(Canvas):
        def render(self, cameras: Cameras, background: Tensor) -> Rendering:
            return Rendering(self.rgb, self.alpha, self.alpha, self.rgb)

    class Counting:
        calls = 0

        def on_x(self, gradient: Tensor, progress: float) -> Tensor:
            return gradient

        def on_picture(self, gradient: Tensor, progress: float) -> Tensor:
            self.calls += 1
            return gradient

    scene, counting = Bare(), Counting()
    for name in ("rgb", "alpha"):
        setattr(scene, name, torch.nn.Parameter(getattr(scene, name).detach().expand(4, -1, -1, -1).clone()))
    run(scene, gaussian_prior(), GradientRule(torch.ones(4, 3, SIZE, SIZE)), steps=5, transforms=[counting])
    assert counting.calls == 5


def test_an_image_target_is_compared_over_its_own_border_color():
    prior, scene = gaussian_prior(), Canvas(rgb=0.2, alpha=0.25)
    target = torch.full((4, SIZE, SIZE, 3), 0.9)
    target[:, 4:12, 4:12] = 0.3  # the border colour stays 0.9
    step = run(scene, prior, GradientRule(target=target), steps=1, background=SolidBackground(color=(0.5, 0.1, 0.0)))[0]
    residual = 0.25 * 0.2 + 0.75 * 0.9 - target  # the render's own background is replaced
    assert step.losses["image"] == pytest.approx(0.5 * residual.square().sum().item() / 4, rel=1e-5)
    assert scene.rgb.grad is not None
    torch.testing.assert_close(scene.rgb.grad, 0.25 * residual.mean(dim=0))


def test_image_loss_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(2, 8, 8, 1, generator=generator, dtype=torch.float64)
    rgb = torch.rand(2, 8, 8, 3, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 4, 4, 3, generator=generator, dtype=torch.float64)
    background = torch.rand(3, generator=generator, dtype=torch.float64)

    def loss(rgb: Tensor, alpha: Tensor) -> Tensor:
        return image_loss(Rendering(rgb, alpha, alpha, rgb), background, target)

    assert torch.autograd.gradcheck(loss, (rgb.requires_grad_(), alpha.requires_grad_()))


def test_border_color_is_the_median_of_the_outermost_pixels():
    pictures = torch.zeros(2, 5, 5, 3)
    pictures[0, 1:-1, 1:-1] = 1.0
    pictures[1] = torch.tensor([0.1, 0.2, 0.3])
    pictures[1, 0, :3] = 0.9  # three of sixteen border pixels
    torch.testing.assert_close(border_color(pictures), torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.2, 0.3]]))


def test_renders_of_another_size_are_resized_for_the_prior():
    prior = gaussian_prior(size=8)
    step = run(Canvas(), prior, SDS(SDSConfig(), prior), steps=1)[0]
    assert step.guided.x0 is not None
    assert step.guided.x0.shape == (4, 3, 8, 8)
    assert step.rendering.rgb.shape == (4, SIZE, SIZE, 3)
    constant = torch.full((1, SIZE, SIZE, 3), 0.3)
    torch.testing.assert_close(resize(constant, 8), constant[:, :8, :8])
    assert resize(constant, SIZE) is constant


def test_learning_rate_rises_then_falls():
    config = OptimizerConfig(warmup=10, final=0.2)
    factors = [learning_rate_factor(i, 400, config) for i in range(400)]
    assert factors.index(max(factors)) == 10
    assert factors[0] < 0.1
    assert factors[-1] == pytest.approx(0.2)


def test_learning_rates_fall_exponentially():
    config = OptimizerConfig(warmup=0, final=0.01, decay="exponential")
    factors = [learning_rate_factor(i, 201, config) for i in (0, 50, 100, 200)]
    assert factors == pytest.approx([1.0, 0.01**0.25, 0.1, 0.01])


def test_a_learning_rate_with_knots_falls_exponentially_over_a_part_of_the_run():
    # DreamGaussian's rate of the positions, by the formula of 3D Gaussian splatting's code.
    knots = Ramp([[0, 0.01], [0.6, 0.0002]])  # type: ignore[arg-type]
    config = GaussiansConfig(count=5, means_lr=knots, sh_degree=1, colors_lr=knots, densify=FixedCountConfig())
    scene = GaussiansScene(config, torch.Generator().manual_seed(0))
    optimizer = OptimizerConfig(warmup=0, final=1)
    state = start(scene, optimizer, random_streams(0, "cameras", "guidance"))
    prior = gaussian_prior()
    rates = []
    for _ in optimize(Setup(scene, [Teacher(prior, GradientRule(), encoded(prior))], 11, CAMERAS, optimizer), state):
        rates.append([group["lr"] for group in state.optimizer.param_groups])
    shares = [min(i / 6, 1) for i in range(11)]
    expected = [math.exp(math.log(0.01) * (1 - share) + math.log(0.0002) * share) for share in shares]
    names = list(scene.parameters)
    assert [rate[names.index("means")] for rate in rates] == pytest.approx(expected)
    assert [rate[names.index("harmonics")] for rate in rates] == pytest.approx([rate / 20 for rate in expected])
    assert {rate[names.index("scales")] for rate in rates} == {0.02}


def test_weight_decay_is_that_of_adamw():
    prior, scene = gaussian_prior(), Canvas()
    before = scene.rgb.detach().clone()
    rate = scene.parameter_groups()[0]["lr"]
    still = GradientRule(torch.zeros(4, 3, SIZE, SIZE))
    run(scene, prior, still, steps=2, config=OptimizerConfig(warmup=0, final=1, weight_decay=0.25))
    torch.testing.assert_close(scene.rgb.detach(), before * (1 - 0.25 * rate) ** 2)


def test_a_large_gradient_is_scaled_down_to_the_norm_that_is_set():
    """With a large eps, a first step of Adam is the gradient times the learning rate over eps."""
    gradient = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def moved(clip: float | None) -> tuple[Tensor, Step]:
        prior, scene = gaussian_prior(), Canvas(rgb=0.0)
        config = OptimizerConfig(eps=1e3, warmup=0, clip_norm=clip)
        (step,) = run(scene, prior, GradientRule(gradient), steps=1, config=config)
        return scene.rgb.detach(), step

    (free, step), (same, _), (clipped, told) = moved(None), moved(1e6), moved(0.5)
    assert torch.equal(same, free)
    assert told.grad_norm == step.grad_norm > 5
    torch.testing.assert_close(clipped, free * 0.5 / step.grad_norm, atol=0, rtol=2e-2)


def test_betas_replace_those_of_the_scene():
    scene = GaussiansScene(GaussiansConfig(count=5), torch.Generator().manual_seed(0))

    def betas(config: OptimizerConfig) -> set[object]:
        return {group["betas"] for group in start(scene, config, {}).optimizer.param_groups}

    assert betas(OptimizerConfig()) == {(0.9, 0.95)}
    assert betas(OptimizerConfig(betas=(0.0, 0.99))) == {(0.0, 0.99)}


def test_backgrounds_are_light_tinted_greys():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sample_background(generator) for _ in range(200)])
    assert drawn.min() >= 0.25
    assert drawn.max() <= 1
    assert (drawn.max(dim=1).values - drawn.min(dim=1).values).max() <= 0.16 + 1e-6
    assert drawn.mean(dim=1).std() > 0.15


def test_random_streams_differ_between_names_and_seeds():
    def draw(seed: int, name: str) -> float:
        return torch.rand((), generator=random_streams(seed, name)[name]).item()

    assert draw(0, "cameras") == draw(0, "cameras")
    assert len({draw(0, "cameras"), draw(0, "guidance"), draw(1, "cameras")}) == 3


def test_draws_inside_undisturbed_change_no_stream():
    streams = random_streams(0, "cameras")
    expected = torch.rand(3, generator=random_streams(0, "cameras")["cameras"])
    with undisturbed(streams):
        torch.rand(5, generator=streams["cameras"])
    torch.testing.assert_close(torch.rand(3, generator=streams["cameras"]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("space", ["image", "latent"])
def test_resuming_from_a_checkpoint_is_bit_identical(space: Any):
    config = OptimizerConfig()
    prior = GaussianPrior({"a ball": Gaussian(0.7, 0.2), "": Gaussian(0.4, 0.2)}, (3, SIZE, SIZE), n_views=4, rho=0.5)
    rule = MultiView(MultiViewConfig(space=space), prior)

    def fresh() -> tuple[VoxelGridScene, dict[str, torch.Generator]]:
        streams = random_streams(3, "cameras", "guidance", "scene")
        return VoxelGridScene(VoxelGridConfig(resolution=12, samples=16, warmup=2), streams["scene"]), streams

    straight, streams = fresh()
    state = start(straight, config, streams)
    run(straight, prior, rule, steps=12, state=state)
    expected = pack(straight, [rule], state)

    first, streams = fresh()
    state = start(first, config, streams)
    run(first, prior, rule, steps=12, stop=5, state=state)
    checkpoint = pack(first, [rule], state)

    second, streams = fresh()
    state = resume(checkpoint, second, [rule], config, streams)
    assert state.step == 5
    run(second, prior, rule, steps=12, stop=7, state=state)
    actual = pack(second, [rule], state)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def test_phases_change_the_renders_and_nothing_else():
    """Views and size change, the rule's noise and Adam's moments go on, and a resumed run does the same."""
    config, prior = OptimizerConfig(), gaussian_prior()
    cameras = CameraConfig(views=4, size=8, phases=({"at": 0.4, "size": SIZE, "views": 2}, {"at": 0.7, "views": 3}))

    def fresh() -> tuple[VoxelGridScene, CFD, dict[str, torch.Generator]]:
        streams = random_streams(3, "cameras", "guidance", "scene")
        grid = VoxelGridConfig(resolution=12, samples=16, warmup=2)
        return VoxelGridScene(grid, streams["scene"]), CFD(CFDConfig(gamma=0.1), prior), streams

    straight, rule, streams = fresh()
    state = start(straight, config, streams)
    steps = run(straight, prior, rule, steps=11, state=state, cameras=cameras)
    shapes = [tuple(step.rendering.rgb.shape[:2]) for step in steps]
    assert shapes == [(4, 8)] * 4 + [(2, SIZE)] * 3 + [(3, SIZE)] * 4
    assert [len(step.guided.t) for step in steps] == [4] * 4 + [2] * 3 + [3] * 4
    expected = pack(straight, [rule], state)
    assert float(expected["optimizer/0/step"]) == 11
    for stop in (4, 5, 8):
        first, rule, streams = fresh()
        state = start(first, config, streams)
        run(first, prior, rule, steps=11, stop=stop, state=state, cameras=cameras)
        checkpoint = pack(first, [rule], state)
        second, rule, streams = fresh()
        state = resume(checkpoint, second, [rule], config, streams)
        run(second, prior, rule, steps=11, state=state, cameras=cameras)
        actual = pack(second, [rule], state)
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[key], value) for key, value in expected.items())


class Broken(Canvas):
    """A scene with a fault at one step."""

    def __init__(self, fault: str, at: int) -> None:
        super().__init__()
        self.fault, self.at, self.seen = fault, at, 0

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        self.seen += 1
        rendering = super().render(cameras, background)
        if self.fault == "render" and self.seen == self.at:
            return Rendering(rendering.rgb * float("nan"), rendering.alpha, rendering.depth, rendering.normal)
        return rendering

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        if self.seen == self.at:
            if self.fault == "loss":
                return {"opacity": rendering.rgb.sum() * float("inf")}
            if self.fault == "gradient":
                return {"flat": rendering.rgb.sum() * 1e12}
        return super().regularisers(rendering, progress)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("render", "the render"), ("loss", '"opacity"'), ("gradient", "norm is ")],
)
def test_numerical_faults_stop_with_the_last_good_state(fault: str, message: str):
    prior = gaussian_prior()
    rule = SDS(SDSConfig(), prior)
    good = Canvas()
    good_state = start(good, OptimizerConfig(), random_streams(0, "cameras", "guidance"))
    run(good, prior, rule, steps=6, stop=3, state=good_state)

    broken = Broken(fault, at=4)
    state = start(broken, OptimizerConfig(), random_streams(0, "cameras", "guidance"))
    with pytest.raises(NumericalError, match=rf"step 4: .*{message}"):
        run(broken, prior, rule, steps=6, state=state)
    expected, actual = pack(good, [rule], good_state), pack(broken, [rule], state)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], value) for key, value in expected.items())


@pytest.mark.parametrize("kind", ["gradient", "target"])
def test_a_rule_that_is_not_finite_stops_the_run(kind: str):
    shape = (4, 3, SIZE, SIZE) if kind == "gradient" else (4, SIZE, SIZE, 3)
    rule = GradientRule(**{kind: torch.full(shape, float("nan"))})
    with pytest.raises(NumericalError, match="step 1: the "):
        run(Canvas(), gaussian_prior(), rule)


class Parted(Canvas):
    """A scene with a part for each factor on its picture."""

    def __init__(self, factors: Sequence[float]) -> None:
        super().__init__()
        self.factors, self.factor = factors, 1.0

    def parts(self) -> Iterator[float]:
        for factor in self.factors:
            self.factor = factor
            yield 1 / len(self.factors)

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        seen = super().render(cameras, background)
        return Rendering(self.factor * seen.rgb, seen.alpha, seen.depth, seen.normal)

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        return {"bright": rendering.rgb.square().sum() / len(rendering.rgb)}


@pytest.mark.parametrize("kind", ["gradient", "target"])
def test_the_gradient_of_a_step_is_the_mean_over_its_parts(kind: str):
    """One step with three parts against a step of each of them alone."""
    shape = (4, 3, SIZE, SIZE) if kind == "gradient" else (4, SIZE, SIZE, 3)
    value = torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def step_of(*factors: float) -> tuple[Tensor, Step]:
        scene = Parted(factors)
        (step,) = run(scene, gaussian_prior(), GradientRule(**{kind: value}), steps=1)
        assert scene.rgb.grad is not None
        return scene.rgb.grad, step

    whole, step = step_of(1.0, 0.5, 0.2)
    alone = [step_of(factor) for factor in (1.0, 0.5, 0.2)]
    torch.testing.assert_close(whole, torch.stack([gradient for gradient, _ in alone]).mean(0))
    for name, loss in step.losses.items():
        assert loss == pytest.approx(sum(float(other.losses[name]) for _, other in alone) / 3)


class Plane(Canvas):
    """A picture that renders in the cameras' size, with a regulariser that sums over pixels as those of scenes do."""

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        whole = super().render(cameras, background)
        n = SIZE // cameras.height
        parts = (picture[:, ::n, ::n] for picture in (whole.rgb, whole.alpha, whole.depth, whole.normal))
        return Rendering(*parts)

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        return {"dark": rendering.alpha.shape[1] ** 2 * rendering.rgb.mean()}


def test_coarse_renders_and_large_pictures_change_no_weight() -> None:
    """Losses are sums over the pixels of full-size renders, whatever the size of a step's renders or the prior's."""
    losses = {}
    for name, cameras, size in (
        ("plain", CameraConfig(size=SIZE), SIZE),
        ("coarse", CameraConfig(size=SIZE, coarse_size=8, coarse_until=0.5), SIZE),
        ("large", CameraConfig(size=SIZE), 2 * SIZE),
    ):
        rule = GradientRule(target=torch.full((4, size, size, 3), 0.7))
        steps = run(Plane(lr=0.0), gaussian_prior(size=size), rule, steps=4, cameras=cameras)
        losses[name] = [step.losses for step in steps]
        heights = [step.rendering.rgb.shape[1] for step in steps]
        assert heights == ([8, 8, SIZE, SIZE] if name == "coarse" else [SIZE] * 4)
    expected = {"dark": SIZE**2 * 0.5, "image": 0.5 * 3 * SIZE**2 * 0.2**2}
    assert all(step == pytest.approx(expected, rel=1e-4) for steps in losses.values() for step in steps)
