"""A GPU that computes nothing, to count what a step asks of one: torch's meta device, whose tensors have shapes only.

The step takes the path of CUDA with NVIDIA Warp's kernels: `pretended` puts stand-ins where the meta device lacks
something. Every value that is read from it is made up, and recorded as a point at which the host would wait. An
operation of torch is counted as one launch, although it may start several kernels of a GPU or, rarely, none.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sds3d.priors import graphs
from sds3d.rendering import gpu
from sds3d.run import optimize

META = torch.device("meta")
FOUND = 64
"""Made-up number of entries that a search finds, of samples along rays, and so on."""
FREE = {
    name
    for line in (
        "_reshape_alias _unsafe_view alias as_strided chunk detach diagonal empty empty_like empty_strided expand",
        "is_same_size lift_fresh new_empty new_empty_strided permute select slice split split_with_sizes squeeze t",
        "transpose unbind unfold unsqueeze view",
    )
    for name in line.split()
}
"""Operations that queue no work on a device: views and memory."""


class Watch(TorchDispatchMode):
    """Counts the operations on the meta device, and makes up what is read from it.

    launches: operations that the host launches, and graphs that it replays. recorded: operations within these graphs.
    waits: where the host would wait for the device, as tracebacks. wide: operations whose results are float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.recorded = 0, 0
        self.waits: list[str] = []
        self.wide: list[str] = []
        self._recording = False
        self._lists = _Lists(self.waits)

    def forget(self) -> None:
        """Start counting anew."""
        self.launches, self.recorded = 0, 0
        self.waits.clear()
        self.wide.clear()

    def launched(self) -> None:
        """Count one launch."""
        if self._recording:
            self.recorded += 1
        else:
            self.launches += 1

    def record(self, function: graphs.Function, inputs: Sequence[Tensor]) -> graphs.Graph:
        """Stand in for `graphs.record`. The call is made once, to count its operations, and never again."""
        before, self._recording = self.recorded, True
        try:
            outputs = function(*inputs)
        finally:
            self._recording = False
        count = self.recorded - before

        def replay() -> None:
            self.launches += 1
            self.recorded += count

        return graphs.Graph(inputs, outputs, replay)

    def __enter__(self) -> Watch:
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given, name = dict(kwargs or {}), func.overloadpacket.__name__
        if not any(_is_meta(leaf) for leaf in tree_leaves((args, given))):
            result = func(*args, **given)
            if _is_meta(result):  # a new tensor, or a copy to the device
                self._count(name, result)
                if name == "_to_copy" and not given.get("non_blocking"):
                    self.waits.append(_caller())
            return result
        masked = _masked(name, args)
        if masked is not None or name in READERS or _to_host(name, args, given):
            self.waits.append(_caller())
        if name == "copy_" and args[1].device.type == "cpu" and not (args[2:] or given.get("non_blocking")):
            self.waits.append(_caller())
        result = self._result(func, name, args if masked is None else masked, given)
        self._count(name, result)
        return result

    def _result(self, func: Any, name: str, args: Sequence[Any], given: dict[str, Any]) -> Any:
        if name in READERS:
            return READERS[name](*args, **given)
        if _to_host(name, args, given):
            value, dtype = args[1] if name == "copy_" else args[0], given.get("dtype")
            ones = torch.ones(value.shape, dtype=dtype or value.dtype)
            return args[0].copy_(ones) if name == "copy_" else ones
        return func(*args, **given)

    def _count(self, name: str, result: Any) -> None:
        if name in FREE:
            return
        self.launched()
        self.wide += [name for leaf in tree_leaves(result) if _is_meta(leaf) and leaf.dtype == torch.float64]


class _Lists(TorchFunctionMode):
    """Keeps where a list or a number becomes a tensor on the meta device by a copy: a new one, an index, a value."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = args[1 if func is Tensor.new_tensor else 0] if func in _MAKERS else None
        index = args[1] if func in _INDEXED and args[0].device == META else ()
        parts = index if isinstance(index, tuple) else (index,)
        new = isinstance(made, (list, tuple, int, float)) and result.device == META
        # A number for entries at given places is copied to the device; one for those under a mask is not.
        places = any(isinstance(part, Tensor) and part.dtype != torch.bool and part.ndim for part in parts)
        number = places and func is Tensor.__setitem__ and not isinstance(args[2], Tensor)
        if new or number or any(isinstance(part, list) for part in parts):
            self._waits.append(_caller())
        return result


_MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
_INDEXED = {Tensor.__getitem__, Tensor.__setitem__}


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device == META


def _caller() -> str:
    return "".join(traceback.format_stack(limit=20)[:-2])


def _to_host(name: str, args: Sequence[Any], given: Mapping[str, Any]) -> bool:
    """Whether an operation copies from the device to the CPU."""
    if name == "_to_copy":
        return torch.device(given.get("device") or META).type == "cpu"
    return name == "copy_" and args[0].device.type == "cpu"


def _masked(name: str, args: Sequence[Any]) -> list[Any] | None:
    """Return the arguments of an operation with a mask among its indices, with made-up indices instead; None if it has
    none.

    How many entries a mask selects is known on the device only. To fill them with a number needs no count.
    """
    if name not in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"):
        return None
    if not any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]):
        return None
    if name == "index_put_" and args[2].ndim == 0:
        return None
    indices = []
    for index in args[1]:
        mask = isinstance(index, Tensor) and index.dtype == torch.bool
        indices += [_integers(FOUND)] * index.ndim if mask else [index]
    return [args[0], indices, *args[2:]]


def _integers(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device=META)


def _number(value: Tensor) -> bool | int | float:
    return True if value.dtype == torch.bool else 1.0 if value.dtype.is_floating_point else FOUND


def _unique_rows(values: Tensor, dim: int = 0, *options: Any, **named: Any) -> tuple[Tensor, ...]:
    return values.new_empty(FOUND, *values.shape[1:]), _integers(values.shape[dim]), _integers(FOUND)


READERS: dict[str, Callable[..., Any]] = {
    "_local_scalar_dense": _number,
    "equal": lambda a, b: True,
    "nonzero": lambda values: _integers(FOUND, values.ndim),
    "masked_select": lambda values, mask: values.new_empty(FOUND),
    "bincount": lambda values, weights=None, minlength=0: _integers(max(FOUND, minlength)),
    "unique_dim": _unique_rows,
    "_unique2": lambda values, *options, **named: (
        values.new_empty(FOUND), _integers(*values.shape), _integers(FOUND)
    ),
    "repeat_interleave": lambda repeats, output_size=None: _integers(FOUND),
}  # fmt: skip
"""Operations whose results have sizes that only the device knows, or that return its values to the host."""


class _Warp:
    """What `launch_warp` asks of Warp, without kernels."""

    def __init__(self, watch: Watch) -> None:
        self.launch = lambda *given, **named: watch.launched()
        self.from_torch = lambda *given, **named: None
        self.device_from_torch = lambda device: None


@contextmanager
def pretended() -> Iterator[Watch]:
    """Treat the meta device as a GPU in a block, and watch it. Numbers of steps are never read.

    Raises ImportError without NVIDIA Warp.
    """
    from sds3d.rendering import launch_warp

    watch, choose = Watch(), gpu.choose

    def chosen(task: gpu.Task, *tensors: Tensor) -> gpu.Backend:
        whole = all(tensor.dtype == torch.float32 for tensor in tensors)
        return "warp" if tensors[0].device == META and whole else choose(task, *tensors)

    with ExitStack() as stack:
        for where, name, stand_in in (
            ("sds3d.updates", "runs_late", lambda device: device == META),
            # torch imports a submodule under the name of a class
            (sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["meta"]),
            (optimize.LoopState, "settle", lambda state: None),
            (gpu, "choose", chosen),
            (graphs, "recorder", lambda device: watch.record if device == META else None),
            (launch_warp, "wp", _Warp(watch)),
        ):
            holder = sys.modules[where] if isinstance(where, str) else where
            stack.enter_context(patch.object(holder, name, stand_in))
        yield stack.enter_context(watch)
