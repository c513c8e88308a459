"""Optimised 2D pictures in the real loop: fixed points of the exact prior, and the command with the embedded prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.cli.main import main
from sds3d.config import ConfigError
from sds3d.evaluation.playground2d import FromTheFront, Pictures, draw, rule_config, rule_names
from sds3d.geometry.mesh import EmptySurfaceError
from sds3d.guidance.base import Guidance, Guided, Views
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.guidance.views import views_of

M, NULL, STD = 0.5, 0.45, 0.15


def exact() -> GaussianPrior:
    ramp = torch.linspace(-0.1, 0.1, 3 * 8 * 8).reshape(3, 8, 8)
    return GaussianPrior({"y": Gaussian(M + ramp, STD), "": Gaussian(NULL + ramp, STD)})


@pytest.mark.parametrize("space", ["latents", "pixels"])
def test_sds_ends_at_its_fixed_point(space):
    """m + (S - 1) (m - m_null) in every value, up to the noise of the last steps."""
    config = rule_config("sds", "y", ["guidance.scale=3", "steps=400", "optimizer.final=0.01"])
    drawn = draw(exact(), config, count=4, space=space)
    assert drawn.shape == (4, 8, 8, 3)
    ramp = torch.linspace(-0.1, 0.1, 3 * 8 * 8).reshape(3, 8, 8).permute(1, 2, 0).numpy()
    expected = M + 2 * (M - NULL) + ramp
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.005)
    np.testing.assert_allclose(drawn.mean(axis=0), expected, atol=0.06)


@pytest.mark.slow
def test_the_flow_keeps_the_spread_that_sds_loses():
    cfd = ["guidance.scale=1", "guidance.schedule={name: piecewise, knots: [[0, .98, .98], [1, .02, .02]]}"]
    sds = ["guidance.scale=1"]
    common = ["steps=300", "guidance.weighting=lambda"]
    spread = {}
    for name, settings in (("cfd", cfd), ("sds", sds)):
        drawn = draw(exact(), rule_config(name, "y", [*settings, *common, "optimizer.final=0.05"]), count=4)
        spread[name] = drawn.std(axis=0).mean()  # between the pictures
    assert spread["cfd"] > 0.7 * STD
    assert spread["sds"] < 0.5 * spread["cfd"]


def test_one_seed_one_picture_and_presets_are_rules():
    config = rule_config("cfd-sde", "y", ["steps=5"])
    assert config.guidance.model_dump()["gamma"] > 0
    first, again = (draw(exact(), config, count=2) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, draw(exact(), config.model_copy(update={"seed": 1}), count=2))


def test_a_rules_name_selects_the_settings_of_its_paper():
    names = rule_names()
    assert len(names) >= 20
    for name in names:
        config = rule_config(name, "y")
        assert config.guidance == type(config.guidance)()
        assert not config.gradient
    assert rule_config("cfd-ode", "y").guidance != rule_config("cfd", "y").guidance  # a preset


def test_steps_of_latents_decode_nothing():
    prior, decoded = exact(), []
    decode = prior.decode

    def counting(x: Tensor) -> Tensor:
        decoded.append(len(x))
        return decode(x)

    prior.decode = counting
    draw(prior, rule_config("sds", "y", ["steps=3"]), count=2)
    assert decoded == [2]  # the result


def test_a_rule_with_only_an_image_target_needs_pixels():
    class Bright(Guidance):
        def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
            assert (views.cameras.azimuth == 0).all()
            assert (views.cameras.elevation == 0).all()
            return Guided(t=torch.zeros(len(x)), image_target=torch.ones_like(views.rgb))

    x, views = torch.zeros(3, 3, 8, 8), views_of(exact(), 3)
    assert FromTheFront(Bright(), "pixels")(x, views, 0.0, torch.Generator()).image_target is not None
    with pytest.raises(ValueError, match="--space pixels"):
        FromTheFront(Bright(), "latents")(x, views, 0.0, torch.Generator())


def test_the_multiview_rule_works_in_either_space():
    config = rule_config("multiview", "y", ["guidance.scale=1", "guidance.rescale=0", "steps=200"])
    for space in ("latents", "pixels"):
        assert draw(exact(), config, space=space).mean() == pytest.approx(M, abs=0.05)


def test_pictures_are_a_scene_of_the_loop():
    scene = Pictures(exact(), 3, "pixels")
    rendering = scene.render(turntable(3, size=8), torch.ones(3))
    assert rendering.rgb.shape == (3, 8, 8, 3)
    assert (rendering.alpha == 1).all()
    other = Pictures(exact(), 3, "pixels")
    with torch.no_grad():
        scene.values += 0.1
    other.load_state_dict(scene.state_dict())
    assert torch.equal(other.values, scene.values)
    with pytest.raises(EmptySurfaceError):
        scene.to_mesh(16)


def test_wrong_names_get_the_nearest():
    with pytest.raises(ConfigError, match=r'no rule or preset "cfd-odd"; did you mean "cfd-ode"'):
        rule_config("cfd-odd", "y")
    with pytest.raises(ConfigError, match=f"use all, or some of: {', '.join(rule_names())}$"):
        rule_config("qqqqqq", "y")
    with pytest.raises(ConfigError, match=r'rule sds: unknown key "guidance.scal"; did you mean "guidance.scale"'):
        rule_config("sds", "y", ["guidance.scal=2"])


def test_the_command_writes_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["playground2d", "a red mug", "--rule", "sds", "--rule", "cfd-ode", "--pictures", "2", "--steps", "2"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--threads", "1", "--out", str(tmp_path)])
    assert stop.value.code == 0
    for name in ("sds", "cfd-ode"):
        assert Image.open(tmp_path / f"{name}.png").size == (128, 64)
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > 2 * 128  # two columns ...
    assert height > 2 * 128  # ... and a row for each picture
    assert f"{tmp_path / 'sheet.png'}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["playground2d", "a red mug", "--space", "latent"])
    assert stop.value.code == 1
    assert "use one of: latents, pixels" in capsys.readouterr().err
