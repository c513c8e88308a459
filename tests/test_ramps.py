"""Numbers over time, as settings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from sds3d.config import Config, ConfigError, build, dump_yaml
from sds3d.ramps import Ramp

KNOTS = Ramp(((0.2, 1.0), (0.6, 3.0), (0.6, 10.0), (0.8, 0.0)))


class Weights(Config):
    orient: Ramp = Field(default=Ramp(0.5), ge=0)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 1.0), (0.2, 1.0), (0.3, 1.5), (0.5, 2.5), (0.599999, 2.999995), (0.6, 10.0), (0.7, 5.0), (0.8, 0.0), (1, 0)],
)
def test_between_knots_it_is_linear_and_outside_constant(progress: float, expected: float):
    assert KNOTS.at(progress) == pytest.approx(expected)


def test_only_plain_numbers_rise_by_themselves():
    assert Ramp(8.0).at(0.3) == 8.0
    assert Ramp(8.0).at(0.3, rise=0.25) == 2.0
    assert KNOTS.at(0.6, rise=0.25) == 10.0


@pytest.mark.parametrize(
    ("given", "dumped"),
    [(3, "orient: 3.0\n"), ("1e-5", "orient: 1.0e-05\n"), ([[0, 2]], "orient:\n- - 0.0\n  - 2.0\n")],
)
def test_a_setting_is_dumped_as_it_was_given_and_read_back(given: Any, dumped: str):
    weights = build(Weights, {"orient": given})
    assert dump_yaml(weights) == dumped
    assert build(Weights, weights.model_dump()) == build(Weights, weights.model_dump(mode="json")) == weights


def test_it_is_true_unless_it_is_always_zero():
    assert Ramp(0.1)
    assert Ramp([[0, 0], [1, 5]])  # type: ignore[arg-type]
    assert not Ramp(0.0)
    assert not Ramp([[0, 0], [1, 0]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (-1, "orient = -1: input should be greater than or equal to 0"),
        ([[0, 1], [1, -2]], "orient = [[0, 1], [1, -2]]: input should be greater than or equal to 0"),
        ("a lot", "orient = 'a lot': give a number, or knots [[progress, value], ...]"),
        (True, "orient = True: give a number, or knots [[progress, value], ...]"),
        (float("nan"), "orient = nan: give a number, or knots [[progress, value], ...]"),
        (10**400, "give a number, or knots [[progress, value], ...]"),
        ([], "orient = []: no knots: give a number, or knots [[progress, value], ...]"),
        ([1, 2], "orient = [1, 2]: 1 is not a knot: give [progress, value], both numbers"),
        ([[0, 1, 2]], "[0, 1, 2] is not a knot: give [progress, value], both numbers"),
        ([[0, float("inf")]], "[0, inf] is not a knot: give [progress, value], both numbers"),
        ([[0, 1], [1.5, 2]], "a knot at 1.5: give its progress from 0, the first step, to 1, the last"),
        ([[0.5, 1], [0.2, 2]], "the knot at 0.2 follows the one at 0.5: sort them by progress"),
    ],
)
def test_what_is_no_number_over_time_is_refused_in_one_line(given: Any, problem: str):
    with pytest.raises(ConfigError) as caught:
        build(Weights, {"orient": given})
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
