"""Start NVIDIA Warp, and launch its kernels on torch tensors, on the GPU or on the CPU.

Warp compiles a module of kernels at its first launch, for the CPU or with the CUDA compiler in its wheel, and keeps the
result in its cache folder (WARP_CACHE_PATH). Kernels run on torch's current stream. They allocate nothing and wait for
nothing, so a CUDA graph can capture them once they have run.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import tempfile
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sds3d.extras import install_command

try:
    import warp as wp
except ImportError as error:
    raise ImportError(f"NVIDIA Warp, which renders on CUDA, is missing: {install_command('cuda')}") from error

if hasattr(wp.config, "log_level"):  # no banner
    wp.config.log_level = wp.LOG_WARNING
else:
    wp.config.quiet = True
try:
    wp.init()
    tempfile.TemporaryFile(dir=wp.config.kernel_cache_dir).close()
except OSError as error:
    warnings.warn(f"Warp's compiled kernels cannot be kept, set WARP_CACHE_PATH to a folder: {error}", stacklevel=2)
    _temporary = tempfile.TemporaryDirectory(prefix="warp-")  # removed at the end of the process
    wp.config.kernel_cache_dir = _temporary.name
    wp.init()


def launch(kernel: Any, size: int | tuple[int, ...], *arguments: Tensor | float, block: int = 256) -> None:
    """Run a kernel in `size` threads on the device of its first tensor.

    arguments: in the order of the kernel's parameters. Tensors are contiguous; a parameter of vectors or matrices takes
    their components from the last axes. block: threads of a CUDA block.
    """
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    inputs = [
        wp.from_torch(argument, dtype=dtype, requires_grad=False, return_ctype=True)
        if isinstance(argument, Tensor)
        else argument
        for argument, dtype in zip(arguments, _dtypes(kernel), strict=True)
    ]
    stream = _stream(device.index, torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else None
    wp.launch(kernel, dim=size, inputs=inputs, device=_device(device), stream=stream, block_dim=block)


@cache
def _dtypes(kernel: Any) -> list[Any]:
    """Return what the elements of a kernel's parameters are, None where a parameter is no array."""
    return [getattr(argument.type, "dtype", None) for argument in kernel.adj.args]


@cache
def _device(device: torch.device) -> Any:
    return wp.device_from_torch(device)


@cache
def _stream(index: int, address: int) -> Any:
    """Return Warp's handle of a stream of torch, which keeps its streams for as long as the process lives."""
    return wp.Stream(wp.device_from_torch(torch.device("cuda", index)), cuda_stream=address)
