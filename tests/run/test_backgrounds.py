from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.config import ConfigError, dump_yaml
from sds3d.representations.base import Rendering, Start
from sds3d.representations.fields_hash import hash_encode_reference
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.make import make_scene
from sds3d.run.backgrounds import (
    STREAM,
    Environment,
    LearnedBackground,
    RandomBackground,
    SolidBackground,
    behind_views,
    harmonics,
    make_environment,
    render_over,
)
from sds3d.run.config import make_config, new_run, run_config
from sds3d.run.folder import read_checkpoint
from sds3d.run.outputs import load_scene
from tests.run.tiny_runs import finish, same, tiny

GREY = torch.tensor([0.4, 0.5, 0.6])


def streams(seed: int = 0) -> dict[str, torch.Generator]:
    return {STREAM: torch.Generator().manual_seed(seed)}


def environment(seed: int = 0, **settings: Any) -> Environment:
    made = make_environment(LearnedBackground(**settings), 0, streams(seed), "cpu")
    assert made is not None
    return made


def drawn(config: Any, views: int = 4, steps: int = 400) -> list[Tensor]:
    generators = streams()
    return [behind_views(config, None, turntable(views, size=8), GREY, generators) for _ in range(steps)]


def test_harmonics_are_orthonormal_polynomials_of_degree_two():
    # Gauss-Legendre in z and equal steps in the azimuth integrate products of degree 4 exactly.
    z, weight = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(5))
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    r = (1 - z**2).sqrt()[:, None]
    points = torch.stack([r * angle.cos(), r * angle.sin(), z[:, None].expand(-1, 8)], dim=-1)
    area = (weight * 2 * math.pi / 8)[:, None].expand(-1, 8)
    values = harmonics(points)  # (5, 8, 9)
    gram = torch.einsum("ijm,ijn,ij->mn", values, values, area)
    torch.testing.assert_close(gram, torch.eye(9, dtype=torch.float64))
    # Each band is even or odd.
    signs = torch.tensor([1.0] + 3 * [-1.0] + 5 * [1.0], dtype=torch.float64)
    torch.testing.assert_close(harmonics(-points), signs * values)


def test_without_a_setting_the_background_is_the_grey_that_was_drawn():
    generators = streams()
    before = generators[STREAM].get_state()
    assert behind_views(None, None, turntable(4), GREY, generators) is GREY
    solid = behind_views(SolidBackground(color=(0.1, 0.2, 0.3)), None, turntable(4), GREY, generators)
    assert solid.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert torch.equal(generators[STREAM].get_state(), before)


def test_random_colours_are_uniform():
    colors = torch.stack(drawn(RandomBackground(), steps=4000))
    assert colors.shape == (4000, 3)
    torch.testing.assert_close(colors.mean(0), torch.full((3,), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.corrcoef(colors.T), torch.eye(3), atol=0.06, rtol=0)
    torch.testing.assert_close(colors.var(0), torch.full((3,), 1 / 12), atol=0.005, rtol=0)


def test_white_or_black_in_each_view():
    colors = torch.stack(drawn(RandomBackground(share=0, each="view"), steps=1000))
    assert colors.shape == (1000, 4, 3)
    assert set(colors.unique().tolist()) == {0.0, 1.0}
    assert (colors == colors[..., :1]).all()
    assert colors[..., 0].mean().item() == pytest.approx(0.5, abs=0.03)
    assert (colors[:, 0] != colors[:, 1]).any()


def test_a_share_of_the_colours_is_random_and_the_rest_white():
    colors = torch.stack(drawn(RandomBackground(share=0.66, others=((1.0, 1.0, 1.0),)), steps=3000))
    white = (colors == 1).all(dim=1)
    assert white.float().mean().item() == pytest.approx(0.34, abs=0.03)


@pytest.mark.parametrize(("each", "shape"), [("step", (3,)), ("view", (4, 3))])
def test_an_environment_gives_way_to_random_colours_in_a_share_of_the_steps(each: Any, shape: tuple[int, ...]):
    config = LearnedBackground(random_share=0.5, each=each)
    around, generators = environment(), streams()
    cameras = turntable(4, size=8)
    seen = [behind_views(config, around, cameras, GREY, generators) for _ in range(600)]
    pictures = [behind for behind in seen if behind.ndim == 4]
    assert len(pictures) == pytest.approx(300, abs=40)
    assert pictures[0].shape == (4, 8, 8, 3)
    assert {tuple(behind.shape) for behind in seen if behind.ndim < 4} == {shape}


def test_an_environment_has_one_colour_in_each_direction_whatever_the_camera():
    around = environment(3)
    front, zoomed = orbit([20.0], 10.0, fovy=60.0, size=9), orbit([20.0], 10.0, distance=5.0, fovy=20.0, size=9)
    pictures = [around(cameras.rays()[1]) for cameras in (front, zoomed)]
    assert ((pictures[0] > 0) & (pictures[0] < 1)).all()
    torch.testing.assert_close(pictures[0][0, 4, 4], pictures[1][0, 4, 4])
    assert (pictures[0] - pictures[0][:, 4:5, 4:5]).abs().max() > 0.01
    linear = environment(3, activation="linear")(front.rays()[1])
    torch.testing.assert_close(torch.sigmoid(2 * linear - 1), pictures[0])


@pytest.mark.parametrize(
    "name", ["voxel_grid", "hash_nerf", "triplane_nerf", "tensor_nerf", "mlp_nerf", "gaussians", "mesh"]
)
def test_a_picture_behind_any_representation_is_what_a_colour_is(name: str):
    """An environment of one colour gives the render over this colour."""
    config = run_config({"prompt": "a ball", "representation": name}).representation
    scene = make_scene(config, Start(torch.Generator().manual_seed(0), 10))
    around = environment()
    with torch.no_grad():
        for weight in around.parameters():
            weight.zero_()  # sigmoid(0) = 1/2 everywhere
        cameras = turntable(2, size=16)
        expected = scene.render(cameras, torch.full((3,), 0.5))
        actual = render_over(scene, cameras, around(cameras.rays()[1]))
    torch.testing.assert_close(actual.rgb, expected.rgb, atol=1e-6, rtol=0)
    assert torch.equal(actual.alpha, expected.alpha)
    assert 0 < expected.alpha.mean() < 1


class Pane:
    """A scene of given pictures."""

    def __init__(self, rgb: Tensor, alpha: Tensor, latent: Tensor | None = None) -> None:
        self.rgb, self.alpha, self.latent = rgb, alpha, latent

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        assert not background.any()
        return Rendering(self.alpha * self.rgb, self.alpha, self.alpha, self.rgb, self.latent)


def test_gradients_of_scene_opacity_and_environment_agree_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    rgb, alpha = (torch.rand(2, 4, 4, n, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, 1))
    around = environment(1).double()
    directions = turntable(2, size=4).rays()[1].double()
    weights = [weight.detach().clone().requires_grad_() for weight in around.parameters()]

    def seen(rgb: Tensor, alpha: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip((name for name, _ in around.named_parameters()), weights, strict=True))
        behind = torch.func.functional_call(around, named, directions)
        return render_over(Pane(rgb, alpha), turntable(2, size=4), behind).rgb  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(seen, (rgb, alpha, *weights))


def test_a_hash_environment_is_a_network_of_hashed_directions():
    around = environment(encoding="hash", log2_entries=10, encoding_lr=0.02, lr=0.003)
    directions = turntable(2, size=4).rays()[1]
    colors = around(directions)
    assert around.table is not None
    encoding = hash_encode_reference((directions.reshape(-1, 3) + 1) / 2, around.table, torch.tensor([4, 16, 64, 256]))
    first, second, last = around.weights
    hidden = torch.relu(torch.relu(encoding @ first.T) @ second.T)
    torch.testing.assert_close(colors, torch.sigmoid(hidden @ last.T).reshape(2, 4, 4, 3))
    colors.sum().backward()
    assert around.table.grad is not None
    assert around.table.grad.any(dim=(1, 2)).all()
    network, table = around.parameter_groups()
    assert (network["lr"], table["lr"]) == (0.003, 0.02)
    assert [*network["params"], *table["params"]] == [*around.weights, around.table]


def test_latents_are_composited_on_learned_latents():
    config = HashNerfConfig(latent_channels=4)
    scene = make_scene(config, Start(torch.Generator().manual_seed(0), 10, latent_rgb=torch.ones(4, 3)))
    assert config.latents == 4
    assert config.model_copy(update={"refine": True}).latents == 0
    around = make_environment(LearnedBackground(), config.latents, streams(), "cpu")
    assert around is not None
    cameras = turntable(1, size=8)
    behind = around(cameras.rays()[1])
    assert behind.shape == (1, 8, 8, 4)
    with torch.no_grad():
        black, over = scene.render(cameras, torch.zeros(3)), render_over(scene, cameras, behind)
    assert black.latent is not None
    assert over.latent is not None
    torch.testing.assert_close(over.latent - black.latent, ((1 - black.alpha) * behind).permute(0, 3, 1, 2))


def test_a_run_learns_its_background_and_ends_the_same_after_a_pause(tmp_path: Path):
    config = tiny(background={"name": "learned", "random_share": 0.3, "lr": 0.01})
    straight, paused = (new_run(tmp_path / name, config) for name in ("straight", "paused"))
    finish(straight)
    finish(paused, stop=5)
    finish(paused)
    assert same(straight, paused)
    first, last = (read_checkpoint(path) for path in (straight.checkpoints[-1], straight.checkpoints[0]))
    learned = [key for key in last if key.startswith("background/")]
    assert len(learned) == 3
    assert all(not torch.equal(first[key], last[key]) for key in learned)
    # The asset is the scene alone.
    load_scene(straight, torch.device("cpu"))


def test_backgrounds_are_given_as_a_colour_a_name_or_a_section():
    def made(*overrides: str) -> Any:
        return make_config("a ball", overrides=overrides).background

    assert made() is None
    assert made("background=null") is None
    assert made("background=[0, 0.5, 1]") == SolidBackground(color=(0.0, 0.5, 1.0))
    assert made("background=learned") == LearnedBackground()
    assert made("background=learned", "background.random_share=0.5") == LearnedBackground(random_share=0.5)
    assert made("background={name: random, share: 0}") == RandomBackground(share=0)
    assert "name: random" in dump_yaml(make_config("a ball", overrides=["background=random"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("learnd", 'background.name = "learnd" is unknown; did you mean "learned"?'),
        ("5", "background = 5: give a colour such as [1, 1, 1], a name (solid, random, learned) or null"),
        ("{lr: 1}", "background = {'lr': 1}: give a colour such as [1, 1, 1], a name (solid, random, learned) or null"),
        ("[1, 1, 2]", "background.color.2 = 2: input should be less than or equal to 1"),
        ("{name: learned, lr: 0}", "background.lr = 0: input should be greater than 0"),
    ],
)
def test_other_backgrounds_are_refused_in_one_line(given: str, message: str):
    with pytest.raises(ConfigError) as refusal:
        make_config("a ball", overrides=[f"background={given}"])
    assert str(refusal.value) == message
