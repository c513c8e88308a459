"""Line charts."""

from __future__ import annotations

import re

from sds3d.app.charts import chart, thinned


def test_charts_show_finite_values_and_few_points():
    svg = chart("Losses", {"<b>": [(1, 1.0), (2, float("nan")), (3, 1000.0)], "flat": [(1, 2.0)]}, 3)
    assert "<b>" not in svg.replace("<figcaption><b>", "")
    (line,) = re.findall(r'points="([^"]+ [^"]+)"', svg)
    assert len(line.split()) == 2
    assert "No data yet" in chart("Losses", {"a": [(1, float("inf"))]}, 1)
    many = [(float(i), 1.0) for i in range(9001)]
    assert len(thinned(many)) < 200
    assert thinned(many)[-1] == many[-1]


def test_every_line_looks_different():
    svg = chart("Losses", {f"loss {n}": [(0, n), (1, n)] for n in range(28)}, 1)
    drawn = re.findall(r'<polyline [^>]*stroke="([^"]*)" stroke-dasharray="([^"]*)"', svg)
    named = re.findall(r'<path [^>]*stroke="([^"]*)" stroke-dasharray="([^"]*)"', svg)
    assert drawn == named
    assert len(set(drawn)) == len(drawn) == 28
