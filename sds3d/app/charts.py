"""Small line charts as SVG. They need no script and follow the colours of the theme."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import cycle

Points = Sequence[tuple[float, float]]
"""(x, y) in the order of x."""

COLORS = ("#4f46e5", "#0891b2", "#d97706", "#be185d", "#65a30d", "#7c3aed", "#64748b")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""Patterns of lines; the next one is taken when all colours are used."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 300, 120, 38, 16, 8
_MOST = 160  # points per line; more would not be visible


def chart(title: str, lines: Mapping[str, Points], last: int) -> str:
    """Draw lines over the steps 0 to `last`, on a logarithmic axis if the values span decades.

    Values that are not finite are left out, as are zeros on a logarithmic axis. Without values the chart says so.
    """
    values = [y for points in lines.values() for _, y in points if math.isfinite(y)]
    positive = [y for y in values if y > 0]
    decades = bool(positive) and min(values) >= 0 and max(positive) > 30 * min(positive)
    least = 0.0 if decades else -math.inf
    kept = {name: thinned([p for p in points if least < p[1] < math.inf]) for name, points in lines.items()}
    kept = {name: points for name, points in kept.items() if points}
    values = [y for points in kept.values() for _, y in points]
    if not values:
        return _figure(title, '<div class="nothing">No data yet</div>', "")
    place = math.log10 if decades else float
    low, high = place(min(values)), place(max(values))
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5

    def at(x: float, y: float) -> str:
        right = _LEFT + (_WIDTH - _LEFT - 6) * x / max(last, 1)
        down = _TOP + (_HEIGHT - _BOTTOM - _TOP) * (high - place(y)) / (high - low)
        return f"{right:.1f},{down:.1f}"

    marks = "".join(_mark(low + share * (high - low), share, decades) for share in (0, 0.5, 1))
    drawn = "".join(
        f'<polyline points="{" ".join(at(*p) for p in points)}" stroke="{color}" stroke-dasharray="{dash}"/>'
        for points, (color, dash) in zip(kept.values(), styles(), strict=False)
    )
    ends = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">0</text>'
        f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 4}" text-anchor="end">step {last}</text>'
    )
    names = "".join(
        f'<span><svg viewBox="0 0 18 4" aria-hidden="true"><path d="M0 2H18" stroke="{color}" '
        f'stroke-dasharray="{dash}"/></svg>{escape(name)}</span>'
        for name, (color, dash) in zip(kept, styles(), strict=False)
    )
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{marks}{ends}{drawn}</svg>'
    return _figure(title, svg, names if len(kept) > 1 else "")


def styles() -> Iterator[tuple[str, str]]:
    """Yield colours and dash patterns of lines: 28 different ones, then the same again."""
    return cycle((color, dash) for dash in DASHES for color in COLORS)


def thinned(points: Points) -> Points:
    """Return at most about 160 of the points, including the last."""
    stride = max(1, math.ceil(len(points) / _MOST))
    return [*points[:-1:stride], *points[-1:]]


def _mark(value: float, share: float, decades: bool) -> str:
    y = _TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - share)
    number = 10**value if decades else value
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{_number(number)}</text>'
    )


def _number(value: float) -> str:
    """Format a number in few characters: 0.012, 3.4, 1.2e5."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _figure(title: str, body: str, names: str) -> str:
    return f'<figure class="sds-chart"><figcaption><b>{escape(title)}</b>{names}</figcaption>{body}</figure>'
