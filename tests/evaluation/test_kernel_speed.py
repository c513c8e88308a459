from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sds3d.evaluation import kernel_speed
from sds3d.evaluation.kernel_cases_splats import SplatScene
from sds3d.evaluation.kernel_speed import Machine, Row, Timing, bench, builders, cells, header, interleaved
from sds3d.rendering.splatting_blend_numba import MAX_ALPHA, MIN_TRANSMITTANCE
from sds3d.rendering.splatting_tiles_numba import MIN_ALPHA

KERNELS = {
    "splat projection", "splat blending", "splatting", "dense grid", "dense grid, occupancy", "grid smoothness",
    "ray marching", "compositing", "hash encoding", "triplane encoding", "hash field", "hash field, occupancy",
    "triplane field", "triplane field, occupancy", "mesh rasterising", "mesh interpolation", "mesh antialiasing",
    "mesh edges", "mesh",
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, list[Row], Path, list[tuple[str, int, int]]]:
    root, reports = tmp_path_factory.mktemp("bench"), []
    machine, rows = bench(root, quick=True, report=lambda *report: reports.append(report))
    return machine, rows, root, reports


@pytest.mark.slow
def test_every_kernel_is_measured_once(measured):
    _, rows, _, reports = measured
    assert sorted(row.kernel for row in rows) == sorted(KERNELS)
    assert [step for _, step, _ in reports] == list(range(1, len(rows) + 1))
    assert {total for *_, total in reports} == {len(rows)}


@pytest.mark.slow
def test_all_figures_are_finite_and_positive(measured):
    machine, rows, _, _ = measured
    assert machine.peak > 0
    assert machine.bandwidth > 0
    for row in rows:
        for timing in (row.forward, row.both):
            if timing is not None:
                speedup = timing.speedup()
                assert speedup is not None, f"{row.kernel}: the smallest scene is one that the reference can render"
                assert all(math.isfinite(figure) and figure > 0 for figure in (speedup, timing.scaling()))
                assert math.isfinite(timing.flops())
        if row.both is not None:
            assert row.both.operations > row.forward.operations > 0


@pytest.mark.slow
def test_kernels_render_what_their_references_do(measured):
    _, rows, _, _ = measured
    for row in rows:
        assert row.difference is not None
        assert row.difference < 1e-3, f"{row.kernel}: {row.difference}"


@pytest.mark.slow
def test_the_results_are_written(measured):
    machine, rows, root, _ = measured
    details = json.loads((root / "rendering.json").read_text())
    assert details["machine"]["cpu"] == machine.cpu
    assert [row["kernel"] for row in details["rows"]] == [row.kernel for row in rows]
    assert details["rows"][0]["forward"]["one_thread"] == rows[0].forward.one_thread
    text = (root / "rendering.md").read_text()
    for row in rows:
        assert f"| {' | '.join(cells(row, machine))} |" in text


@pytest.mark.slow
def test_threads_are_left_as_they_were(measured):
    before = torch.get_num_threads()
    interleaved([lambda: None], 0.0)
    assert torch.get_num_threads() == before


def test_a_row_says_what_was_not_run():
    machine = Machine("cpu", 2, 2, "", "3", "2", "0", 1e11, 1e10, (0.0, 0.0))
    timing = Timing(one_thread=2.0, all_threads=1.0, reference=None, cuda=None, operations=1e8)
    row = Row("splatting", "2k", 2000, "Gaussians", timing, timing, None, "gsplat", "")
    texts = dict(zip(header(machine), cells(row, machine), strict=True))
    assert texts["torch, ms"] == "not run: memory"
    assert texts["torch / kernel"] == ""
    assert texts["1 / 2 threads"] == "2 / 2"
    assert texts["GFLOP/s"] == "50 / 50"
    assert texts["of peak"] == "50 / 50 %"
    assert texts["M/s"] == "1 / 1 Gaussians"


def test_a_row_says_what_ran_on_cuda():
    machine = Machine("cpu", 2, 2, "GPU", "3", "2", "0", 1e11, 1e10, (0.0, 0.0))
    timing = Timing(one_thread=2.0, all_threads=1.0, reference=8.0, cuda=0.5, operations=0.0)
    row = Row("a", "b", 1, "c", timing, None, 0.0, "gsplat", "")
    texts = dict(zip(header(machine), cells(row, machine), strict=True))
    assert texts["CUDA, ms"] == "0.5 gsplat"
    assert texts["torch / kernel"] == "4"
    assert texts["of peak"] == ""


def test_calls_take_turns_and_slow_ones_skip_rounds(monkeypatch: pytest.MonkeyPatch):
    clock, order = [0.0], []
    monkeypatch.setattr(kernel_speed.time, "perf_counter", lambda: clock[0])

    def call(name: str, seconds: float):
        def run() -> None:
            order.append(name)
            clock[0] += seconds

        return run

    medians = interleaved([call("a", 0.1), call("b", 0.1), call("slow", 0.5)], seconds=1.0)
    assert medians == pytest.approx([0.1, 0.1, 0.5])
    turns = order[6:]  # after each ran twice
    assert [turns.count(name) for name in ("a", "b", "slow")] == [10, 10, 3]
    fast = [name for name in turns if name != "slow"]
    assert all(one != other for one, other in pairwise(fast))


def test_pairs_are_those_of_a_plain_walk_over_pixels():
    scene = SplatScene(300, 32, 1, torch.device("cpu"))
    seen = scene.projected()
    visible = (seen.conics[0, :, 0] > 0) & (scene.leaves[3].detach() >= MIN_ALPHA)
    order = [int(i) for i in seen.depths[0].argsort(stable=True) if visible[i]]
    centers = torch.arange(32) + 0.5
    transmittance, inside = torch.ones(32, 32), 0
    for i in order:
        dx, dy = centers - seen.means2d[0, i, 0], centers[:, None] - seen.means2d[0, i, 1]
        a, b, c = seen.conics[0, i]
        alpha = scene.leaves[3].detach()[i] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        hit = (alpha >= MIN_ALPHA) & (transmittance > 0)
        inside += int(hit.sum())
        after = transmittance * (1 - alpha.clamp(max=MAX_ALPHA))
        transmittance = torch.where(hit, torch.where(after > MIN_TRANSMITTANCE, after, 0.0), transmittance)
    evaluated, counted = scene.blending()
    assert counted == pytest.approx(inside, rel=1e-3)  # a pair exactly at the threshold may count or not
    assert evaluated % 8 == 0
    assert counted <= evaluated <= 32 * 32 * len(order)


def test_the_full_benchmark_contains_the_quick_one():
    assert len(builders()) > 3 * len(builders(quick=True))
