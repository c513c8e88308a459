"""Run kernels on several threads. Plain Python threads are enough, because kernels release the GIL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def threads() -> int:
    """Return how many threads kernels use: as many as torch."""
    return torch.get_num_threads()


@cache
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="sds3d-kernel")


def parallel(kernel: Callable[..., Any], *arguments: Any, n: int | None = None) -> None:
    """Run kernel(thread, n, *arguments) on n threads, by default on all. `kernel` must release the GIL."""
    n = n or threads()
    others = [_pool(n - 1).submit(kernel, thread, n, *arguments) for thread in range(1, n)] if n > 1 else []
    kernel(0, n, *arguments)
    for thread, other in enumerate(others, start=1):
        if other.cancel():  # not started yet, because other programs keep the cores busy: run it here
            kernel(thread, n, *arguments)
        else:
            other.result()


def parallel_map(function: Callable[[int], Result], n: int) -> list[Result]:
    """Return [function(0), ..., function(n - 1)], computed on all threads. `function` must release the GIL."""
    others = min(threads(), n) - 1
    if others < 1:
        return [function(i) for i in range(n)]
    futures = [_pool(others).submit(function, i) for i in range(n)]
    # The other threads start with the first calls and this one with the last, until they meet.
    mine = []
    while len(mine) < n and futures[-1 - len(mine)].cancel():
        mine.append(function(n - 1 - len(mine)))
    return [future.result() for future in futures[: n - len(mine)]] + mine[::-1]
