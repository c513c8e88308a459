"""How well objects are made from pictures: toy objects from 0 to 8 pictures, against those very objects.

A text leaves an object's proportions, the places of its parts and their colours open. Pictures show them, so more
pictures must give a more similar object, and a picture with a wrong camera a less similar one.

Neither a text nor a picture without a camera tells how large the object is. Views are therefore compared twice: as they
are, and from cameras that show the made object at the true one's size and place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sds3d.cameras import Cameras, orbit
from sds3d.devices import pick_device
from sds3d.evaluation.asset_scores import BACKGROUND, PIXELS, bench_prompts
from sds3d.evaluation.likeness import volume_iou
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import write_atomically
from sds3d.formats.load import load_asset
from sds3d.formats.pictures import contact_sheet, png, to_uint8
from sds3d.geometry.mesh import FloatArray, Mesh
from sds3d.prompts.prompt import slug
from sds3d.rendering.shading import shade_mesh
from sds3d.representations.base import Scene
from sds3d.run.config import RunConfig, make_config, new_run
from sds3d.run.drive import Priors, drive, prior_settings
from sds3d.run.folder import Run
from sds3d.run.outputs import load_scene
from sds3d.toybox.captions import category_prompt, prompt
from sds3d.toybox.objects import build
from sds3d.toybox.world import CATEGORIES, Spec

ELEVATION = 20.0
"""Elevation of the given pictures in degrees."""
UNSEEN = orbit([22.5 + 45 * i for i in range(8)], 15.0, size=PIXELS)
"""Cameras of the pictures by which objects are judged. No given picture has one of their azimuths."""
WRONG = 90.0
"""Degrees between a picture's camera and the one that is given in its place."""
SEED = 977
"""Seed of the objects."""


@dataclass(frozen=True)
class Case:
    """What objects are made from: pictures at these azimuths.

    turned: degrees by which the given azimuths are wrong. found: whether the camera is left out and has to be found.
    """

    azimuths: tuple[int, ...] = ()
    turned: float = 0.0
    found: bool = False


CASES = {
    "text alone": Case(),
    "1 picture": Case((45,)),
    "1, wrong camera": Case((45,), turned=WRONG),
    "1, camera found": Case((45,), found=True),
    "2 pictures": Case((45, 225)),
    "4 pictures": Case((45, 135, 225, 315)),
    "8 pictures": Case(tuple(range(0, 360, 45))),
}
"""All cases, by their names."""


@dataclass(frozen=True)
class Score:
    """psnr: of 8 unseen views over light grey, in dB. psnr_sized: at the true size and place, see `sized_cameras`.

    iou: of the volumes, see `volume_iou`. seconds: of the run.
    """

    prompt: str
    case: str
    psnr: float
    psnr_sized: float
    iou: float
    seconds: float


@dataclass(frozen=True)
class Truth:
    """An object. views: its unseen views (8, PIXELS, PIXELS, 3). alpha: theirs, (8, PIXELS, PIXELS, 1)."""

    mesh: Mesh
    views: FloatArray
    alpha: FloatArray


def true_pictures(spec: Spec, seed: int, folder: Path) -> tuple[Truth, dict[int, Path]]:
    """Return an object, and files of its given pictures by azimuth."""
    mesh = build(spec, np.random.default_rng([SEED, seed]))
    truth = Truth(mesh, *shade_mesh(mesh, UNSEEN, (BACKGROUND,) * 3, supersampling=3))
    azimuths = sorted({azimuth for case in CASES.values() for azimuth in case.azimuths})
    cameras = orbit([float(azimuth) for azimuth in azimuths], ELEVATION, size=PIXELS)
    color, alpha = shade_mesh(mesh, cameras, (0.0, 0.0, 0.0), supersampling=3)
    layers = to_uint8(np.concatenate([color / np.maximum(alpha, np.float32(1e-6)), alpha], axis=-1, dtype=np.float32))
    files = {azimuth: folder / f"{slug(prompt(spec))}-{seed}-{azimuth}.png" for azimuth in azimuths}
    for path, picture in zip(files.values(), layers, strict=True):
        write_atomically(path, png(Image.fromarray(picture)))
    return truth, files


def config_of(spec: Spec, case: Case, files: dict[int, Path], preset: str, overrides: Sequence[str]) -> RunConfig:
    """Return the settings of a run."""
    cameras = [
        {} if case.found else {"azimuth": (azimuth + case.turned) % 360, "elevation": ELEVATION, "distance": 2.1}
        for azimuth in case.azimuths
    ]
    pictures = [
        {"image": str(files[azimuth]), **camera} for azimuth, camera in zip(case.azimuths, cameras, strict=True)
    ]
    settings = {
        "prompts": {"category": category_prompt(spec)},
        "reference": pictures,
        "export": {"formats": ["ply"], "frames": 4},  # what is measured
    }
    return make_config(prompt(spec), preset, overrides, settings)


def psnr(pictures: FloatArray, truth: FloatArray) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in [0, 1]."""
    return float(-10 * np.log10(np.square(pictures - truth).mean()))


def sized_cameras(look: Callable[[Cameras], FloatArray], made: FloatArray, true: FloatArray) -> Cameras:
    """Return cameras that show the made object as large as the true one in `UNSEEN`, and at its place.

    look: returns the made object's opacities (8, H, W, 1) from cameras. made, true: opacities of the made and the true
    object in `UNSEEN`. Sizes are compared by the areas of all outlines together, places by the outlines' centres; three
    rounds suffice for perspective.
    """
    cameras, there = UNSEEN, torch.from_numpy(_centre(true))
    for i in range(3):
        made = look(cameras) if i else made
        smaller = float(np.sqrt(made.sum() / max(true.sum(), 1.0)))
        shift = smaller * (torch.from_numpy(_centre(made)) - there)
        pose = cameras.c2w().clone()
        pose[:, :3, 3] = smaller * pose[:, :3, 3] + shift
        cameras = replace(UNSEEN, pose=pose)
    return cameras


def _centre(alpha: FloatArray) -> NDArray[np.float32]:
    """Return the point (3,) whose projections into `UNSEEN` are nearest to the centres of outlines (8, H, W, 1)."""
    height = alpha.shape[1]
    places = (np.arange(height) + 0.5) / height * 2 - 1
    mass = np.maximum(alpha.sum(axis=(1, 2, 3)), 1.0)
    right = (alpha[..., 0].sum(axis=1) * places).sum(axis=1) / mass  # (8,)
    up = -(alpha[..., 0].sum(axis=2) * places).sum(axis=1) / mass
    metres = UNSEEN.distance * torch.tan(torch.deg2rad(UNSEEN.fovy) / 2)
    axes = UNSEEN.c2w()[:, :3, :2].numpy()  # of the pictures, in space
    wanted = np.stack([right, up], axis=1) * metres.numpy()[:, None]
    return np.linalg.lstsq(axes.transpose(0, 2, 1).reshape(-1, 3), wanted.reshape(-1), rcond=None)[0].astype(np.float32)


def unseen_views(run: Run) -> FloatArray:
    """Render a finished run's scene from the cameras by which it is judged."""
    return rendered(load_scene(run, torch.device("cpu")), UNSEEN)[0]


def rendered(scene: Scene, cameras: Cameras) -> tuple[FloatArray, FloatArray]:
    """Return the colours over light grey and the opacities of a scene."""
    with torch.no_grad():
        rendering = scene.render(cameras, torch.full((3,), BACKGROUND))
    return rendering.rgb.clamp(0, 1).numpy(), rendering.alpha.numpy()


def bench(
    root: Path,
    objects: int,
    cases: Sequence[str] = tuple(CASES),
    preset: str = "splats",
    overrides: Sequence[str] = (),
    device: str = "",
    threads: int = 0,
    tell: Callable[[Score], None] = lambda score: None,
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> list[Score]:
    """Make objects in all cases, and measure them. Write pictures.json, pictures.md and a sheet for each object.

    A stopped benchmark continues. tell: gets each score. report: gets the present run, its steps done and planned.
    """
    priors = Priors(pick_device(device))
    scores: list[Score] = []
    words = make_config("a red mug", preset, overrides).prior.vocabulary()
    for seed, spec in enumerate(bench_prompts(objects, CATEGORIES if words is None else tuple(words.kinds))):
        truth, files = true_pictures(spec, seed, root / "given")
        rows = [("truth", truth.views)]
        for name in cases:
            config = config_of(spec, CASES[name], files, preset, overrides)
            run = new_run(root / "runs", config)
            prior = priors.load(prior_settings(config, lean=False))[0]
            for step in drive(run, device=device, threads=threads, prior=prior):
                report(f"{config.prompt}: {name}", step.step, step.total)
            made = load_asset(run.exports / f"{slug(config.prompt)}.ply")
            assert isinstance(made, Mesh)
            scene = load_scene(run, torch.device("cpu"))
            views, alpha = rendered(scene, UNSEEN)
            cameras = sized_cameras(lambda cameras, scene=scene: rendered(scene, cameras)[1], alpha, truth.alpha)
            sized = rendered(scene, cameras)[0]
            differences = psnr(views, truth.views), psnr(sized, truth.views)
            scores.append(Score(config.prompt, name, *differences, volume_iou(made, truth.mesh), run.state.seconds))
            tell(scores[-1])
            rows.append((f"{name}: {scores[-1].psnr:.1f} dB", views))
        sheet = contact_sheet(rows, [f"{azimuth:.0f}°" for azimuth in UNSEEN.azimuth], prompt(spec))
        write_atomically(root / f"{slug(prompt(spec))}-{seed}.png", png(sheet))
        details = {"scores": [asdict(score) for score in scores], "preset": preset, "settings": list(overrides)}
        write_results(root, "pictures", details, markdown_table(HEADER, table(scores)))
    return scores


HEADER = ("made from", "objects", "PSNR of unseen views, dB", "at the true size and place, dB", "IoU", "seconds")


def table(scores: Sequence[Score]) -> list[list[str]]:
    """Return the rows of the table: means over the objects, and the median time."""
    rows = []
    for case in dict.fromkeys(score.case for score in scores):
        mine = [score for score in scores if score.case == case]
        plain, sized, iou = np.mean([(score.psnr, score.psnr_sized, score.iou) for score in mine], axis=0)
        seconds = np.median([score.seconds for score in mine])
        rows.append([case, str(len(mine)), f"{plain:.1f}", f"{sized:.1f}", f"{iou:.2f}", f"{seconds:.0f}"])
    return rows
