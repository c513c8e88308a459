"""The speed of the rendering kernels, compared with their plain-torch references and with CUDA libraries if available.

All variants of a kernel run in one process and take turns (A B A B ...), so that another program on the machine slows
all of them equally. Medians are reported. FLOP/s count the floating-point additions, subtractions, multiplications,
divisions and square roots in the kernels' source, and an exponential as its polynomial. Comparisons, selections,
conversions and integer operations, which dominate rasterisers, do not count. The peak is measured on the same core with
multiply-adds in registers alone.
"""

# Arguments are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sds3d.compiled import njit
from sds3d.evaluation import kernel_cases_fields, kernel_cases_meshes, kernel_cases_splats
from sds3d.evaluation.kernel_case import Builder, Case, Run
from sds3d.evaluation.results import write_results
from sds3d.rendering.simd import load8, splat8, store8

REFERENCE_BYTES = 2e9
"""Bytes of memory. References that need more are not run."""
SECONDS, QUICK_SECONDS = 0.5, 0.05  # time for each call that is measured, though at least three repeats


# ---- what is measured ----


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of one pass.

    one_thread, all_threads: our kernel. reference: the plain-torch reference with one thread, None if it was not run.
    cuda: our function on CUDA, None if it was not run. operations: floating-point operations of the kernel.
    """

    one_thread: float
    all_threads: float
    reference: float | None
    cuda: float | None
    operations: float

    def speedup(self) -> float | None:
        """Return how many times as fast as the reference the kernel is, both with one thread."""
        return None if self.reference is None else self.reference / self.one_thread

    def scaling(self) -> float:
        """Return how many times as fast the kernel is with all threads as with one."""
        return self.one_thread / self.all_threads

    def flops(self) -> float:
        """Return the floating-point operations per second of one thread."""
        return self.operations / (self.one_thread * 1e-3)


@dataclass(frozen=True)
class Row:
    """The measurements of a `Case`.

    both: forward and backward pass together, None if the kernel has no backward pass.
    difference: the largest relative difference (L2) between an output or a gradient and the reference's, None if the
        reference was not run.
    """

    kernel: str
    scene: str
    items: int
    unit: str
    forward: Timing
    both: Timing | None
    difference: float | None
    library: str
    note: str


@dataclass(frozen=True)
class Machine:
    """The machine that ran a benchmark.

    peak: FLOP/s of one core with multiply-adds of eight floats. bandwidth: bytes per second that one core reads and
    writes when it copies. load: mean number of running threads in the minute before the start and before the end.
    """

    cpu: str
    cores: int
    threads: int
    device: str
    python: str
    torch: str
    numba: str
    peak: float
    bandwidth: float
    load: tuple[float, float]


def builders(quick: bool = False) -> list[Builder]:
    """Return makers of all cases. quick: only the smallest of each kernel."""
    groups = [*kernel_cases_splats.groups(), *kernel_cases_fields.groups(), *kernel_cases_meshes.groups()]
    return [build for group in groups for build in (group[:1] if quick else group)]


# ---- measuring ----


def interleaved(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Return the median seconds of each call. The calls take turns. Each gets about `seconds`, in 3 to 100 repeats."""
    spans = []
    for call in calls:
        call()  # compiles and fills caches
        spans.append(_seconds(call))
    repeats = [min(max(int(seconds / span), 3), 100) for span in spans]
    rounds = max(repeats)
    samples: list[list[float]] = [[] for _ in calls]
    for i in range(rounds):
        for call, n, taken in zip(calls, repeats, samples, strict=True):
            if (i + 1) * n // rounds > i * n // rounds:  # slow calls skip rounds, evenly
                taken.append(_seconds(call))
    return [float(np.median(taken)) for taken in samples]


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(build: Builder, threads: int, seconds: float) -> Row:
    """Time a case: our kernel with one thread and with `threads`, its reference, and CUDA if available."""
    case = build(torch.device("cpu"))
    referred = case.reference_bytes <= REFERENCE_BYTES
    weights = _weights(case.run, case.leaves)
    difference = _difference(case, weights) if referred else None
    on_cuda = build(torch.device("cuda")) if case.library and torch.cuda.is_available() else None
    calls, passes = [], (False, True) if case.leaves else (False,)
    for backward in passes:
        variants = [(case.run, 1), (case.run, threads)] + ([(case.reference, 1)] if referred else [])
        calls += [_with_threads(_pass(run, case.leaves, weights, backward), n) for run, n in variants]
        if on_cuda is not None:
            cuda_weights = _weights(on_cuda.run, on_cuda.leaves)
            calls.append(synchronised(_pass(on_cuda.run, on_cuda.leaves, cuda_weights, backward)))
    before = torch.get_num_threads()
    try:
        medians = [1e3 * median for median in interleaved(calls, seconds)]
    finally:
        torch.set_num_threads(before)
    each = len(medians) // len(passes)
    timings = []
    for backward in passes:
        one, many, *others = medians[backward * each : (backward + 1) * each]
        timings.append(
            Timing(
                one,
                many,
                others[0] if referred else None,
                others[-1] if on_cuda is not None else None,
                sum(case.operations[: 1 + backward]),
            )
        )
    return Row(
        case.kernel, case.scene, case.items, case.unit, timings[0], timings[1] if case.leaves else None,
        difference, case.library, case.note,
    )  # fmt: skip


def _weights(run: Run, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return a gradient of the loss with respect to each output, normally distributed."""
    if not leaves:
        return ()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return tuple(torch.randn(output.shape, generator=generator).to(output) for output in run())


def _pass(run: Run, leaves: tuple[Tensor, ...], weights: tuple[Tensor, ...], backward: bool) -> Run:
    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return run()

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(), leaves, weights)

    return both if backward else forward


def _with_threads(run: Run, n: int) -> Run:
    def call() -> tuple[Tensor, ...]:
        torch.set_num_threads(n)
        return run()

    return call


def synchronised(run: Callable[[], object], device: torch.device | None = None) -> Callable[[], object]:
    """Return a call that also waits until the CUDA device has finished. device: the current one if None."""

    def call() -> None:
        run()
        torch.cuda.synchronize(device)

    return call


def _difference(case: Case, weights: tuple[Tensor, ...]) -> float:
    pairs = []
    for backward in (False, True) if case.leaves else (False,):
        ours, theirs = (_pass(run, case.leaves, weights, backward)() for run in (case.run, case.reference))
        pairs += list(zip(ours, theirs, strict=True))
    differences = [
        float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12)) if a.shape == b.shape else math.inf
        for a, b in pairs
    ]
    return max(differences)


# ---- what the core can do ----


@njit(nogil=True, cache=True, fastmath={"contract"})
def _multiply_add(state, rounds, factor, term):
    """Run twelve independent chains of multiply-adds in registers, which is enough to hide their latency."""
    a, b, c, d = load8(state, 0), load8(state, 8), load8(state, 16), load8(state, 24)
    e, f, g, h = load8(state, 32), load8(state, 40), load8(state, 48), load8(state, 56)
    i, j, k, m = load8(state, 64), load8(state, 72), load8(state, 80), load8(state, 88)
    x, y = splat8(factor), splat8(term)
    for _ in range(rounds):
        a, b, c, d = a * x + y, b * x + y, c * x + y, d * x + y
        e, f, g, h = e * x + y, f * x + y, g * x + y, h * x + y
        i, j, k, m = i * x + y, j * x + y, k * x + y, m * x + y
    store8(state, 0, a + b + c + d + e + f + g + h + i + j + k + m)


def peak_flops() -> float:
    """Return the most floating-point operations per second of this core in vectors of eight, the best of 100 bursts."""
    rounds = 200_000
    state, factor, term = np.ones(96, np.float32), np.float32(0.999), np.float32(1e-3)
    _multiply_add(state, 1, factor, term)
    fastest = min(_seconds(lambda: _multiply_add(state, rounds, factor, term)) for _ in range(100))
    return rounds * 12 * 8 * 2 / fastest


def copy_bandwidth() -> float:
    """Return the bytes per second that one core reads and writes when it copies arrays larger than its caches."""
    source, target = np.ones(1 << 24, np.float32), np.zeros(1 << 24, np.float32)
    fastest = min(_seconds(lambda: np.copyto(target, source)) for _ in range(10))
    return 2 * source.nbytes / fastest


def machine(threads: int) -> Machine:
    """Return this machine, with its peak measured now."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for path in (Path("/proc/cpuinfo"),)
            if path.exists()
            for line in path.read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    load = _load()
    return Machine(
        model, os.cpu_count() or 1, threads, device, platform.python_version(), torch.__version__, version("numba"),
        peak_flops(), copy_bandwidth(), (load, load),
    )  # fmt: skip


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def bench(
    root: Path,
    threads: int = 2,
    quick: bool = False,
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> tuple[Machine, list[Row]]:
    """Measure every kernel with one thread and with `threads`. Write rendering.json and rendering.md into `root`."""
    here, rows, chosen = machine(threads), [], builders(quick)
    for i, build in enumerate(chosen):
        rows.append(measure(build, threads, QUICK_SECONDS if quick else SECONDS))
        report("measuring", i + 1, len(chosen))
    here = replace(here, load=(here.load[0], _load()))
    details = {"machine": asdict(here), "rows": [asdict(row) for row in rows]}
    write_results(root, "rendering", details, _markdown(here, rows))
    return here, rows


# ---- reporting ----


def header(here: Machine) -> list[str]:
    """Return the titles of the columns of `cells`."""
    titles = [
        "kernel", "scene", "1 thread, ms", f"{here.threads} threads, ms", "torch, ms", "torch / kernel",
        f"1 / {here.threads} threads", "M/s", "GFLOP/s", "of peak",
    ]  # fmt: skip
    return [*titles, "CUDA, ms"] if here.device else titles


def cells(row: Row, here: Machine) -> list[str]:
    """Return a row of the table. Each figure is: forward / forward and backward."""
    timings = [row.forward] if row.both is None else [row.forward, row.both]

    def pair(figure: Callable[[Timing], float | None], missing: str = "") -> str:
        figures = [figure(timing) for timing in timings]
        return missing if None in figures else " / ".join(_figure(value) for value in figures if value is not None)

    counted = row.forward.operations > 0
    texts = [
        row.kernel,
        row.scene,
        pair(lambda timing: timing.one_thread),
        pair(lambda timing: timing.all_threads),
        pair(lambda timing: timing.reference, "not run: memory"),
        pair(lambda timing: timing.speedup()),
        pair(lambda timing: timing.scaling()),
        f"{pair(lambda timing: row.items / timing.one_thread / 1e3)} {row.unit}",
        pair(lambda timing: timing.flops() / 1e9) if counted else "",
        pair(lambda timing: 100 * timing.flops() / here.peak) + " %" if counted else "",
    ]
    if not here.device:
        return texts
    return [*texts, f"{pair(lambda timing: timing.cuda)} {row.library}".strip()]


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.3g}"


def describe(here: Machine) -> str:
    """Return one line about the machine."""
    device = f", {here.device}" if here.device else ""
    return (
        f"{here.cpu}, {here.cores} logical cores{device}; "
        f"Python {here.python}, torch {here.torch}, numba {here.numba}; "
        f"one core: {here.peak / 1e9:.0f} GFLOP/s, copies {here.bandwidth / 1e9:.1f} GB/s; "
        f"load {here.load[0]:.1f} before, {here.load[1]:.1f} at the end"
    )


def _markdown(here: Machine, rows: list[Row]) -> str:
    titles = header(here)
    lines = [
        "# Rendering kernels",
        "",
        "Written by `sds3d bench rendering`. `rendering.json` in the same folder holds all figures.",
        "",
        describe(here) + ".",
        "",
        "Medians of runs that take turns: forward / forward and backward. torch: the plain-torch reference with one "
        f"thread, not run where it needs more than {REFERENCE_BYTES / 1e9:.0f} GB. M/s, GFLOP/s and the share of the "
        "core's measured peak are for one thread.",
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(f"| {' | '.join(cells(row, here))} |" for row in rows),
    ]
    notes = [f"- {row.kernel}, {row.scene}: {row.note}." for row in rows if row.note]
    return "\n".join([*lines, "", *notes]) + "\n"
