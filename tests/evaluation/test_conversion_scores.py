"""The benchmark of conversions between fields, with a few steps."""

import json
from pathlib import Path

from sds3d.evaluation import conversion_scores as scores


def test_bench_writes_what_it_measures(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = scores.bench(tmp_path, ["triplane_nerf"], ["mug"], 2, 16, 1, lambda *step: told.append(step))
    assert told == [("triplane_nerf", 1, 2), ("triplane_nerf", 2, 2)]
    assert json.loads((tmp_path / "conversion.json").read_text())["scores"][0]["psnr"] == list(found[0].psnr)
    assert (tmp_path / "conversion.md").read_text().splitlines()[2].startswith("| triplane_nerf |")
    assert all(seconds > 0 for seconds in found[0].seconds)


def test_the_psnr_to_itself_is_without_bound_and_falls_with_the_difference() -> None:
    mug, house = scores.teacher("mug", 0), scores.teacher("house", 0)
    assert scores.psnr(mug, mug, 16) == float("inf")
    assert 0 < scores.psnr(mug, house, 16) < 25
