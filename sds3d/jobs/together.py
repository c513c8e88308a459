"""Several runs in one process, with their calls of a prior joined into one, which keeps a large device busy.

Each run is driven in its own thread, as if it were alone. Only one thread is awake at a time. It sleeps when it calls
a prior, and when all threads sleep, one call answers for all of them. Every rule treats views independently, so each
run gets the same answer as alone, up to float error. Nothing else is shared: each run has its own noise, networks,
checkpoints, requests and errors, and a finished run leaves the group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.priors.base import Prediction, Prior, PriorConfig, TrainableScore
from sds3d.prompts.conditioning import Conditioning
from sds3d.run.drive import Load

Task = Callable[[Load], None]
"""Drives one run with the priors that it loads."""


@dataclass
class _Call:
    prior: Prior
    x_t: Tensor
    t: Tensor
    cond: Conditioning
    cameras: Cameras | None
    answer: Prediction | Exception | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """Calls of the same kind can be joined."""
        told = tuple((name, value.shape[1:]) for name, value in self.cond.tensors().items())
        return id(self.prior), self.x_t.shape[1:], told, self.x_t.dtype, self.cameras is None


class _Turn:
    """The state of a run's thread: awake from the release of `wake` to the release of `asleep`."""

    def __init__(self) -> None:
        self.wake, self.asleep = threading.Semaphore(0), threading.Semaphore(0)
        self.call: _Call | None = None
        self.ended = False


class SharedPrior:
    """A prior that one of several runs sees: `predict` waits for the other runs; all else is the prior's."""

    def __init__(self, prior: Prior, turn: _Turn) -> None:
        self._prior, self._turn = prior, turn

    def __getattr__(self, name: str) -> object:
        return getattr(self._prior, name)

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """See `Prior.predict`. Calls that need a gradient are not joined, because a graph belongs to one run."""
        if torch.is_grad_enabled() and x_t.requires_grad:
            return self._prior.predict(x_t, t, cond, cameras)
        call = self._turn.call = _Call(self._prior, x_t, t, cond, cameras)
        self._turn.asleep.release()
        self._turn.wake.acquire()
        self._turn.call = None  # it holds the prior, which may be released
        if isinstance(call.answer, Exception):
            raise call.answer
        assert call.answer is not None
        return call.answer

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> TrainableScore:
        """See `Prior.trainable_score`. The network belongs to this run alone."""
        return self._prior.trainable_score(generator, rank)


def drive_together(load: Load, tasks: Sequence[Task]) -> None:
    """Run all tasks, each with priors that join its calls with those of the others.

    load: returns the same prior to all tasks. Tasks handle their own errors. Deterministic: tasks are woken in order.
    """
    turns = [_Turn() for _ in tasks]

    def take(turn: _Turn, task: Task) -> None:
        def shared(wanted: Sequence[PriorConfig]) -> list[Prior]:
            return [cast(Prior, SharedPrior(prior, turn)) for prior in load(wanted)]

        turn.wake.acquire()
        try:
            task(shared)
        finally:
            turn.ended = True
            turn.asleep.release()

    threads = [threading.Thread(target=take, args=pair, daemon=True) for pair in zip(turns, tasks, strict=True)]
    for thread in threads:
        thread.start()
    while awake := [turn for turn in turns if not turn.ended]:
        for turn in awake:
            turn.wake.release()
            turn.asleep.acquire()
        _answer([turn.call for turn in awake if not turn.ended and turn.call is not None])
    for thread in threads:
        thread.join()


@torch.no_grad()
def _answer(calls: Sequence[_Call]) -> None:
    """Answer the calls with one call of a prior for each kind."""
    by_kind: dict[tuple[object, ...], list[_Call]] = {}
    for call in calls:
        by_kind.setdefault(call.kind, []).append(call)
    for alike in by_kind.values():
        try:
            cameras = [call.cameras for call in alike if call.cameras is not None]
            whole = alike[0].prior.predict(
                torch.cat([call.x_t for call in alike]),
                torch.cat([call.t for call in alike]),
                Conditioning.cat([call.cond for call in alike]),
                Cameras.cat(cameras) if cameras else None,
            )
        except Exception as error:
            for call in alike:
                call.answer = error
            continue
        begin = 0
        for call in alike:
            end = begin + len(call.x_t)
            call.answer = whole[begin:end]
            begin = end
