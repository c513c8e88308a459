"""Tables and pictures of the benchmark of the toy world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sds3d.evaluation.asset_scores import Asset, Summary, portrait, summary
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.evaluation.world_scores import Figures, Results, Verdict
from sds3d.formats.pictures import contact_sheet, picture_grid
from sds3d.prompts.prompt import slug
from sds3d.toybox.captions import parse

_COLUMNS = ("right", "no Janus", "part", "IoU", "cm", "s")
HEADER = ("", "assets", *_COLUMNS, "FID", "dB")
KINDS_HEADER = ("kind", *_COLUMNS, "notes")
CHECKS_HEADER = ("", "measured", "least", "")


def cells(name: str, figures: Figures) -> list[str]:
    """Return a row of the table of all presets and priors."""
    decoder = f"{figures.record.decoder:.1f}" if figures.record else "-"
    count = f"{figures.of_all.assets} of {figures.planned}"
    return [name, count, *_scores(figures.of_all), f"{figures.fid:.0f}", decoder]


def kind_rows(assets: Iterable[Asset]) -> list[list[str]]:
    """Return a row for each kind of object, the weakest first."""
    groups: dict[str, list[Asset]] = {}
    for asset in assets:
        spec = parse(asset.score.prompt)
        assert spec is not None
        groups.setdefault(spec.category, []).append(asset)
    rows = [(summary([a.score for a in group]), kind, _notes(group)) for kind, group in groups.items()]
    rows.sort(key=lambda row: (row[0].recognised, row[0].without_janus is not None and row[0].without_janus, row[1]))
    return [[kind, *_scores(figures), notes] for figures, kind, notes in rows]


def check_rows(verdict: Verdict) -> list[list[str]]:
    """Return a row for each check of a verdict."""
    return [
        [check.name, _figure(check.value), _figure(check.least), "passed" if check.passed else "not passed"]
        for check in verdict.checks
    ]


def write(root: Path, results: Results) -> None:
    """Write the tables as results.md, all figures as results.json, and pictures.

    For each preset and prior, and for the truth: a sheet of all assets from eight sides, and a gallery with one
    picture of each. side_by_side.png compares four sides.
    """
    parts = [markdown_table(HEADER, [cells(*row) for row in results.figures.items()])]
    for verdict in results.verdicts:
        parts.append(f"\n## {verdict.name}: {verdict}\n\n{markdown_table(CHECKS_HEADER, check_rows(verdict))}")
    for name, assets in results.assets.items():
        if name != "truth":
            parts.append(f"\n## Kinds: {name}\n\n{markdown_table(KINDS_HEADER, kind_rows(assets))}")
    details = {
        "summary": {name: asdict(figures) for name, figures in results.figures.items()},
        "verdicts": [{**asdict(verdict), "outcome": str(verdict)} for verdict in results.verdicts],
        "assets": {name: [asdict(asset.score) for asset in assets] for name, assets in results.assets.items()},
    }
    write_results(root, "results", details, "".join(parts))
    for name, assets in results.assets.items():
        contact_sheet([(_label(asset), asset.rgb) for asset in assets]).save(root / f"{slug(name)}.png")
        views = [(asset.score.prompt, portrait(asset)) for asset in assets]
        picture_grid(views).save(root / f"{slug(name)}-gallery.webp", quality=90)
    first, *_ = results.assets.values()
    rows = []
    for asset in first:
        same = [
            a.rgb[::2] for assets in results.assets.values() for a in assets if a.score.prompt == asset.score.prompt
        ]
        rows.append((asset.score.prompt, np.concatenate(same)))
    headings = [heading for name in results.assets for heading in (name, "", "", "")]
    contact_sheet(rows, headings, size=64).save(root / "side_by_side.png")


def _scores(figures: Summary) -> list[str]:
    chamfer = "-" if figures.chamfer is None else f"{figures.chamfer:.1f}"
    shares = [_figure(share) for share in (figures.recognised, figures.without_janus, figures.part)]
    return [*shares, f"{figures.iou:.2f}", chamfer, f"{figures.seconds:.0f}"]


def _figure(value: float | None) -> str:
    """Return a share as percent, and a value above 1 as it is."""
    return "-" if value is None else f"{value:.1%}" if value <= 1 else f"{value:.1f}"


def _notes(assets: Sequence[Asset]) -> str:
    read = Counter(asset.score.read_as for asset in assets if asset.score.read_as)
    failed = [f"{asset.score.prompt} failed" for asset in assets if asset.score.failed]
    return ", ".join([*(f"read as {name}" for name, _ in read.most_common()), *failed])


def _label(asset: Asset) -> str:
    score = asset.score
    janus = ", Janus" if score.janus else ""
    return f"{score.prompt}: {'failed' if score.failed else f'{score.recognised:.0%}{janus}'}"
