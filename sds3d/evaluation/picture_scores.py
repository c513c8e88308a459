"""How well objects are made from pictures: toy objects from 0 to 8 pictures, against those very objects.

A text leaves an object's proportions, the places of its parts and their colours open. Pictures show them, so more
pictures must give a more similar object, and a picture with a wrong camera a less similar one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sds3d.cameras import orbit
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
    """psnr: of 8 unseen views over light grey, in dB. iou: of the volumes, see `volume_iou`. seconds: of the run."""

    prompt: str
    case: str
    psnr: float
    iou: float
    seconds: float


def true_pictures(spec: Spec, seed: int, folder: Path) -> tuple[Mesh, FloatArray, dict[int, Path]]:
    """Return an object, its unseen views (8, PIXELS, PIXELS, 3), and files of its given pictures by azimuth."""
    mesh = build(spec, np.random.default_rng([SEED, seed]))
    unseen = shade_mesh(mesh, UNSEEN, (BACKGROUND,) * 3, supersampling=3)[0]
    azimuths = sorted({azimuth for case in CASES.values() for azimuth in case.azimuths})
    cameras = orbit([float(azimuth) for azimuth in azimuths], ELEVATION, size=PIXELS)
    color, alpha = shade_mesh(mesh, cameras, (0.0, 0.0, 0.0), supersampling=3)
    layers = to_uint8(np.concatenate([color / np.maximum(alpha, np.float32(1e-6)), alpha], axis=-1, dtype=np.float32))
    files = {azimuth: folder / f"{slug(prompt(spec))}-{seed}-{azimuth}.png" for azimuth in azimuths}
    for path, picture in zip(files.values(), layers, strict=True):
        write_atomically(path, png(Image.fromarray(picture)))
    return mesh, unseen, files


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


def unseen_views(run: Run) -> FloatArray:
    """Render a finished run's scene from the cameras by which it is judged."""
    scene = load_scene(run, torch.device("cpu"))
    with torch.no_grad():
        return scene.render(UNSEEN, torch.full((3,), BACKGROUND)).rgb.clamp(0, 1).numpy()


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
        mesh, unseen, files = true_pictures(spec, seed, root / "given")
        rows = [("truth", unseen)]
        for name in cases:
            config = config_of(spec, CASES[name], files, preset, overrides)
            run = new_run(root / "runs", config)
            prior = priors.load(prior_settings(config, lean=False))[0]
            for step in drive(run, device=device, threads=threads, prior=prior):
                report(f"{config.prompt}: {name}", step.step, step.total)
            made = load_asset(run.exports / f"{slug(config.prompt)}.ply")
            assert isinstance(made, Mesh)
            views = unseen_views(run)
            scores.append(Score(config.prompt, name, psnr(views, unseen), volume_iou(made, mesh), run.state.seconds))
            tell(scores[-1])
            rows.append((f"{name}: {scores[-1].psnr:.1f} dB", views))
        sheet = contact_sheet(rows, [f"{azimuth:.0f}°" for azimuth in UNSEEN.azimuth], prompt(spec))
        write_atomically(root / f"{slug(prompt(spec))}-{seed}.png", png(sheet))
        details = {"scores": [asdict(score) for score in scores], "preset": preset, "settings": list(overrides)}
        write_results(root, "pictures", details, markdown_table(HEADER, table(scores)))
    return scores


HEADER = ("made from", "objects", "PSNR of unseen views, dB", "IoU", "seconds")


def table(scores: Sequence[Score]) -> list[list[str]]:
    """Return the rows of the table: means over the objects, and the median time."""
    rows = []
    for case in dict.fromkeys(score.case for score in scores):
        mine = [score for score in scores if score.case == case]
        figures = [np.mean([score.psnr for score in mine]), np.mean([score.iou for score in mine])]
        seconds = np.median([score.seconds for score in mine])
        rows.append([case, str(len(mine)), f"{figures[0]:.1f}", f"{figures[1]:.2f}", f"{seconds:.0f}"])
    return rows
