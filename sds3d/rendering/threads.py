"""Threads that run kernels: plain Python threads, since kernels release the GIL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def threads() -> int:
    """Threads that the kernels use: those torch was given."""
    return torch.get_num_threads()


@cache
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="sds3d-kernel")


def parallel(kernel: Callable[..., Any], *arguments: Any, n: int | None = None) -> None:
    """Run kernel(thread, number of threads, *arguments) on n threads, else on all; `kernel` releases the GIL."""
    n = n or threads()
    others = [_pool(n - 1).submit(kernel, thread, n, *arguments) for thread in range(1, n)] if n > 1 else []
    kernel(0, n, *arguments)
    for thread, other in enumerate(others, start=1):
        if other.cancel():  # not begun, as when other programs keep the cores busy: not waited for
            kernel(thread, n, *arguments)
        else:
            other.result()


def parallel_map(function: Callable[[int], Result], n: int) -> list[Result]:
    """[function(0), ..., function(n - 1)], on every thread; `function` spends its time without the GIL."""
    others = min(threads(), n) - 1
    if others < 1:
        return [function(i) for i in range(n)]
    # This thread works as well, on what the others have not begun.
    futures = [_pool(others).submit(function, i) for i in range(1, n)]
    first = function(0)
    return [first, *(function(i) if future.cancel() else future.result() for i, future in enumerate(futures, start=1))]
