from __future__ import annotations

import numpy as np
import pytest

from sds3d.evaluation.frechet import frechet_distance


def test_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # the same axes, so that the covariances commute
    first, second = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.25])
    samples = []
    for variances, mean in ((first, 0.0), (second, 0.5)):
        z = rng.normal(size=(1000, 3))
        z -= z.mean(axis=0)
        z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False)).T)  # exactly white
        samples.append(z * np.sqrt(variances) @ basis.T + mean)
    expected = 3 * 0.5**2 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(*samples) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(samples[0], samples[0]) == pytest.approx(0, abs=1e-9)
    few = rng.normal(size=(5, 40))  # fewer pictures than features: the covariance is singular, but the distance exists
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(few, few + 1) == pytest.approx(40, rel=1e-6)
