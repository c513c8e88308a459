import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sds3d.guidance.schedules import AnnealedSchedule, Schedule, UniformSchedule

timesteps = st.floats(0.01, 1.0)
windows = st.tuples(timesteps, timesteps).map(lambda pair: (min(pair), max(pair)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(window=windows, progress=st.floats(0, 1), seed=st.integers(0, 1000))
def test_uniform_stays_in_its_bounds(window, progress, seed):
    t = UniformSchedule(min=window[0], max=window[1]).sample(progress, 32, 1, generator(seed))
    assert t.shape == (32,)
    assert window[0] - 1e-6 <= t.min()
    assert t.max() <= window[1] + 1e-6


@settings(deadline=None)
@given(start=windows, end=windows, until=st.floats(0.1, 1.0), progress=st.floats(0, 1))
def test_annealed_stays_in_its_window(start, end, until, progress):
    schedule = AnnealedSchedule(min=(start[0], end[0]), max=(start[1], end[1]), until=until)
    low, high = schedule.window(progress)
    t = schedule.sample(progress, 32, 1, generator())
    assert low - 1e-6 <= t.min()
    assert t.max() <= high + 1e-6
    assert min(start[0], end[0]) - 1e-9 <= low <= high + 1e-9
    assert high <= max(start[1], end[1]) + 1e-9


def test_annealed_window_moves_linearly_and_then_rests():
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


def test_single_views_have_their_own():
    assert UniformSchedule().sample(0.0, 8, 1, generator()).unique().numel() == 8


def test_one_seed_one_draw():
    schedule = AnnealedSchedule()
    first, again, other = (schedule.sample(0.3, 8, 1, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batch_has_to_hold_whole_objects():
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
        {"name": "unifrom"},
        {"name": "uniform", "minimum": 0.1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(Schedule).validate_python(wrong)


def test_the_name_tells_schedules_apart_and_round_trips():
    adapter = TypeAdapter(Schedule)
    for schedule in (UniformSchedule(max=0.5), AnnealedSchedule(until=0.5)):
        assert adapter.validate_json(adapter.dump_json(schedule)) == schedule
