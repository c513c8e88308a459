"""Numbers over time: a plain number, or knots with straight lines between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, PlainSerializer, PlainValidator

EXPECTED = "a number, or knots [[progress, value], ...]"
"""What a setting over time takes, for help texts and errors."""


def check_order(places: Sequence[float]) -> None:
    """Raise ValueError unless the knots' places never fall; two knots in the same place are a jump."""
    for before, after in pairwise(places):
        if before > after:
            raise ValueError(f"the knot at {after:g} follows the one at {before:g}: sort them by progress")


def interpolated(knots: Sequence[tuple[float, ...]], progress: float) -> tuple[float, ...]:
    """Return the values at `progress`, linear between knots (progress, *values), constant before the first and after
    the last; at a jump, the values after it. There must be at least one knot, and they must be in order.
    """
    before = [knot for knot in knots if knot[0] <= progress]
    after = [knot for knot in knots if knot[0] > progress]
    if not before or not after:
        return (before[-1] if before else after[0])[1:]
    (begin, *start), (end, *stop) = before[-1], after[0]
    share = (progress - begin) / (end - begin)
    return tuple((1 - share) * a + share * b for a, b in zip(start, stop, strict=True))


@dataclass(frozen=True)
class Ramp:
    """A number over the progress of a run, as the type of a setting.

    value: a number, or at least one knot (progress, value) with progress in [0, 1] that never falls from one knot to
    the next. Between knots the number moves linearly. Two knots at the same progress are a jump. Before the first knot
    and after the last it is constant. All numbers are finite; texts such as "1e-5" count as numbers.

    Raises ValueError for anything else. A setting is dumped as it was given: a plain number stays one.
    `ramp >= 0` and the other comparisons hold if they hold for all values, so that pydantic's bounds apply.
    """

    value: float | tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _parsed(self.value))

    @property
    def values(self) -> tuple[float, ...]:
        """The number, or that of each knot: the extremes over the run are among them."""
        return tuple(value for _, value in self.value) if isinstance(self.value, tuple) else (self.value,)

    @property
    def places(self) -> tuple[float, ...]:
        """The progress of each knot; that of a plain number is 0."""
        return tuple(place for place, _ in self.value) if isinstance(self.value, tuple) else (0.0,)

    def at(self, progress: float, rise: float = 1.0) -> float:
        """Return the number at `progress` in [0, 1]. rise: factor on a plain number, for settings whose plain numbers
        rise by themselves; knots replace this.
        """
        if isinstance(self.value, tuple):
            return interpolated(self.value, progress)[0]
        return self.value * rise

    def geometric(self, progress: float) -> float:
        """Return the number at `progress`, with straight lines in its logarithm, as learning rates decay. All values
        must be above 0.
        """
        if not isinstance(self.value, tuple):
            return self.value
        return math.exp(interpolated([(place, math.log(value)) for place, value in self.value], progress)[0])

    def __truediv__(self, divisor: float) -> Ramp:
        """Return the number divided by another one at any progress."""
        if isinstance(self.value, tuple):
            return Ramp(tuple((place, value / divisor) for place, value in self.value))
        return Ramp(self.value / divisor)

    def plain(self) -> float | list[list[float]]:
        """Return the number, or the knots as lists, as JSON and YAML have them."""
        return [list(knot) for knot in self.value] if isinstance(self.value, tuple) else self.value

    def __bool__(self) -> bool:
        """Return whether the number is ever other than 0."""
        return any(self.values)

    def __ge__(self, bound: float) -> bool:
        return all(value >= bound for value in self.values)

    def __gt__(self, bound: float) -> bool:
        return all(value > bound for value in self.values)

    def __le__(self, bound: float) -> bool:
        return all(value <= bound for value in self.values)

    def __lt__(self, bound: float) -> bool:
        return all(value < bound for value in self.values)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        read = PlainValidator(lambda given: given if isinstance(given, cls) else cls(given))
        return handler.generate_schema(Annotated[Any, read, PlainSerializer(cls.plain)])


def _line(given: Any) -> Any:
    if (
        isinstance(given, (list, tuple))
        and len(given) == 2
        and not any(isinstance(end, (list, tuple)) for end in given)
    ):
        return [[0.0, given[0]], [1.0, given[1]]]
    return given


Line = Annotated[Ramp, BeforeValidator(_line)]
"""A `Ramp` that may also be given as a pair: the numbers at the start and at the end of the run."""


def _parsed(given: Any) -> float | tuple[tuple[float, float], ...]:
    if not isinstance(given, (list, tuple)):
        return _number(given, f"give {EXPECTED}")
    if not given:
        raise ValueError(f"no knots: give {EXPECTED}")
    knots = tuple(_knot(knot) for knot in given)
    check_order([progress for progress, _ in knots])
    return knots


def _knot(given: Any) -> tuple[float, float]:
    problem = f"{str(given)[:40]} is not a knot: give [progress, value], both numbers"
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ValueError(problem)
    progress, value = (_number(part, problem) for part in given)
    if not 0 <= progress <= 1:
        raise ValueError(f"a knot at {progress:g}: give its progress from 0, the first step, to 1, the last")
    return progress, value


def _number(given: Any, problem: str) -> float:
    if isinstance(given, (int, float, str)) and not isinstance(given, bool):
        try:
            number = float(given)
        except (ValueError, OverflowError):
            raise ValueError(problem) from None
        if math.isfinite(number):
            return number
    raise ValueError(problem)
