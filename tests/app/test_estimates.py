"""Estimates of the time that runs take and wait."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from sds3d.app import estimates
from sds3d.app.estimates import EXPORT, LOADING, Cost, cost_of, expected, seconds_left, share_done, wait
from sds3d.app.fragments import about, plan, status
from sds3d.app.studio import Studio
from sds3d.jobs import queue
from sds3d.jobs.queue import Progress, Wait
from sds3d.presets import presets
from sds3d.run.config import make_config, new_run, total_steps
from sds3d.run.folder import Run


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates._history.cache_clear()
    monkeypatch.setattr(estimates, "devices", lambda: 1)


def put(studio: Studio, *overrides: str, preset: str = "toybox", **state: object) -> Run:
    run = new_run(studio.root, make_config("a red mug", preset, overrides))
    run.update(**state)
    return run


def test_estimates_agree_with_the_time_stated_by_presets(studio: Studio):
    for preset in presets():
        if preset.about.needs_asset or preset.about.group == "real":
            continue
        config = make_config("a red mug", preset.name)
        steps = total_steps(config)
        seconds = expected(studio, preset.name, {}, config).seconds(steps)
        if steps and preset.about.seconds:
            assert seconds == pytest.approx(preset.about.seconds, rel=1e-6)
        else:
            assert 20 < seconds < 600 if steps else seconds == estimates.LOADING + estimates.EXPORT


def test_another_size_or_prior_changes_the_estimate(studio: Studio):
    step = cost_of(studio, put(studio)).step
    assert cost_of(studio, put(studio, "cameras.size=128")).step == pytest.approx(4 * step)  # by default 64 pixels
    assert cost_of(studio, put(studio, "particles=2")).step == pytest.approx(2 * step)
    assert cost_of(studio, put(studio, "prior.model=stable-diffusion-2-1")).step == 0


def test_finished_runs_of_this_machine_replace_stated_times(studio: Studio):
    stated = cost_of(studio, put(studio)).step
    put(studio, "seed=1", status="done", total=200, step=200, seconds=420.0, optimised=400.0)
    estimates._history.cache_clear()
    assert cost_of(studio, put(studio, "seed=2", "steps=50")) == Cost(2.0, 20.0)
    # The estimates of other presets are scaled by the same factor.
    other = cost_of(studio, put(studio, preset="sjc"))
    assert other.step == pytest.approx(estimates.stated_step("sjc", make_config("a mug", "sjc")) * 2.0 / stated)
    assert other.export == 20.0


def test_a_slow_first_step_is_not_used_for_estimates(studio: Studio):
    run = put(studio, status="running", total=200)
    stated = cost_of(studio, run)
    with run.locked():
        run.add_event({"step": 1, "seconds": 5.1})
        first = queue.progress(run)
        assert first.seconds_per_step == 0
        assert seconds_left(first, stated) == pytest.approx(stated.step * 199 + EXPORT)
        for step in range(2, 101):
            run.add_event({"step": step, "seconds": 0.1})
        later = queue.progress(run)
    assert (later.step, later.seconds_per_step) == (100, 0.1)
    assert seconds_left(later, stated) == pytest.approx(100 * (0.1 * 10 + stated.step) / 11 + EXPORT)
    assert seconds_left(later, estimates.UNKNOWN) == pytest.approx(100 * 0.1 + EXPORT)


def test_the_progress_bar_starts_at_zero_and_includes_the_export():
    cost = Cost(0.5, 20.0)
    whole = LOADING + 100 * 0.5 + 20
    export = 20 / whole

    def share(status: queue.LiveStatus, step: int, exported: float = 0.0) -> float:
        return share_done(Progress(status, step, 100, exported=exported), cost)

    assert share("starting", 0) == 0
    assert share("running", 1) == pytest.approx(0.01 * (1 - export))
    assert share("exporting", 100) == pytest.approx(1 - export)
    assert share("exporting", 100, 0.5) == pytest.approx(1 - export / 2)
    assert share("done", 100, 1.0) == 1
    assert seconds_left(Progress("exporting", 100, 100, exported=0.75), cost) == 5


def test_the_wait_includes_runs_ahead_in_the_queue(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    cost = cost_of(studio, put(studio))
    assert wait(studio) == Wait(0, 0.0)
    first = put(studio, "seed=1", status="running", total=200, step=0)
    with first.locked():
        first.add_event({"step": 150, "seconds": cost.step})
        left = 50 * cost.step + EXPORT
        second, third = (put(studio, f"seed={n}", status="queued", queued=float(n)) for n in (2, 3))
        assert astuple(wait(studio, second)) == (1, pytest.approx(left))
        assert astuple(wait(studio, third)) == (2, pytest.approx(left + cost.seconds(300)))
        assert astuple(wait(studio)) == (3, pytest.approx(left + 2 * cost.seconds(300)))
        monkeypatch.setattr(estimates, "devices", lambda: 2)  # the second run starts at once
        assert wait(studio, second) == Wait(0, 0.0)
        assert astuple(wait(studio, third)) == (1, pytest.approx((left + cost.seconds(300)) / 2))


def test_only_waiting_runs_are_shown_as_waiting():
    queued = Progress("queued", 0, 200)
    alone = status("a red mug", queued, 0.0, 80.0, Wait(0, 0.0))
    assert "Loading the prior" in alone
    assert "turn" not in alone
    behind = status("a red mug", queued, 0.0, 80.0, Wait(1, 130.0))
    assert "Waiting for its turn: 2nd in the queue" in behind
    assert "starts in about 2 min" in behind
    assert "starts at once" in plan(80.0, Wait(0, 0.0))
    assert "about 80 s; 2 runs ahead, starts in about 5 min" in plan(80.0, Wait(2, 300.0))
    assert [about(n) for n in (3, 52, 98, 130)] == ["a few seconds", "about 50 s", "about 2 min", "about 2 min"]
