"""Several teachers: gradients that add up at the render, checkpoints, joint calls, and two models on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras
from sds3d.config import ConfigError, dump_yaml
from sds3d.guidance.base import Guided, Views
from sds3d.guidance.ism import ISM, ISMConfig
from sds3d.guidance.multiview import MultiView, MultiViewConfig
from sds3d.guidance.schedules import SqrtSchedule
from sds3d.guidance.sds import SDS, SDSConfig
from sds3d.guidance.transforms import Normalize, PixelClip
from sds3d.guidance.vsd import VSD, VSDConfig
from sds3d.jobs.queue import enqueue
from sds3d.jobs.worker import Worker
from sds3d.priors.base import Prediction, add_noise, expand
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning
from sds3d.ramps import Ramp
from sds3d.rendering.resizing import resize
from sds3d.representations.base import Rendering
from sds3d.run.config import make_config, new_run
from sds3d.run.drive import Priors, drive
from sds3d.run.folder import Run, read_checkpoint
from sds3d.run.lessons import Teacher, drawn_views
from sds3d.run.optimize import OptimizerConfig, Setup, Step, optimize, random_streams, start
from tests.run.scenes import SIZE, Canvas, encoded, gaussian_prior
from tests.run.test_optimize import GradientRule
from tests.run.tiny_runs import disc, same, tiny


def taught(scene: Any, *teachers: Teacher, steps: int = 1, views: int = 4) -> list[Step]:
    """Let the teachers optimise a scene."""
    names = ["guidance", *(f"guidance_{i + 1}" for i in range(1, len(teachers)))]
    state = start(scene, OptimizerConfig(), random_streams(0, "cameras", *names))
    setup = Setup(scene, teachers, steps, CameraConfig(views=views, size=SIZE), OptimizerConfig())
    return list(optimize(setup, state))


def teacher(rule: Any, prior: GaussianPrior | None = None, **options: Any) -> Teacher:
    prior = prior or gaussian_prior()
    return Teacher(prior, rule, encoded(prior), **options)


def random_gradient(batch: int = 4, size: int = SIZE, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def gradient_of(canvas: Canvas) -> Tensor:
    assert canvas.rgb.grad is not None
    return canvas.rgb.grad


def test_two_teachers_are_one_with_the_sum_of_the_weights():
    """ISM draws nothing but t, and with this schedule t is the same for both."""
    prior = gaussian_prior()

    def ism(weight: float) -> Teacher:
        return teacher(ISM(ISMConfig(schedule=SqrtSchedule()), prior), prior, weight=Ramp(weight))

    both, one = Canvas(), Canvas()
    taught(both, ism(0.3), ism(1.1), steps=5)
    taught(one, ism(1.4), steps=5)
    torch.testing.assert_close(both.rgb, one.rgb, atol=1e-6, rtol=1e-6)
    assert (one.rgb - 0.5).abs().min() > 0.01


def test_weighted_gradients_add_up_and_targets_in_pixels_do_too():
    scene, first, second = Canvas(), random_gradient(seed=1), random_gradient(seed=2)
    target = torch.full((4, SIZE, SIZE, 3), 0.9)
    steps = taught(
        scene,
        teacher(GradientRule(first)),
        teacher(GradientRule(second), weight=Ramp(0.25)),
        teacher(GradientRule(target=target), weight=Ramp(3.0)),
    )
    pulled = 3.0 * (0.5 - 0.9)  # of 1/2 |rgb - target|^2; the scene is opaque, so the background has no part in it
    expected = (first + 0.25 * second).mean(dim=0).permute(1, 2, 0) + pulled
    torch.testing.assert_close(gradient_of(scene), expected)
    assert steps[0].losses == {"flat": 0.0, "image_3": pytest.approx(3.0 * 0.5 * 3 * SIZE**2 * 0.4**2, rel=1e-5)}


def test_each_teacher_sees_the_renders_at_the_size_of_its_prior():
    class Sizes(GradientRule):
        def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
            assert x.shape == (4, 3, 6, 6)
            assert views.rgb.shape == (4, 6, 6, 3)
            return super().__call__(x, views, progress, generator)

    scene, large, small = Canvas(), random_gradient(), random_gradient(size=6)
    taught(scene, teacher(GradientRule(large)), teacher(Sizes(small), gaussian_prior(size=6)))
    rgb = torch.zeros(4, SIZE, SIZE, 3, requires_grad=True)
    seed = small.permute(0, 2, 3, 1)
    (adjoint,) = torch.autograd.grad(resize(rgb, 6), rgb, seed)
    torch.testing.assert_close(gradient_of(scene), large.mean(dim=0).permute(1, 2, 0) + adjoint.mean(dim=0))


class ByView(Canvas):
    """A scene with a picture of its own for each of 4 views."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb = torch.nn.Parameter(torch.full((4, SIZE, SIZE, 3), 0.5))

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        alpha = torch.ones(4, SIZE, SIZE, 1)
        return Rendering(self.rgb, alpha, alpha, self.rgb)


def test_a_teacher_of_one_view_gives_it_the_whole_gradient():
    """The gradient is averaged over the views that a teacher sees, here one of four."""
    seen: list[float] = []

    class One(GradientRule):
        def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
            assert len(x) == len(views.cameras) == len(views.rgb) == len(views.alpha) == 1
            seen.append(views.cameras.azimuth.item())
            return super().__call__(x, views, progress, generator)

    scene, gradient = ByView(), random_gradient(1)
    (step,) = taught(scene, teacher(GradientRule(torch.zeros(4, 3, SIZE, SIZE))), teacher(One(gradient), views=1))
    row = step.cameras.azimuth.tolist().index(seen[0])
    expected = torch.zeros(4, SIZE, SIZE, 3)
    expected[row] = gradient[0].permute(1, 2, 0)
    torch.testing.assert_close(gradient_of(scene), expected)


def test_views_are_drawn_in_whole_groups_and_equally_often():
    generator = torch.Generator().manual_seed(0)
    drawn = [drawn_views(8, 2, 2, generator) for _ in range(400)]
    counts = Counter(tuple(rows.tolist()) for rows in drawn if rows is not None)
    assert counts.keys() == {(0, 1), (2, 3), (4, 5), (6, 7)}
    assert min(counts.values()) > 70  # of 100; the standard deviation is 9
    for all_of_them in (None, 8, 9):
        assert drawn_views(8, all_of_them, 2, generator) is None
    with pytest.raises(ValueError, match="2 views together and got 3"):
        drawn_views(8, 3, 2, generator)


def test_transforms_change_only_their_teachers_gradient():
    scene, first, second = Canvas(), random_gradient(seed=1), random_gradient(seed=2)
    clip, normal = PixelClip(limit=0.1), Normalize(rms=Ramp(2.0))
    taught(
        scene,
        teacher(GradientRule(first), transforms=[normal]),
        teacher(GradientRule(second), transforms=[clip], weight=Ramp(0.5)),
    )
    clipped = clip.on_picture(second.permute(0, 2, 3, 1), 0.0)
    expected = normal.on_x(first, 0.0).permute(0, 2, 3, 1) + 0.5 * clipped
    torch.testing.assert_close(gradient_of(scene), expected.mean(dim=0), atol=1e-6, rtol=1e-5)


def test_a_teacher_is_not_asked_while_its_weight_is_zero():
    asked: list[float] = []

    class Asked(GradientRule):
        def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
            asked.append(progress)
            return super().__call__(x, views, progress, generator)

    ramp = Ramp(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0)))
    rule = Asked(random_gradient())
    taught(Canvas(), teacher(GradientRule(random_gradient())), teacher(rule, weight=ramp), steps=5)
    assert asked == [0.5, 0.75, 1.0]


def test_metrics_carry_the_teachers_number():
    class Measured(GradientRule):
        def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
            zeros = torch.zeros_like(x)
            return Guided(t=torch.ones(len(x)), gradient=zeros, metrics={"t": 1.0}, learn=lambda: {"loss": 3.0})

    (step,) = taught(Canvas(), teacher(Measured()), teacher(Measured()))
    assert step.guided.metrics == {"t": 1.0, "loss": 3.0, "t_2": 1.0, "loss_2": 3.0}


def test_coupled_score_distillation_is_two_teachers():
    """The released losses: 1/2 of a sum of squares for VSD at one view, and lambda = 0.5 times a quarter of the sum of
    squares for SDS of the multi-view model at all four. They have their own timesteps and noise.
    """
    prompts = {"a ball": Gaussian(0.7, 0.2), "": Gaussian(0.4, 0.3)}
    joint = GaussianPrior(prompts, (3, SIZE, SIZE), n_views=4, rho=0.5)
    single = GaussianPrior({"a ball": Gaussian(0.6, 0.4), "": Gaussian(0.4, 0.3)}, (3, SIZE, SIZE))
    sds, vsd = SDS(SDSConfig(scale=7.5), joint), VSD(VSDConfig(scale=7.5), single)
    scene = ByView()
    (step,) = taught(scene, teacher(sds, joint), teacher(vsd, single, views=1))

    x = scene.rgb.detach().permute(0, 3, 1, 2).clone().fill_(0.5).requires_grad_()
    cameras, streams = step.cameras, random_streams(0, "guidance", "guidance_2")
    t = (0.02 + 0.96 * torch.rand(1, generator=streams["guidance"])).expand(4)
    noise = torch.randn(x.shape, generator=streams["guidance"])

    def guided(prior: GaussianPrior, x_t: Tensor, t: Tensor, seen: Cameras) -> Tensor:
        text, null = (prior.predict(x_t, t, prior.encode_text([p] * len(x_t)), seen).eps for p in ("a ball", ""))
        return null + 7.5 * (text - null)

    several = expand(joint.sigma(t) ** 2, x) * (
        guided(joint, add_noise(joint, x.detach(), noise, t), t, cameras) - noise
    )
    row = torch.randperm(4, generator=streams["guidance_2"])[:1]
    t = 0.02 + 0.96 * torch.rand(1, generator=streams["guidance_2"])
    noise = torch.randn(1, 3, SIZE, SIZE, generator=streams["guidance_2"])
    x_t = add_noise(single, x[row].detach(), noise, t)
    phi = single.trainable_score(torch.Generator().manual_seed(0), 4)
    of_renders = phi.predict(x_t, t, single.encode_text(["a ball"]), cameras[row]).eps.detach()
    one = expand(single.sigma(t) ** 2, x_t) * (guided(single, x_t, t, cameras[row]) - of_renders)
    loss = 0.5 * (x[row] - (x[row] - one).detach()).square().sum()
    loss = loss + 0.5 * (x - (x - several).detach()).square().sum() / 4
    (expected,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient_of(scene), expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-4)


def test_a_multiview_teacher_needs_whole_groups():
    prior = GaussianPrior({"a ball": Gaussian(0.7, 0.2), "": Gaussian(0.4, 0.2)}, (3, 8, 8), n_views=4, rho=0.5)
    with pytest.raises(ValueError, match="4 views together and got 2"):
        taught(Canvas(), teacher(MultiView(MultiViewConfig(), prior), prior), views=2)


SECOND = {
    "prior": {"multiview": False},  # told from the first by its settings
    "guidance": {"name": "vsd", "scale": 3.0, "variational": {"lr": 0.01}},
    "gradient": [{"name": "normalize"}],
    "weight": [[0.0, 1.0], [1.0, 0.2]],
    "views": 1,
}


def small_disc() -> GaussianPrior:
    """Return a prior of a disc with 8 x 8 pixels."""
    axis = torch.linspace(-1, 1, 8)
    picture = (1 - 0.7 * (axis[:, None] ** 2 + axis**2 < 0.4).float()).expand(3, 8, 8)
    return GaussianPrior({"a ball": Gaussian(picture, 0.1), "": Gaussian(0.5, 0.3)}, (3, 8, 8))


def drive_to(run: Run, stop: int | None = None) -> None:
    for step in drive(run, threads=1, load=lambda wanted: [disc(), small_disc()][: len(wanted)]):
        if step.step == stop:
            run.request("pause")


def test_a_resumed_run_is_bit_identical(tmp_path: Path):
    config = tiny(teachers=[SECOND])
    straight, resumed = new_run(tmp_path / "a", config), new_run(tmp_path / "b", config)
    drive_to(straight)
    drive_to(resumed, stop=5)
    assert resumed.state.status == "paused"
    drive_to(resumed)
    assert same(straight, resumed)
    state = read_checkpoint(straight.checkpoints[0])
    assert any(key.startswith("guidance_2/score/") for key in state)
    assert "generator/guidance_2" in state
    alone = new_run(tmp_path / "c", tiny())
    drive_to(alone)
    assert not torch.equal(read_checkpoint(alone.checkpoints[0])["scene/density"], state["scene/density"])


def test_memory_settings_of_a_teacher_may_change(tmp_path: Path):
    run = new_run(tmp_path, tiny(teachers=[SECOND]))
    drive_to(run, stop=4)
    lean = SECOND | {"prior": {"multiview": False, "chunk": 1}}
    run.config_path.write_text(dump_yaml(tiny(teachers=[lean])))
    drive_to(run)
    assert run.state.status == "done"


def test_priors_with_equal_settings_are_loaded_once():
    config = tiny(teachers=[SECOND, {"prior": {}}])
    wanted = [one.prior for one in config.all_teachers]
    priors = Priors(torch.device("cpu"))
    first, second, third = priors.load(wanted)
    assert first is third
    assert (first.n_views, second.n_views) == (4, 1)
    assert priors.load(wanted[1:]) == [second, first]
    assert priors.load(wanted[1:2]) == [second]
    assert len(priors.held) == 1
    assert priors.load(wanted[:1]) == [first]  # still used here, so it is not loaded again


class Counting(GaussianPrior):
    """Counts the calls."""

    calls: int = 0

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        self.calls += 1
        return super().predict(x_t, t, cond, cameras)


def test_runs_together_join_the_calls_of_each_teacher(tmp_path: Path):
    def priors() -> list[Counting]:
        return [Counting(one.prompts, one.shape) for one in (disc(), small_disc())]

    def made(root: Path, worker: Worker, counted: Sequence[Counting], several: bool) -> list[Run]:
        second = SECOND | {"guidance": "sds"}
        settings = [one.prior for one in tiny(teachers=[second]).all_teachers]
        worker._priors = Priors(torch.device("cpu"), list(zip(settings, counted, strict=True)))
        runs = [new_run(root, tiny(teachers=[second], seed=seed, steps=3)) for seed in range(2)]
        for run in runs:
            enqueue(run)
        for group in [runs] if several else [[run] for run in runs]:
            worker.carry_out(group)
        return runs

    apart, joint = priors(), priors()
    ours = made(tmp_path / "joint", Worker("cpu", 1), joint, several=True)
    theirs = made(tmp_path / "apart", Worker("cpu", 1), apart, several=False)
    assert [2 * one.calls for one in joint] == [one.calls for one in apart]
    for a, b in zip(ours, theirs, strict=True):
        assert a.state.status == b.state.status == "done"
        mine, other = read_checkpoint(a.checkpoints[0]), read_checkpoint(b.checkpoints[0])
        torch.testing.assert_close(mine["scene/density"], other["scene/density"], atol=1e-4, rtol=1e-4)


def test_settings():
    config = make_config("a red mug", "toybox", ["teachers=[{prior: {multiview: false}, guidance: sds, views: 1}]"])
    (further,) = config.teachers
    assert (further.weight, further.views) == (Ramp(1), 1)
    assert further.guidance == SDSConfig()
    assert further.prior == DiffusersConfig(multiview=False)
    assert [one.guidance for one in config.all_teachers] == [config.guidance, further.guidance]
    for wrong, reason in (
        ("[{weight: -1}]", "teachers.0.weight"),
        ("[{views: 0}]", "teachers.0.views"),
        ("[{guidance: {name: sds, scael: 3}}]", 'did you mean "teachers.0.guidance.scale"'),
        ("[{guidance: sdss}]", 'did you mean "sds"'),
    ):
        with pytest.raises(ConfigError, match=reason):
            make_config("a red mug", "toybox", [f"teachers={wrong}"])


def test_renders_of_latents_have_one_prior():
    latents = {"representation": {"name": "hash_nerf", "latent_channels": 4}}
    with pytest.raises(ConfigError, match="renders latents"):
        tiny(**latents, teachers=[{"prior": {"multiview": False}}])
