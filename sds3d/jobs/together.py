"""Several runs in one process, whose calls of the prior become one: this is what makes a large device busy.

Each run is driven as if it were alone, in a thread of its own. Of these threads one is awake at a time; it sleeps again
where it asks the prior, and when all sleep, their views are asked about in one call (DreamFusion's and any other rule's
mathematics are per view, so each run gets what it would have got alone, up to float error). Nothing else is shared:
noise, networks of rules, checkpoints, requests to pause and errors are each run's own, and a run that ends leaves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.priors.base import Prediction, Prior, TrainableScore
from sds3d.prompts.conditioning import Conditioning

Task = Callable[[Prior], None]
"""What a run does with the prior it is given."""


@dataclass
class _Call:
    x_t: Tensor
    t: Tensor
    cond: Conditioning
    cameras: Cameras | None
    answer: Prediction | Exception | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """Calls of one kind can be one call."""
        hidden, pooled = self.cond.hidden, self.cond.pooled
        shapes = self.x_t.shape[1:], hidden.shape[1:], None if pooled is None else pooled.shape[1:]
        return *shapes, self.x_t.dtype, self.cameras is None


class _Seat:
    """A run's thread: awake while `wake` was given and until it gives `asleep`."""

    def __init__(self) -> None:
        self.wake, self.asleep = threading.Semaphore(0), threading.Semaphore(0)
        self.call: _Call | None = None
        self.ended = False


class SharedPrior:
    """A prior as one of several runs sees it: `predict` waits for the others, all else is the prior's own."""

    def __init__(self, prior: Prior, seat: _Seat) -> None:
        self._prior, self._seat = prior, seat

    def __getattr__(self, name: str) -> object:
        return getattr(self._prior, name)

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """As `Prior.predict`. What needs a gradient is asked alone: a graph belongs to one run."""
        if torch.is_grad_enabled() and x_t.requires_grad:
            return self._prior.predict(x_t, t, cond, cameras)
        call = self._seat.call = _Call(x_t, t, cond, cameras)
        self._seat.asleep.release()
        self._seat.wake.acquire()
        if isinstance(call.answer, Exception):
            raise call.answer
        assert call.answer is not None
        return call.answer

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> TrainableScore:
        """As `Prior.trainable_score`: a network of this run alone."""
        return self._prior.trainable_score(generator, rank)


def drive_together(prior: Prior, tasks: Sequence[Task]) -> None:
    """Carry out all tasks, each with a prior whose calls are joined with the others'. A task handles its own errors.

    Deterministic: tasks are woken in their order.
    """
    seats = [_Seat() for _ in tasks]

    def sit(seat: _Seat, task: Task) -> None:
        seat.wake.acquire()
        try:
            task(cast(Prior, SharedPrior(prior, seat)))
        finally:
            seat.ended = True
            seat.asleep.release()

    threads = [threading.Thread(target=sit, args=pair, daemon=True) for pair in zip(seats, tasks, strict=True)]
    for thread in threads:
        thread.start()
    while awake := [seat for seat in seats if not seat.ended]:
        for seat in awake:
            seat.wake.release()
            seat.asleep.acquire()
        _answer(prior, [seat.call for seat in awake if not seat.ended and seat.call is not None])
    for thread in threads:
        thread.join()


@torch.no_grad()
def _answer(prior: Prior, calls: Sequence[_Call]) -> None:
    """One call of the prior for all calls of a kind."""
    by_kind: dict[tuple[object, ...], list[_Call]] = {}
    for call in calls:
        by_kind.setdefault(call.kind, []).append(call)
    for alike in by_kind.values():
        try:
            cameras = [call.cameras for call in alike if call.cameras is not None]
            whole = prior.predict(
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
