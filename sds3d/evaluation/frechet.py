"""The Frechet distance between two sets of pictures, in the features of the toy world's scorer."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sds3d.toybox.scorer import Scorer, score

TRUE_OBJECTS = 8
"""True objects of a prompt that are the reference."""


def features(scorer: Scorer, rgb: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the scorer's features (N, D) of pictures (N, H, W, 3) in [0, 1]."""
    return score(scorer, torch.from_numpy(rgb)).features.double().numpy()


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of features (N, D) and (M, D).

    This is the FID (arXiv:1706.08500, eq. 6). N and M may be below D: the covariances are then singular, and the
    distance is biased upwards, more so for smaller N and M.
    """
    mean = a.mean(axis=0) - b.mean(axis=0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), and the latter matrix is symmetric.
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    return float(mean @ mean + np.trace(first) + np.trace(second) - 2 * cross)
