"""Checks of settings against the loaded priors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.config import ConfigError, build, merge
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.run.checks import prior_problems
from sds3d.run.config import RunConfig, new_run
from sds3d.run.drive import drive
from tests.run.tiny_runs import SIZE, TINY, disc, tiny


def prior_of(size: int = SIZE, channels: int = 3, n_views: int = 1) -> GaussianPrior:
    known = {"a ball": Gaussian(0.7, 0.2), "": Gaussian(0.4, 0.2)}
    return GaussianPrior(known, (channels, size, size), n_views=n_views, rho=0.5 if n_views > 1 else 0.0)


def problems(loaded: GaussianPrior, **changes: Any) -> list[str]:
    return prior_problems(tiny(**changes), [loaded])


def test_settings_that_suit_the_prior_have_no_problems():
    assert problems(prior_of()) == []
    assert problems(prior_of(n_views=4)) == []
    assert problems(prior_of(n_views=4), prompts={"view_dependent": False}) == []


def test_a_run_that_is_blind_to_the_pose_warns():
    (line,) = problems(prior_of(), prompts={"view_dependent": False})
    assert line == (
        "toybox takes no cameras and the texts have no view words, so every side becomes a front: "
        "set prompts.view_dependent=auto"
    )


def test_settings_of_view_words_warn_where_the_prior_takes_cameras_instead():
    settings = {"interpolate": True, "perp_neg": {"strength": 1.0}}
    (line,) = problems(prior_of(n_views=4), prompts=settings)
    assert line.startswith("prompts.perp_neg.strength and prompts.interpolate have no effect")
    (line,) = problems(prior_of(n_views=4), prompts={"interpolate": True})
    assert line.startswith("prompts.interpolate has no effect")
    assert problems(prior_of(n_views=4), prompts=settings | {"view_dependent": True}) == []
    assert problems(prior_of(), prompts=settings) == []


@pytest.mark.parametrize(
    ("made_for", "n_views", "wrong"),
    [("diffusers", 1, False), ("diffusers", 4, True), ("multiview", 1, True), ("multiview", 4, False), ("", 4, False)],
)
def test_priors_of_another_kind_are_named_with_a_preset_that_suits_them(made_for: str, n_views: int, wrong: bool):
    changes = {"prior": {"model": "sd21"}, "made_for": made_for, "other_presets": ["mvdream"]}
    found = problems(prior_of(n_views=n_views), **changes)
    assert [line.endswith(", not for sd21: use the preset mvdream") for line in found] == [True] * wrong


def test_views_that_a_prior_cannot_denoise_together_are_refused_in_any_phase():
    message = "a step has 6 views, but the prior denoises 4 together: make cameras.views a multiple of 4 in all phases"
    cameras = {"size": SIZE, "phases": [{"at": 0.9, "views": 6}]}
    with pytest.raises(ConfigError, match=message):
        problems(prior_of(n_views=4), cameras=cameras)
    assert problems(prior_of(), cameras=cameras) == []
    teacher = {"prior": {"model": "mvdream"}, "guidance": "sds", "views": 4}
    with pytest.raises(ConfigError, match=message):  # nobody can draw groups of 4 from 6
        prior_problems(tiny(cameras=cameras, teachers=[teacher]), [prior_of(), prior_of(n_views=4)])


def test_renders_much_larger_than_the_priors_pictures_warn():
    assert problems(prior_of(), cameras={"size": 2 * SIZE}) == []
    (line,) = problems(prior_of(), cameras={"size": 16, "phases": [{"at": 0.5, "size": 40}]})
    assert line == "renders of 40 px are reduced to the 16 px of the prior's pictures: lower cameras.size"


def test_latents_of_another_size_than_the_priors_warn():
    field = {"name": "hash_nerf", "latent_channels": 3}
    assert problems(prior_of(), representation=field) == []
    (line,) = problems(prior_of(size=24), representation=field)
    assert line == "the scene renders latents of 16 px, but the prior's have 24: set cameras.size=24"
    assert problems(prior_of(size=24), representation=field | {"refine": True}) == []


def test_a_run_tells_each_problem_once_before_its_first_step(tmp_path: Path):
    changes = {"prompts": {"view_dependent": False}, "stages": [{"share": 1}, {"share": 1}], "steps": 2}
    run = new_run(tmp_path, build(RunConfig, merge(TINY, changes)))
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="toybox takes no cameras") as told:
        assert [step.step for step in drive(run, threads=1, prior=disc())] == [1, 2]
    assert sum("takes no cameras" in str(one.message) for one in told) == 1
    log = (run.folder / "run.log").read_text()
    assert log.count("takes no cameras") == 1
    assert log.index("takes no cameras") < log.index("starting at step")
