"""Threads that run kernels: errors are raised in the caller, and no thread waits for one that has not started."""

from collections.abc import Iterator
from threading import Event, Thread, current_thread
from time import sleep

import pytest
import torch

from sds3d.rendering import threads


@pytest.fixture(params=[1, 3])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("failing", [0, 2])
def test_errors_of_any_thread_are_raised(failing: int) -> None:
    def fails(i: int) -> int:
        if i == failing:
            raise ValueError("no")
        return i * i

    with pytest.raises(ValueError, match="no"):
        threads.parallel_map(fails, 3)
    assert threads.parallel_map(lambda i: i * i, 5) == [0, 1, 4, 9, 16]


def test_parts_that_no_other_thread_has_started_run_here() -> None:
    free, begun, done = Event(), Event(), []

    def blocks(thread: int, n: int) -> None:
        if thread == 1:
            begun.set()
            free.wait(20)
        else:
            begun.wait(20)
            threads.parallel(lambda thread, n: done.append((thread, n, current_thread())), n=2)
            free.set()

    threads.parallel(blocks, n=2)
    assert done == [(0, 2, current_thread()), (1, 2, current_thread())]


def test_long_calls_are_shared_between_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def slow(i: int) -> tuple[int, Thread]:
        sleep(0.02)
        return i, current_thread()

    try:
        done = threads.parallel_map(slow, 16)
    finally:
        torch.set_num_threads(before)
    assert [i for i, _ in done] == list(range(16))
    here = sum(thread is current_thread() for _, thread in done)
    assert 4 <= here <= 12  # about half of them
