"""The training loop of the toybox's networks: Muon and AdamW, a moving average, and complete checkpoints."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sds3d.toybox.muon import Muon, split_parameters, sum_over_processes

Model = TypeVar("Model", bound=nn.Module)

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called as report(stage, step, total, figures)."""


@dataclass(frozen=True)
class FitConfig:
    """Total steps, peak learning rate, steps between checkpoints."""

    steps: int
    rate: float
    checkpoint_every: int


def fit(
    path: Path,
    name: str,
    model: Model,
    step: Callable[[torch.Generator], Tensor],
    measure: Callable[[Model], dict[str, float]],
    config: FitConfig,
    seed: int,
    report: Report,
) -> Model:
    """Train a model and return its moving average, in eval mode.

    path: of the checkpoint, which is resumed if it exists. name: of the stage in reports. step: returns the loss of a
    batch. measure: returns figures of the moving average.

    The learning rate warms up, stays at its peak and decays linearly over the last 40 %. To lengthen a training, raise
    `steps` before the decay begins and resume. Muon trains the matrices, AdamW all other parameters. Under
    torch.distributed every process draws its own batches, gradients are averaged, and the first process measures and
    saves. On a CPU, two processes of one thread each are faster than one process of two threads.
    """
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    matrices, others = split_parameters(model)
    optimizers = (
        Muon(matrices, lr=config.rate),
        torch.optim.AdamW(others, lr=config.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch.Generator()
    start, spent = 0, 0.0
    if path.exists():
        start, spent = load(path, model, average, optimizers)
    averages = [p for p, trained in zip(average.parameters(), model.parameters(), strict=True) if trained.requires_grad]
    figures, losses, began = {}, [], time.monotonic()
    for i in range(start, config.steps):
        fraction = i / config.steps
        scale = min(1.0, (i + 1) / 100) * min(1.0, max(0.02, (1 - fraction) / 0.4))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.rate * scale
        # Seeded by the step, so that no random state has to be saved.
        generator.manual_seed((seed * 1_000_003 + i) * processes + rank)
        loss = step(generator)
        model.zero_grad()
        loss.backward()
        if processes > 1:
            average_gradients(parameters, processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            for kept, fresh in zip(averages, parameters, strict=True):
                kept.lerp_(fresh, 1 - min(0.998, (i + 1) / (i + 10)))
        losses.append(loss.item())
        done = i + 1
        if rank == 0 and (done % config.checkpoint_every == 0 or done == config.steps):
            if done % (4 * config.checkpoint_every) == 0 or done == config.steps:
                figures = measure(average)
            seconds = spent + time.monotonic() - began
            report(name, done, config.steps, {"loss": float(np.mean(losses)), "seconds": seconds, **figures})
            losses = []
            save(path, model, average, optimizers, done, seconds)
    return average


def average_gradients(parameters: Sequence[nn.Parameter], processes: int) -> None:
    """Average gradients over all processes, in place. A missing gradient counts as zero."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.div_(processes)
    sum_over_processes([parameter.grad for parameter in parameters if parameter.grad is not None])


def save(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    seconds: float,
) -> None:
    """Write everything that the next step depends on."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for n, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{n}.{i}.{k}": v for k, v in state.items()}
    write_tensors(path, tensors, {"step": str(step), "seconds": str(seconds)})


def load(
    path: Path, model: nn.Module, average: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Load what `save` wrote. Return the completed steps and the seconds spent."""
    tensors, metadata = read_tensors(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model."))
    average.load_state_dict(part("average."))
    for n, optimizer in enumerate(optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, saved in part(f"optimizer.{n}.").items():
            index, name = key.split(".")
            # The fused step walks through memory: moments need the memory format of their parameter (channels last).
            value = torch.empty_like(parameters[int(index)]).copy_(saved) if saved.ndim else saved
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"]), float(metadata["seconds"])


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under another name and rename it, so that a kill leaves the old file intact."""
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
    os.replace(partial, path)


def is_fitted(path: Path, steps: int) -> bool:
    """Return whether a checkpoint of `fit` exists and has completed `steps` steps."""
    return path.exists() and int(read_metadata(path)["step"]) >= steps


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its tensors."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
