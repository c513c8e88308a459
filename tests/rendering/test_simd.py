"""Vectors of eight floats: arithmetic, and rows of arrays as columns."""

import numpy as np
from numba import njit

from sds3d.rendering import simd
from tests.rendering.bounds import rounding


@njit
def _lanes(x, rows, exponentials, logarithms, turned):
    for i in range(0, len(x), 8):
        simd.store8(exponentials, i, simd.exp2_8(simd.load8(x, i)))
        simd.store8(logarithms, i, simd.log8(simd.exp2_8(simd.load8(x, i))))
        a, b, c = simd.load_rows3(rows, i)
        simd.store_rows3(turned, i, (c, a, b))


@njit
def _exponentials(x, out):
    for i in range(len(x)):
        out[i] = simd.exp_minus(x[i])


def test_vectors_of_eight() -> None:
    x = np.linspace(-12, 12, 8000, dtype=np.float32)
    rows = np.random.default_rng(0).normal(size=(8000, 3)).astype(np.float32)
    exponentials, logarithms, turned = np.empty_like(x), np.empty_like(x), np.empty_like(rows)
    _lanes(x, rows, exponentials, logarithms, turned)
    np.testing.assert_allclose(exponentials, np.exp2(x.astype(np.float64)), rtol=2e-7)
    np.testing.assert_allclose(logarithms, np.log(exponentials.astype(np.float64)), rtol=2e-7, atol=2e-7)
    np.testing.assert_array_equal(turned, rows[:, [2, 0, 1]])


def test_logarithms_use_enough_terms_of_their_series() -> None:
    """Rounding cancels in the mean error, the first omitted term does not: 2/11 t^11 with t = (x - 1) / (x + 1)."""
    n = 8000
    powers = np.linspace(0.45, 0.5, n, endpoint=False, dtype=np.float32)  # x near sqrt(2), where t is largest
    x, logarithms, rows = np.empty_like(powers), np.empty_like(powers), np.zeros((n, 3), np.float32)
    _lanes(powers, rows, x, logarithms, rows)
    omitted = 2 / 11 * ((2**0.5 - 1) / (2**0.5 + 1)) ** 11
    # Five roundings, for x + 1, the quotient, its square, the sum and the product, of values up to ln sqrt(2).
    error = (logarithms - np.log(x.astype(np.float64))).mean()
    assert abs(error) < omitted + rounding(5, np.log(2) / 2) / n**0.5


def test_exponentials_of_negative_numbers() -> None:
    x = np.append(np.linspace(0, 86.6, 8000, dtype=np.float32), np.float32([86.7, 100, 1e30, np.inf]))
    out = np.empty_like(x)
    _exponentials(x, out)
    assert (out[-4:] == 2.0**-125).all()  # the least result: smaller ones would soon be subnormal
    exact = np.exp(-x[:-4].astype(np.float64))
    # log2(e) and its product with x are rounded, which changes the result by x times as much.
    assert (np.abs(out[:-4] - exact) <= (2e-7 + rounding(2) * x[:-4]) * exact).all()
