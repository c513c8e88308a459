"""Draws by error: their distribution against its closed form."""

import math

import pytest
import torch

from sds3d.rendering.volume import BOUND
from sds3d.representations.active_sampling import CellErrors, chances, draw


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_half_of_the_chances_are_uniform_and_half_follow_the_errors() -> None:
    torch.testing.assert_close(chances(torch.tensor([0.0, 1.0, 3.0, 4.0])), torch.tensor([2.0, 3, 5, 6]) / 16)
    assert chances(torch.zeros(5)).tolist() == pytest.approx([0.2] * 5)
    # What is not finite counts as no error, so that a broken student is drawn from like any other.
    torch.testing.assert_close(chances(torch.tensor([math.nan, 1.0, math.inf])), torch.tensor([1.0, 4, 1]) / 6)


def test_draws_have_their_probabilities() -> None:
    wanted, n = torch.tensor([0.0, 0.5, 0.125, 0.375, 0.0]), 100_000
    drawn = draw(wanted, n, generator())
    shares = torch.bincount(drawn, minlength=5) / n
    assert shares[[0, 4]].tolist() == [0, 0]
    deviation = (wanted * (1 - wanted) / n).sqrt()  # of a binomial distribution
    assert ((shares - wanted).abs() <= 4.5 * deviation).all()


def test_points_fall_into_cells_by_their_last_mean_errors() -> None:
    cells, n = CellErrors(torch.device("cpu")), 200_000
    centres = torch.cartesian_prod(*[torch.arange(12.0)] * 3).add(0.5).mul(2 / 12).sub(1).mul(BOUND)
    cells.update(centres, torch.zeros(len(centres)))
    here = torch.tensor([[0.1, -0.5, 0.3]])
    cells.update(here.expand(2, 3), torch.tensor([1.0, 2.0]))
    assert cells.errors.sum() == 1.5
    points = cells.points(n, generator())
    assert points.abs().max() <= BOUND
    same = ((points / BOUND + 1) * 6).long() == ((here / BOUND + 1) * 6).long()
    # Half of all points, and one of 12^3 of the others.
    expected = 0.5 + 0.5 / 12**3
    share = float(same.all(dim=1).float().mean())
    assert share == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / n))
    inside = points[same.all(dim=1)]
    edge = 2 * BOUND / 12
    assert inside.std(dim=0).tolist() == pytest.approx([edge / math.sqrt(12)] * 3, rel=0.01)
