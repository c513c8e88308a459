"""Points around a cloud: a plain search over all pairs, and the volume in which they must fall."""

import math

import numpy as np
import pytest
import torch

from sds3d.geometry.sampling import points_around


def test_the_points_near_the_cloud_are_taken_in_the_colour_of_the_nearest():
    rng = np.random.default_rng(0)
    points, colors = rng.random((40, 3)).astype(np.float32), rng.random((40, 3)).astype(np.float32)
    made, tinted = points_around(points, colors, 3000, 0.1, 0.2, torch.Generator().manual_seed(1))
    low, high = points.min(0), points.max(0)
    tried = (
        low
        + (high - low) * torch.rand(3000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    )
    apart = np.linalg.norm(tried[:, None] - points, axis=2)
    near = apart.min(1) < 0.1
    assert 100 < near.sum() < 2900
    np.testing.assert_allclose(made, np.concatenate([tried[near], points]), atol=1e-6)
    added = tinted[: near.sum()] - colors[apart.argmin(1)[near]]
    free = tinted[: near.sum()] < 1  # colours end at 1
    assert added[free].min() > -1e-6
    assert 0.18 < added[free].max() < 0.2001
    assert tinted.max() == 1
    np.testing.assert_array_equal(tinted[near.sum() :], colors)


def test_their_number_is_the_volume_around_the_cloud():
    """Around two points at the corners of a unit cube, an eighth of a ball each is inside the box."""
    points = np.array([[0.0, 0, 0], [1, 1, 1]])
    made, _ = points_around(points, np.zeros((2, 3)), 40_000, 0.3, 0.2, torch.Generator().manual_seed(0))
    share = 2 / 8 * 4 / 3 * math.pi * 0.3**3
    assert (len(made) - 2) / 40_000 == pytest.approx(share, rel=0.1)
