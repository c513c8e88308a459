"""Vectors of eight floats: arithmetic, and rows of arrays as columns."""

import numpy as np
from numba import njit

from sds3d.rendering import simd


@njit
def _lanes(x, rows, exponentials, logarithms, turned):
    for i in range(0, len(x), 8):
        simd.store8(exponentials, i, simd.exp2_8(simd.load8(x, i)))
        simd.store8(logarithms, i, simd.log8(simd.exp2_8(simd.load8(x, i))))
        a, b, c = simd.load_rows3(rows, i)
        simd.store_rows3(turned, i, (c, a, b))


def test_vectors_of_eight() -> None:
    x = np.linspace(-12, 12, 8000, dtype=np.float32)
    rows = np.random.default_rng(0).normal(size=(8000, 3)).astype(np.float32)
    exponentials, logarithms, turned = np.empty_like(x), np.empty_like(x), np.empty_like(rows)
    _lanes(x, rows, exponentials, logarithms, turned)
    np.testing.assert_allclose(exponentials, np.exp2(x.astype(np.float64)), rtol=2e-7)
    np.testing.assert_allclose(logarithms, np.log(exponentials.astype(np.float64)), rtol=2e-7, atol=2e-7)
    np.testing.assert_array_equal(turned, rows[:, [2, 0, 1]])
