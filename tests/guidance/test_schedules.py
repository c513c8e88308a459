import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sds3d.guidance.schedules import (
    AnnealedSchedule,
    DreamTimeSchedule,
    PiecewiseSchedule,
    Schedule,
    SqrtSchedule,
    UniformSchedule,
)

timesteps = st.floats(0.01, 1.0)
windows = st.tuples(timesteps, timesteps).map(lambda pair: (min(pair), max(pair)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=50)
@given(window=windows, progress=st.floats(0, 1), seed=st.integers(0, 1000))
def test_uniform_stays_in_its_bounds(window, progress, seed):
    t = UniformSchedule(min=window[0], max=window[1]).sample(progress, 32, 1, generator(seed))
    assert t.shape == (32,)
    assert window[0] - 1e-6 <= t.min()
    assert t.max() <= window[1] + 1e-6


@settings(deadline=None, max_examples=50)
@given(start=windows, end=windows, until=st.floats(0.1, 1.0), progress=st.floats(0, 1))
def test_annealed_stays_in_its_window(start, end, until, progress):
    schedule = AnnealedSchedule(min=(start[0], end[0]), max=(start[1], end[1]), until=until)
    low, high = schedule.window(progress)
    t = schedule.sample(progress, 32, 1, generator())
    assert low - 1e-6 <= t.min()
    assert t.max() <= high + 1e-6
    assert min(start[0], end[0]) - 1e-9 <= low <= high + 1e-9
    assert high <= max(start[1], end[1]) + 1e-9


def test_annealed_window_moves_linearly_and_then_stays():
    schedule = AnnealedSchedule(min=(0.6, 0.05), max=(0.98, 0.45), until=0.85)
    assert schedule.window(0.0) == (0.6, 0.98)
    assert schedule.window(0.425) == pytest.approx((0.325, 0.715))
    for progress in (0.85, 0.9, 1.0):
        assert schedule.window(progress) == pytest.approx((0.05, 0.45))


def test_uniform_fills_its_window():
    t = UniformSchedule(min=0.2, max=0.6).sample(0.0, 20_000, 1, generator())
    histogram = torch.histc(t, bins=4, min=0.2, max=0.6)
    assert (histogram - 5000).abs().max() < 5 * (20_000 * 0.25 * 0.75) ** 0.5  # five standard deviations


def test_views_of_an_object_share_their_timestep():
    t = UniformSchedule().sample(0.0, 12, 4, generator()).reshape(3, 4)
    assert torch.equal(t, t[:, :1].expand(3, 4))
    assert t[:, 0].unique().numel() == 3


def test_single_views_have_their_own_timestep():
    assert UniformSchedule().sample(0.0, 8, 1, generator()).unique().numel() == 8


def test_one_seed_one_draw():
    schedule = AnnealedSchedule()
    first, again, other = (schedule.sample(0.3, 8, 1, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_must_contain_whole_objects():
    with pytest.raises(ValueError, match="4 views together and got 6"):
        UniformSchedule().sample(0.0, 6, 4, generator())


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "uniform", "min": 0.9, "max": 0.1},
        {"name": "uniform", "min": 0.0},
        {"name": "uniform", "max": 1.5},
        {"name": "annealed", "min": (0.5, 0.6), "max": (0.9, 0.5)},
        {"name": "annealed", "until": 0.0},
        {"name": "piecewise", "knots": ()},
        {"name": "piecewise", "knots": ((0.0, 0.9, 0.1),)},
        {"name": "piecewise", "knots": ((0.5, 0.1, 0.9), (0.2, 0.1, 0.9))},
        {"name": "piecewise", "knots": ((1.5, 0.1, 0.9),)},
        {"name": "piecewise", "knots": ((0.0, 0.0, 0.9),)},
        {"name": "sqrt", "min": 0.9, "max": 0.1},
        {"name": "dreamtime", "m1": 0.3, "m2": 0.5},
        {"name": "dreamtime", "min": 0.6},
        {"name": "dreamtime", "s1": 0.0},
        {"name": "unifrom"},
        {"name": "uniform", "minimum": 0.1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(Schedule).validate_python(wrong)


def test_schedules_round_trip_by_name():
    adapter = TypeAdapter(Schedule)
    for schedule in (
        UniformSchedule(max=0.5),
        AnnealedSchedule(until=0.5),
        PiecewiseSchedule(knots=((0.2, 0.1, 0.9), (0.2, 0.1, 0.5))),
        SqrtSchedule(min=0.2),
        DreamTimeSchedule(m1=0.7),
    ):
        assert adapter.validate_json(adapter.dump_json(schedule)) == schedule


knots = st.lists(st.tuples(st.floats(0, 1), windows), min_size=1, max_size=5).map(
    lambda found: tuple((progress, *window) for progress, window in sorted(found))
)


@settings(deadline=None, max_examples=50)
@given(knots=knots, progress=st.floats(0, 1), seed=st.integers(0, 1000))
def test_piecewise_stays_between_its_knots(knots, progress, seed):
    schedule = PiecewiseSchedule(knots=knots)
    low, high = schedule.window(progress)
    assert min(knot[1] for knot in knots) - 1e-9 <= low <= high + 1e-9 <= max(knot[2] for knot in knots) + 2e-9
    t = schedule.sample(progress, 8, 1, generator(seed))
    assert low - 1e-6 <= t.min() <= t.max() <= high + 1e-6


@settings(deadline=None, max_examples=50)
@given(start=windows, end=windows, until=st.floats(0.1, 0.9), progress=st.floats(0, 1))
def test_piecewise_with_two_knots_is_annealed(start, end, until, progress):
    annealed = AnnealedSchedule(min=(start[0], end[0]), max=(start[1], end[1]), until=until)
    piecewise = PiecewiseSchedule(knots=((0.0, *start), (until, *end)))
    assert piecewise.window(progress) == pytest.approx(annealed.window(progress), abs=1e-9)


def test_two_knots_at_one_progress_are_a_hard_switch():
    schedule = PiecewiseSchedule()  # ProlificDreamer's
    for progress in (0.0, 0.1, 0.2 - 1e-9):
        assert schedule.window(progress) == pytest.approx((0.02, 0.98))
    for progress in (0.2, 0.5, 1.0):
        assert schedule.window(progress) == pytest.approx((0.02, 0.5))


def test_equal_bounds_make_a_deterministic_polyline():
    schedule = PiecewiseSchedule(knots=((0.0, 0.98, 0.98), (0.5, 0.6, 0.6), (1.0, 0.3, 0.3)))
    for progress, expected in ((0.0, 0.98), (0.25, 0.79), (0.5, 0.6), (0.75, 0.45), (1.0, 0.3)):
        t = schedule.sample(progress, 8, 4, generator())
        torch.testing.assert_close(t, torch.full((8,), expected))


@settings(deadline=None, max_examples=50)
@given(window=windows, progress=st.floats(0, 1))
def test_sqrt_by_its_formula(window, progress):
    t = SqrtSchedule(min=window[0], max=window[1]).sample(progress, 8, 4, generator())
    assert t.unique().numel() == 1
    assert t[0].item() == pytest.approx(window[1] - (window[1] - window[0]) * math.sqrt(progress), abs=1e-6)


@st.composite
def dreamtimes(draw):
    low, m2, m1, high = sorted(draw(st.lists(timesteps, min_size=4, max_size=4)))
    widths = st.floats(0.05, 0.5)
    return DreamTimeSchedule(m1=m1, m2=m2, s1=draw(widths), s2=draw(widths), min=low, max=high)


def weights(schedule: DreamTimeSchedule, t: np.ndarray) -> np.ndarray:
    """The paper's W(t), for numerical integration."""
    upper = np.exp(-(((t - schedule.m1) / schedule.s1) ** 2))
    lower = np.exp(-(((t - schedule.m2) / schedule.s2) ** 2))
    return np.where(t > schedule.m1, upper, np.where(t < schedule.m2, lower, 1.0))


@settings(deadline=None, max_examples=50)
@given(schedule=dreamtimes(), progress=st.floats(0, 1))
def test_the_weight_above_dreamtimes_t_is_the_progress(schedule, progress):
    t, same = schedule.window(progress)
    assert t == same
    assert schedule.min <= t <= schedule.max

    def integral(low: float, high: float) -> float:
        grid = np.linspace(low, high, 4_001)
        values = weights(schedule, grid)
        return float(((values[1:] + values[:-1]) / 2 * np.diff(grid)).sum())

    total = integral(schedule.min, schedule.max)
    assert integral(t, schedule.max) == pytest.approx(progress * total, abs=1e-4)


@settings(deadline=None, max_examples=50)
@given(schedule=dreamtimes(), progress=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_dreamtime_never_rises(schedule, progress):
    earlier, later = sorted(progress)
    assert schedule.window(later)[0] <= schedule.window(earlier)[0] + 1e-9


def test_dreamtime_agrees_with_the_discrete_algorithm():
    # A thousand integer timesteps: the t whose tail sum of W comes nearest to i / N of the whole.
    schedule, steps = DreamTimeSchedule(min=0.001, max=1.0), np.arange(1, 1001) / 1000
    w = weights(schedule, steps)
    tail = np.cumsum(w[::-1])[::-1] / w.sum()
    for progress in np.linspace(0, 1, 21):
        nearest = steps[np.abs(tail - progress).argmin()]
        assert schedule.window(progress)[0] == pytest.approx(nearest, abs=0.003) or weights(schedule, nearest) < 0.01


def test_shift_moves_the_drawn_timesteps_towards_noise():
    """RFDS draws indices from 0.3 to 0.98 of SD3's falling schedule: sigma is 3 u / (1 + 2 u) of u in [0.02, 0.7]."""
    schedule = UniformSchedule(min=0.02, max=0.7, shift=3.0)
    low, high = schedule.window(0.5)
    assert (low, high) == (pytest.approx(0.0577, abs=1e-4), pytest.approx(0.875, abs=1e-4))
    u = UniformSchedule(min=0.02, max=0.7).sample(0.0, 1000, 1, torch.Generator().manual_seed(1))
    t = schedule.sample(0.0, 1000, 1, torch.Generator().manual_seed(1))
    torch.testing.assert_close(t, 3 * u / (1 + 2 * u))
    assert t.mean() > u.mean() + 0.1
