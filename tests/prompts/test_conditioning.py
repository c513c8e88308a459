"""What a prior is told: rows of texts, pictures and structure together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sds3d.files import PriorError
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from sds3d.prompts.conditioning import Conditioning, Structure
from sds3d.prompts.perp_neg import between
from sds3d.prompts.prompt import PromptConfig, encode_texts, prompt_texts


def told(rows: int, seed: int = 0) -> Conditioning:
    draws = torch.Generator().manual_seed(seed)
    depth, normal, alpha, light = (torch.rand(rows, 5, 6, *end, generator=draws) for end in ((), (3,), (), (9,)))
    hidden, pooled, pictures = (torch.rand(rows, *shape, generator=draws) for shape in ((7, 8), (9,), (2, 3)))
    return Conditioning(hidden, pooled, pictures, Structure(depth, normal, alpha, light))


def text(rows: int, seed: int = 0) -> Conditioning:
    cond = told(rows, seed)
    return Conditioning(cond.hidden, cond.pooled)


def assert_equal(actual: Conditioning, expected: dict[str, torch.Tensor]) -> None:
    assert actual.tensors().keys() == expected.keys()
    for name, value in actual.tensors().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 0, 2])], ids=["slice", "places"])
def test_rows_repeats_and_joints_keep_every_part(rows: slice | torch.Tensor):
    cond, other = told(4), told(2, seed=1)
    assert set(cond.tensors()) == {"hidden", "pooled", "pictures", "depth", "normal", "alpha", "light"}
    assert_equal(cond[rows], {name: value[rows] for name, value in cond.tensors().items()})
    assert_equal(cond.repeat(3), {name: torch.cat([value] * 3) for name, value in cond.tensors().items()})
    joined = {name: torch.cat([value, other.tensors()[name]]) for name, value in cond.tensors().items()}
    assert_equal(Conditioning.cat([cond, other]), joined)
    assert_equal(Conditioning.of(cond.tensors()), cond.tensors())


def test_a_part_without_pictures_gets_zeros_beside_one_with_pictures():
    shown, null = told(2), replace(text(3, seed=1), structure=told(3, seed=1).structure)
    for parts, at in (([shown, null], slice(2, 5)), ([null, shown], slice(0, 3))):
        pictures = Conditioning.cat(parts).pictures
        assert pictures is not None
        assert torch.equal(pictures[at], torch.zeros(3, 2, 3))
        assert torch.equal(pictures[pictures.abs().sum(dim=(1, 2)) > 0], shown.tensors()["pictures"])


def test_structure_of_only_some_rows_is_refused():
    with pytest.raises(ValueError, match="only some of the conditions have alpha, depth, light, normal: give it"):
        Conditioning.cat([told(2), text(2)])


def test_texts_between_views_blend_the_pictures_too():
    first, second = told(2), told(2, seed=1)
    blended = between(first, second, torch.tensor([1.0, 0.25])).tensors()["pictures"]
    ours, theirs = (cond.tensors()["pictures"] for cond in (first, second))
    assert torch.allclose(blended[0], ours[0])
    assert torch.allclose(blended[1], 0.25 * ours[1] + 0.75 * theirs[1])


def test_the_picture_stands_beside_the_prompt_alone():
    prior = GaussianPrior({text: Gaussian(0.0, 1.0) for text in ("y", "bad", "")}, (3, 4, 4))
    pictures = torch.rand(1, 2, 3)
    texts = prompt_texts("y", PromptConfig(negative="bad", view_dependent=True))
    prompt = encode_texts(prior, texts, pictures)
    assert torch.equal(prompt.plain.tensors()["pictures"], pictures)
    assert torch.equal(prompt.views.tensors()["pictures"], pictures.repeat(4, 1, 1))
    assert prompt.negative.pictures is None
    assert prompt.null.pictures is None


def test_a_prior_refuses_what_it_does_not_take():
    prior = GaussianPrior({"": Gaussian(0.0, 1.0)}, (3, 4, 4))
    null, x, t = prior.encode_text([""]), torch.zeros(1, 3, 4, 4), torch.ones(1)
    with pytest.raises(PriorError, match="takes no pictures"):
        prior.predict(x, t, Conditioning(null.hidden, pictures=torch.zeros(1, 2, 3)), None)
    with pytest.raises(PriorError, match="takes no depth or normals"):
        prior.predict(x, t, Conditioning(null.hidden, structure=told(1).structure), None)
    with pytest.raises(PriorError, match="takes no pictures"):
        prior.encode_picture(torch.zeros(1, 4, 4, 3))
