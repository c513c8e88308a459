"""A network's call, or its update, as one launch: CUDA graphs.

A U-Net of Stable Diffusion's size starts about a thousand kernels. For a few pictures, the host takes longer to start
them than a GPU to run them. A graph records them once for each set of shapes, and later calls replay it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MOST = 6
"""Graphs per network. Each keeps some memory, so that calls of further shapes are made as usual."""

Outputs = tuple[Tensor, ...]
Function = Callable[..., Outputs]
"""Maps tensors to tensors, on the device only: it never reads a value."""


@dataclass(frozen=True)
class Graph:
    """A recorded call. replay: computes `outputs` anew from what is in `inputs`."""

    inputs: Sequence[Tensor]
    outputs: Outputs
    replay: Callable[[], None]


def record(function: Function, inputs: Sequence[Tensor]) -> Graph:
    """Record a call on CUDA or ROCm, which has been made once before."""
    kept = [tensor.clone() for tensor in inputs]
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as those that draw previews, may use the device meanwhile.
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        outputs = function(*kept)
    return Graph(kept, outputs, graph.replay)


@cache
def _pool() -> Any:
    """Return the memory that all graphs share: they run one after another, and their outputs are copied at once."""
    return torch.cuda.graph_pool_handle()


def recorder(device: torch.device) -> Callable[[Function, Sequence[Tensor]], Graph] | None:
    """Return what records calls on this device; None if calls there gain nothing from it."""
    return record if device.type == "cuda" else None


class Graphs:
    """Calls of one network without gradients, of which the second one of the same shapes is recorded.

    The network's weights may change in place between calls, or by the calls, which may compute gradients inside. If a
    call cannot be recorded, a warning tells why, once, and all calls are made as usual. what: what the warning calls
    them.
    """

    def __init__(self, what: str = "the prior's calls") -> None:
        self._what = what
        self._graphs: dict[Hashable, Graph | None] = {}  # None: called once
        self._failed = False

    def __call__(self, function: Function, kind: Hashable, inputs: Sequence[Tensor]) -> Outputs:
        """Return `function(*inputs)`. kind: whatever the function depends on besides the tensors."""
        recording = recorder(inputs[0].device)
        if recording is None or self._failed or torch.is_grad_enabled():
            return function(*inputs)
        key = (kind, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        if key not in self._graphs and len(self._graphs) < MOST:
            self._graphs[key] = None  # libraries choose their algorithms in the first call
            return function(*inputs)
        if key not in self._graphs:
            return function(*inputs)
        graph = self._graphs[key]
        if graph is None:
            try:
                graph = self._graphs[key] = recording(function, inputs)
            except Exception as error:  # a library may copy, wait or allocate in a way that cannot be recorded
                self._failed = True
                self._graphs.clear()
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                logger.warning("%s are not recorded as CUDA graphs, and are slower: %s", self._what, reason)
                return function(*inputs)
        for kept, given in zip(graph.inputs, inputs, strict=True):
            kept.copy_(given)
        graph.replay()
        return tuple(output.clone() for output in graph.outputs)
