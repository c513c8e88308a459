"""The correctness of assets: held-out prompts of the toy world, measured by the scorer against the ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.evaluation.likeness import likeness
from sds3d.files import write_atomically
from sds3d.formats.load import load_asset
from sds3d.formats.pictures import contact_sheet
from sds3d.geometry.mesh import Mesh
from sds3d.priors.base import Prior
from sds3d.prompts.prompt import slug
from sds3d.run.config import make_config, new_run
from sds3d.run.drive import drive
from sds3d.run.folder import Run
from sds3d.run.outputs import load_scene
from sds3d.toybox.captions import category_prompt, held_out, prompt
from sds3d.toybox.objects import build
from sds3d.toybox.render import render_prompt
from sds3d.toybox.scorer import Scorer, load_scorer, score
from sds3d.toybox.world import CATEGORIES, HAS_FRONT, Spec

AZIMUTHS = 8
ELEVATION = 15.0


@dataclass(frozen=True)
class AssetScore:
    """The scores of one asset, from AZIMUTHS pictures around it.

    recognised: share of the pictures in which the scorer reads the right category and colour.
    janus: whether the asset has a face in a wrong place, or none (see `has_janus`). None for objects without a front.
    seconds: of the whole run. iou, chamfer: likeness of its mesh to true objects, see `likeness`.
    """

    prompt: str
    recognised: float
    janus: bool | None
    seconds: float
    iou: float
    chamfer: float


def bench_prompts(n: int = 32, kinds: Sequence[str] = CATEGORIES) -> list[Spec]:
    """Return the first n held-out combinations of these kinds: kinds take turns, and colours vary.

    Sixteen in a row are spread evenly over the kinds, because similar kinds stand side by side in the world's table.
    """
    apart = max(1, round(len(kinds) / 16))
    order = [kind for first in range(apart) for kind in kinds[first::apart]]
    by_category = {c: sorted((s for s in held_out() if s.category == c), key=prompt) for c in kinds}
    rng = np.random.default_rng(0)
    for specs in by_category.values():
        rng.shuffle(specs)  # type: ignore[arg-type]
        specs.sort(key=lambda spec: spec.accent is not None)  # the plain colour first
    turns = max(len(specs) for specs in by_category.values())
    ordered = [by_category[c][i] for i in range(turns) for c in order if i < len(by_category[c])]
    return ordered[:n]


def has_janus(azimuth: Tensor, read: Tensor) -> bool:
    """Return whether an object has a second face, or none.

    azimuth: (B,) true azimuths in degrees. read: (B,) azimuths in degrees that the scorer reads. The front must be read
    in the picture from the front or in one of its neighbours, and in no picture from behind (135 degrees or more away).
    """
    away = (azimuth + 180) % 360 - 180
    front = ((read + 180) % 360 - 180).abs() < 22.5
    second_face = bool((front & (away.abs() >= 135)).any())
    faceless = not bool((front & (away.abs() <= 45)).any())
    return second_face or faceless


def score_asset(scorer: Scorer, spec: Spec, rgb: NDArray[np.float32], mesh: Mesh, seconds: float) -> AssetScore:
    """Score an asset by its mesh and pictures (AZIMUTHS, 64, 64, 3) in [0, 1], evenly around it from the front."""
    scores = score(scorer, torch.from_numpy(rgb))
    right = [c == spec.category and k == spec.color for c, k in zip(scores.category, scores.color, strict=True)]
    azimuth = torch.arange(AZIMUTHS) * (360.0 / AZIMUTHS)
    janus = has_janus(azimuth, scores.azimuth) if spec.category in HAS_FRONT else None
    return AssetScore(prompt(spec), float(np.mean(right)), janus, seconds, *likeness(mesh, spec))


def render_run(run: Run) -> NDArray[np.float32]:
    """Render a run's scene over light grey, (AZIMUTHS, 64, 64, 3)."""
    scene = load_scene(run, torch.device("cpu"))
    with torch.no_grad():
        rendering = scene.render(turntable(AZIMUTHS, ELEVATION), torch.full((3,), 0.8))
    return rendering.rgb.clamp(0, 1).numpy()


def truth(spec: Spec, seed: int = 0) -> tuple[NDArray[np.float32], Mesh]:
    """Return pictures (AZIMUTHS, 64, 64, 3) of a true object of the prompt over the same light grey, and the object.

    seed: chooses one of the many objects that the prompt may mean.
    """
    azimuths = [i * 360.0 / AZIMUTHS for i in range(AZIMUTHS)]
    pictures = render_prompt(spec, azimuths, seed, elevation=ELEVATION, background=(0.8, 0.8, 0.8))
    return (pictures / 255.0).astype(np.float32), build(spec, np.random.default_rng(seed))


def bench_preset(
    preset: str,
    specs: Sequence[Spec],
    scorer: Scorer,
    root: Path,
    overrides: list[str],
    report: Callable[[str, int, int], None],
) -> Iterator[tuple[AssetScore, NDArray[np.float32]]]:
    """Generate every prompt with one preset and score it. The prior is loaded once. Finished runs are kept."""
    prior: Prior | None = None
    for i, spec in enumerate(specs):
        config = make_config(prompt(spec), preset, overrides, {"prompts": {"category": category_prompt(spec)}})
        run = new_run(root / preset, config)
        if run.state.status != "done" and prior is None:
            prior = config.prior.load()
        for step in drive(run, prior=prior):
            report(f"{preset}: {config.prompt} ({i + 1}/{len(specs)})", step.step, step.total)
        rgb = render_run(run)
        mesh = load_asset(run.exports / f"{slug(config.prompt)}.ply")
        assert isinstance(mesh, Mesh)
        yield score_asset(scorer, spec, rgb, mesh, run.state.seconds), rgb


def summary(scores: Sequence[AssetScore]) -> dict[str, float]:
    """Return the mean share recognised, the share without Janus of assets with a front, and medians of the rest."""
    fronts = [not s.janus for s in scores if s.janus is not None]
    return {
        "recognised": float(np.mean([s.recognised for s in scores])),
        "without_janus": float(np.mean(fronts)),
        "median_iou": float(np.median([s.iou for s in scores])),
        "median_chamfer_cm": float(np.median([s.chamfer for s in scores])),
        "median_seconds": float(np.median([s.seconds for s in scores])),
    }


def bench(
    presets: Sequence[str],
    root: Path,
    n: int = 32,
    overrides: list[str] | None = None,
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> dict[str, dict[str, float]]:
    """Measure presets and the ground truth.

    Writes results.json, one contact sheet per preset, and side_by_side.png with four sides of every asset.
    """
    scorer = load_scorer()
    specs = bench_prompts(n, scorer.kinds)
    rows = {
        "truth": [(score_asset(scorer, spec, rgb, mesh, 0.0), rgb) for spec in specs for rgb, mesh in [truth(spec)]]
    }
    for preset in presets:
        rows[preset] = list(bench_preset(preset, specs, scorer, root, overrides or [], report))
    root.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, row in rows.items():
        results[name] = summary([s for s, _ in row])
        sheet = [(f"{s.prompt}: {s.recognised:.0%}{', Janus' if s.janus else ''}", rgb) for s, rgb in row]
        contact_sheet(sheet, size=64).save(root / f"{name}.png")
    together = [
        (prompt(spec), np.concatenate([row[i][1][::2] for row in rows.values()])) for i, spec in enumerate(specs)
    ]
    headings = [heading for name in rows for heading in (name, "", "", "")]
    contact_sheet(together, headings, size=64).save(root / "side_by_side.png")
    details = {name: [asdict(s) for s, _ in row] for name, row in rows.items()}
    text = json.dumps({"summary": results, "assets": details}, indent=2) + "\n"
    write_atomically(root / "results.json", text.encode())
    return results
