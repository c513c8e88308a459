"""The correctness of assets: held-out prompts of the toy world, measured by the scorer against the ground truth."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sds3d.cameras import orbit, turntable
from sds3d.config import ConfigError
from sds3d.evaluation.likeness import likeness
from sds3d.files import RunError, write_atomically
from sds3d.formats.export import portraits
from sds3d.formats.load import load_asset
from sds3d.formats.pictures import to_png, to_uint8
from sds3d.geometry.mesh import EmptySurfaceError, Mesh
from sds3d.priors.base import Prior, PriorConfig
from sds3d.prompts.prompt import slug
from sds3d.run.config import RunConfig, make_config, new_run, read_config
from sds3d.run.drive import drive
from sds3d.run.folder import Machine, Run
from sds3d.run.optimize import NumericalError
from sds3d.run.outputs import load_scene
from sds3d.toybox.captions import category_prompt, held_out, parse, prompt
from sds3d.toybox.examples import OBJECTS
from sds3d.toybox.objects import build
from sds3d.toybox.render import render_prompt
from sds3d.toybox.scorer import Scorer, score
from sds3d.toybox.world import CATEGORIES, HAS_FRONT, Spec

AZIMUTHS = 8
ELEVATION = 15.0
PIXELS = 128
"""Height and width of the pictures of an asset; the scorer reduces them to its own size."""
WITH_PARTS = 32
"""Prompts with a coloured part in the selections "parts" and "all"."""
BACKGROUND = 0.8  # a light grey


@dataclass(frozen=True)
class AssetScore:
    """The scores of one asset, from AZIMUTHS pictures around it.

    recognised: share of the pictures in which the scorer reads the right category and colour.
    janus: whether the asset has a face in a wrong place, or none (see `has_janus`). None for objects without a front.
    seconds: of the whole run. iou, chamfer: likeness of its mesh to true objects, see `likeness`; 0 and
        None if there is none.
    part: share of the pictures with the right colour of the part that the prompt names; None if it names none.
    read_as: what the scorer reads in most of the wrong pictures, "" if all are right. failed: why there is no asset.
    """

    prompt: str
    recognised: float
    janus: bool | None
    seconds: float
    iou: float
    chamfer: float | None
    part: float | None = None
    read_as: str = ""
    failed: str = ""


class Asset(NamedTuple):
    """An asset that was measured.

    rgb: its pictures (AZIMUTHS, PIXELS, PIXELS, 3) in [0, 1]. run: None for true objects.
    """

    score: AssetScore
    rgb: NDArray[np.float32]
    run: Run | None = None


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


def choose_prompts(which: str, kinds: Sequence[str] = CATEGORIES) -> list[Spec]:
    """Return held-out combinations of these kinds.

    which: "plain", one of each kind without a coloured part; "parts", WITH_PARTS with one, spread over the kinds;
    "all", both; or the number of prompts, see `bench_prompts`. "shown" are the prompts of the gallery, nearly all
    of which training shows. Raises ValueError for other texts.
    """
    if which == "shown":
        return [spec for text in OBJECTS if (spec := parse(text)) is not None and spec.category in kinds]
    everything = bench_prompts(10_000, kinds)
    plain = [spec for spec in everything if spec.accent is None]
    parts = [spec for spec in everything if spec.accent is not None][:WITH_PARTS]
    chosen = {"plain": plain, "parts": parts, "all": plain + parts}
    if which in chosen:
        return chosen[which]
    if which.isdecimal() and int(which):
        return everything[: int(which)]
    raise ValueError(f"{which!r} is no selection of prompts: give plain, parts, all, shown, or a number from 1")


def known_kinds(scorer: Scorer, priors: Iterable[PriorConfig]) -> list[str]:
    """Return the kinds that the scorer and all of the priors know."""
    vocabularies = [vocabulary for prior in priors if (vocabulary := prior.vocabulary()) is not None]
    return [kind for kind in scorer.kinds if all(kind in vocabulary.kinds for vocabulary in vocabularies)]


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


def portrait(asset: Asset, size: int = PIXELS) -> NDArray[np.float32]:
    """Draw an asset as it is handed over, a little from the right, (size, size, 3). A failed one is grey."""
    if asset.run is None or asset.score.failed:
        return asset.rgb[1]
    for ending in ("glb", "ply"):
        path = asset.run.exports / f"{slug(asset.score.prompt)}.{ending}"
        if path.is_file() and isinstance(mesh := load_asset(path), Mesh):
            return portraits(mesh, orbit([30.0], ELEVATION, size=size))[0]
    return asset.rgb[1]


def score_asset(scorer: Scorer, spec: Spec, rgb: NDArray[np.float32], mesh: Mesh, seconds: float) -> AssetScore:
    """Score an asset by its mesh and pictures (AZIMUTHS, S, S, 3) in [0, 1], evenly around it from the front."""
    scores = score(scorer, torch.from_numpy(rgb))
    read = list(zip(scores.category, scores.color, strict=True))
    wrong = Counter(
        f"{color} {category}" for category, color in read if (category, color) != (spec.category, spec.color)
    )
    azimuth = torch.arange(AZIMUTHS) * (360.0 / AZIMUTHS)
    return AssetScore(
        prompt(spec),
        1 - wrong.total() / len(read),
        has_janus(azimuth, scores.azimuth) if spec.category in HAS_FRONT else None,
        seconds,
        *likeness(mesh, spec),
        None if spec.accent is None else float(np.mean([accent == spec.accent for accent in scores.accent])),
        wrong.most_common(1)[0][0] if wrong else "",
    )


def failed_asset(spec: Spec, seconds: float, why: str) -> Asset:
    """Return the worst score, and grey pictures, for a prompt of which nothing was made."""
    janus = True if spec.category in HAS_FRONT else None
    part = None if spec.accent is None else 0.0
    grey = np.full((AZIMUTHS, PIXELS, PIXELS, 3), BACKGROUND, np.float32)
    return Asset(AssetScore(prompt(spec), 0.0, janus, seconds, 0.0, None, part, failed=why), grey)


def render_run(run: Run) -> NDArray[np.float32]:
    """Render a run's scene over light grey, (AZIMUTHS, PIXELS, PIXELS, 3)."""
    scene = load_scene(run, torch.device("cpu"))
    with torch.no_grad():
        rendering = scene.render(turntable(AZIMUTHS, ELEVATION, size=PIXELS), torch.full((3,), BACKGROUND))
    return rendering.rgb.clamp(0, 1).numpy()


def truth(spec: Spec, seed: int = 0, size: int = PIXELS) -> tuple[NDArray[np.float32], Mesh]:
    """Return pictures (AZIMUTHS, size, size, 3) of a true object of the prompt over the same grey, and the object.

    seed: chooses one of the many objects that the prompt may mean.
    """
    azimuths = [i * 360.0 / AZIMUTHS for i in range(AZIMUTHS)]
    pictures = render_prompt(spec, azimuths, seed, size=size, elevation=ELEVATION, background=(BACKGROUND,) * 3)
    return (pictures / 255.0).astype(np.float32), build(spec, np.random.default_rng(seed))


def run_of(spec: Spec, preset: str, overrides: Sequence[str], folder: Path) -> tuple[Run, RunConfig]:
    """Return the run of a prompt with a preset in `folder`, and its settings. Raises RunError, ConfigError."""
    config = make_config(prompt(spec), preset, overrides, {"prompts": {"category": category_prompt(spec)}})
    if "ply" not in config.export.formats:
        raise ConfigError("export.formats lacks ply: benchmarks measure the mesh of the .ply file, so add it")
    return new_run(folder, config), config


def scorer_digest(scorer: Scorer) -> str:
    """Return the SHA-256 of a scorer's weights, in hex."""
    digest = hashlib.sha256(repr(scorer.kinds).encode())
    for weights in scorer.state_dict().values():
        digest.update(weights.numpy().tobytes())
    return digest.hexdigest()


def measured(run: Run, spec: Spec, scorer: Scorer) -> Asset | None:
    """Return the score of a run's asset, which is kept in the run's folder; None if the run has not ended."""
    digest = scorer_digest(scorer)
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        kept = json.loads((run.folder / "score.json").read_text(encoding="utf-8"))
        if kept["scorer"] == digest:
            with Image.open(run.folder / "score.png") as strip:
                pictures = np.asarray(strip).reshape(PIXELS, AZIMUTHS, PIXELS, 3).swapaxes(0, 1)
            return Asset(AssetScore(**kept["score"]), (pictures / 255.0).astype(np.float32), run)
    state = run.state
    if state.status != "done":
        return None
    mesh = load_asset(run.exports / f"{slug(read_config(run).prompt)}.ply")
    assert isinstance(mesh, Mesh)
    # Scores are of the bytes that are kept, so that they are the same when they are made again.
    rgb = (to_uint8(render_run(run)) / 255.0).astype(np.float32)
    return _kept(run, Asset(score_asset(scorer, spec, rgb, mesh, state.seconds), rgb, run), digest)


def _kept(run: Run, asset: Asset, digest: str) -> Asset:
    """Write an asset's pictures and then its score into the run's folder."""
    write_atomically(run.folder / "score.png", to_png(asset.rgb))
    text = json.dumps({"scorer": digest, "score": asdict(asset.score)}, indent=2) + "\n"
    write_atomically(run.folder / "score.json", text.encode())
    return asset


def make_asset(
    run: Run, spec: Spec, scorer: Scorer, prior: Prior, machine: Machine, report: Callable[[int, int], None]
) -> Asset:
    """Make the asset of a run, and measure it. An asset that diverges or has no surface gets the worst score.

    report: called after each step with the steps done and planned. Raises RunBusyError if another process makes it.
    """
    try:
        for step in drive(run, prior=prior, device=machine.device, threads=machine.threads):
            report(step.step, step.total)
    except (EmptySurfaceError, NumericalError) as error:
        return _kept(run, failed_asset(spec, run.state.seconds, str(error)), scorer_digest(scorer))
    asset = measured(run, spec, scorer)
    if asset is None:
        raise RunError(f"{run.folder} was stopped; repeat the command to continue")
    return asset


@dataclass(frozen=True)
class Summary:
    """The scores of several assets: means of shares, medians of the rest. None where no asset has a value.

    recognised: category and colour. without_janus: of assets with a front. part: the colour of the part. chamfer: cm.
    """

    assets: int
    recognised: float
    without_janus: float | None
    part: float | None
    iou: float
    chamfer: float | None
    seconds: float


def summary(scores: Sequence[AssetScore]) -> Summary:
    """Return the summary of one or more scores."""
    fronts = [not s.janus for s in scores if s.janus is not None]
    parts = [s.part for s in scores if s.part is not None]
    distances = [s.chamfer for s in scores if s.chamfer is not None]
    return Summary(
        len(scores),
        float(np.mean([s.recognised for s in scores])),
        float(np.mean(fronts)) if fronts else None,
        float(np.mean(parts)) if parts else None,
        float(np.median([s.iou for s in scores])),
        float(np.median(distances)) if distances else None,
        float(np.median([s.seconds for s in scores])),
    )
