"""The training loop of the toybox's networks: Muon and AdamW, a moving average, and complete checkpoints."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sds3d.files import read_plain, write_atomically
from sds3d.states import read_metadata, read_tensors, write_tensors
from sds3d.toybox.muon import Muon, split_parameters, sum_over_processes

Model = TypeVar("Model", bound=nn.Module)

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called as report(stage, step, total, figures). The figures of a training: its loss, its seconds, and measures."""


@dataclass(frozen=True)
class FitConfig:
    """How long to train, the peak learning rate, and the steps between checkpoints.

    steps: total number. minutes: if positive, the time that counts instead, which makes the result depend on the
    machine's speed.
    """

    steps: int
    rate: float
    checkpoint_every: int
    minutes: float = 0.0

    def fraction(self, step: int, seconds: float) -> float:
        """Return the completed part of the training, 1 at the end."""
        return seconds / (60 * self.minutes) if self.minutes else step / self.steps


@dataclass(frozen=True)
class Progress:
    """Steps and seconds of a training that are behind."""

    step: int = 0
    seconds: float = 0.0


def keep_settings(
    path: Path, settings: Mapping[str, Any], may_change: Collection[str], defaults: Mapping[str, Any]
) -> None:
    """Write the settings of a training to a JSON file, so that it is resumed with the same ones.

    may_change: names of settings that may differ. defaults: of settings that an earlier version may not have written.
    Raises ValueError if the training was begun with others.
    """
    text = json.dumps(settings, indent=2) + "\n"
    if path.exists():
        now, before = json.loads(text), {**defaults, **json.loads(read_plain(path))}
        changed = [f"{key}={before[key]}" for key in sorted(now.keys() - may_change) if before[key] != now[key]]
        if changed:
            raise ValueError(f"{path.parent} was begun with {' '.join(changed)}: use these again, or another --out")
    write_atomically(path, text.encode())


def fit(
    path: Path,
    name: str,
    model: Model,
    step: Callable[[torch.Generator], Tensor],
    measure: Callable[[Model], dict[str, float]],
    config: FitConfig,
    seed: int,
    report: Report,
    meanwhile: Callable[[], None] | None = None,
) -> Model:
    """Train a model on its device and return its moving average, in eval mode.

    path: of the checkpoint, which is resumed if it exists. name: of the stage in reports. step: returns the loss of a
    batch. measure: returns figures of the moving average. meanwhile: called after each step, on a GPU before it ends.

    The learning rate warms up, stays at its peak and decays linearly over the last 40 %. To lengthen a training, raise
    `steps` before the decay begins and resume. Muon trains the matrices, AdamW all other parameters. Under
    torch.distributed every process draws its own batches, gradients are averaged, and the first process measures and
    saves. On a CPU, two processes of one thread each are faster than one process of two threads. On a GPU, the whole
    step is one CUDA graph: `step` must not wait for the device, and shapes must not change.
    """
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    rate, decay, total = (torch.zeros((), device=device) for _ in range(3))
    matrices, others = split_parameters(model)
    adam = {"betas": (0.9, 0.99), "weight_decay": 0.01, "fused": True, "capturable": on_gpu}
    optimizers = (Muon(matrices, lr=rate), torch.optim.AdamW(others, lr=rate, **adam))  # type: ignore[arg-type]
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch.Generator(device)
    begun = load(path, model, average, optimizers) if path.exists() else Progress()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate  # shared, so that a CUDA graph follows it
    averages: list[Tensor] = [
        p for p, trained in zip(average.parameters(), model.parameters(), strict=True) if trained.requires_grad
    ]

    def update() -> None:
        model.zero_grad()
        loss = step(generator)
        loss.backward()
        if processes > 1:
            average_gradients(parameters, processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(averages, decay)
            torch._foreach_add_(averages, torch._foreach_mul(parameters, 1 - decay))
            total.add_(loss.detach())

    run = Graphed(update, generator) if on_gpu else update
    i, seconds, steps, figures, began = begun.step, begun.seconds, 0, {}, time.monotonic()
    while (fraction := config.fraction(i, seconds)) < 1:
        rate.fill_(config.rate * min(1.0, (i + 1) / 100) * min(1.0, max(0.02, (1 - fraction) / 0.4)))
        decay.fill_(min(0.998, (i + 1) / (i + 10)))
        # Seeded by the step, so that no random state has to be saved.
        generator.manual_seed((seed * 1_000_003 + i) * processes + rank)
        run()
        if meanwhile is not None:
            meanwhile()
        if on_gpu:
            torch.cuda.synchronize()
        i, steps, seconds = i + 1, steps + 1, begun.seconds + time.monotonic() - began
        finished = config.fraction(i, seconds) >= 1
        if rank == 0 and (i % config.checkpoint_every == 0 or finished):
            if i % (4 * config.checkpoint_every) == 0 or finished:
                figures = measure(average)
            expected = i if finished else config.steps if not config.minutes else round(i / config.fraction(i, seconds))
            report(name, i, expected, {"loss": total.item() / steps, "seconds": seconds, **figures})
            total.zero_()
            steps = 0
            save(path, model, average, optimizers, Progress(i, seconds))
    return average


class Graphed:
    """A function that works on the GPU, recorded as a CUDA graph after a few ordinary calls, then replayed."""

    def __init__(self, function: Callable[[], None], generator: torch.Generator) -> None:
        self._function, self._generator = function, generator
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self) -> None:
        """Do the function's work."""
        self._calls += 1
        if self._calls <= 3:  # lets cuDNN choose its algorithms, and optimizers make their states
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._function()
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._function()
        self._graph.replay()


def average_gradients(parameters: Sequence[Tensor], processes: int) -> None:
    """Average gradients over all processes, in place. A missing gradient counts as zero."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.div_(processes)
    sum_over_processes([parameter.grad for parameter in parameters if parameter.grad is not None])


def save(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
) -> None:
    """Write everything that the next step depends on."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for n, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{n}.{i}.{k}": v for k, v in state.items()}
    metadata = {"step": str(progress.step), "seconds": str(progress.seconds)}
    write_tensors(path, tensors, metadata)


def load(path: Path, model: nn.Module, average: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Load what `save` wrote."""
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
    return Progress(int(metadata["step"]), float(metadata["seconds"]))


def is_fitted(path: Path, steps: int) -> bool:
    """Return whether a checkpoint of `fit` exists and has completed `steps` steps."""
    return path.exists() and int(read_metadata(path)["step"]) >= steps
