"""How well materials are distilled by a prior that is told the light of each render, and by the same that is not.

Toy objects of known materials are stripped of them and painted by the preset `materials`. Both contenders have the same
weights, seeds and environments; one gets zeros in place of the light. Albedo, roughness and metallic are compared with
the truth on unseen views, and relit by unseen lamps. A white object is painted under a red lamp: its albedo must be
white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.devices import pick_device, set_threads
from sds3d.evaluation.material_scores import PROMPTS
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import PriorError
from sds3d.formats.pictures import contact_sheet
from sds3d.geometry.mesh import Mesh
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.rendering.mesh_differentiable import rasterize_mesh
from sds3d.rendering.shading import Environment, linear_to_srgb, metallic_roughness, srgb_to_linear
from sds3d.representations.contents import source_of
from sds3d.representations.lights import LampsLight, LightsConfig, load_lights
from sds3d.representations.mesh_scene import MeshScene
from sds3d.run.config import RunConfig, make_config
from sds3d.run.drive import optimize_work, start_work
from sds3d.toybox.material_views import lamps, render_materials
from sds3d.toybox.materials import build_look, parse

WHITE = "a white rubber mug"
RED = LampsLight(seed=372, count=(1, 1), tint=1.0)
"""One lamp, whose light is red."""
UNSEEN_LIGHTS, FIRST_UNSEEN = 8, 10_000
SIZE = 128
HEADER = ("", "albedo, dB", "roughness error", "metallic error", "unseen lights, dB")


@dataclass(frozen=True)
class LightScore:
    """How well the material of an object is distilled, on the pixels of unseen views.

    albedo: PSNR in dB of the sRGB base colour. roughness, metallic: mean absolute errors. relit: PSNR in dB of pictures
    in unseen lights. redness: mean of red less that of green and blue in the albedo, less the same of the truth.
    """

    albedo: float
    roughness: float
    metallic: float
    relit: float
    redness: float


class Views(NamedTuple):
    """Views of a surface: albedo (B, S, S, 3) sRGB, metallic and roughness (B, S, S, 2), and whether pixels are covered
    entirely, (B, S, S)."""

    albedo: Tensor
    material: Tensor
    solid: Tensor


@dataclass(frozen=True)
class Truth:
    """Views of an object of known material. normal: (B, S, S, 3) in the world frame. lights: that it is relit by."""

    views: Views
    normal: Tensor
    cameras: Cameras
    lights: Sequence[Environment]

    def relit(self, views: Views) -> Tensor:
        """Return pictures of a material on this object in each light, (L, B, S, S, 3) sRGB on grey."""
        to_camera = -self.cameras.rays()[1]
        base, (metallic, roughness) = srgb_to_linear(views.albedo), views.material.split(1, dim=-1)
        lit = [metallic_roughness(base, metallic, roughness, self.normal, to_camera, light) for light in self.lights]
        pictures = linear_to_srgb(torch.stack(lit)).clamp(0, 1)
        return torch.where(self.views.solid[..., None], pictures, 0.5)


def truth_of(mesh: Mesh, cameras: Cameras, lights: Sequence[Environment]) -> Truth:
    """Return the truth about a mesh with vertex colours, normals and materials."""
    maps = render_materials(mesh, cameras, lights[0], supersampling=1)
    albedo, metallic, roughness, normal, alpha = (
        torch.from_numpy(values) for values in (maps.albedo, maps.metallic, maps.roughness, maps.normal, maps.alpha)
    )
    views = Views(albedo, torch.cat([metallic, roughness], dim=-1), alpha[..., 0] == 1)
    return Truth(views, normal, cameras, lights)


@torch.no_grad()
def views_of(scene: MeshScene, cameras: Cameras) -> Views:
    """Return the views of a painted scene, on the CPU."""
    surface, appearance = scene.geometry.surface(), scene.appearance
    assert surface is not None
    assert appearance.material is not None
    cameras = cameras.to(scene.device)
    raster = rasterize_mesh(surface.vertices, surface.faces, cameras)
    origins, directions = cameras.rays()
    hit, points = raster.face >= 0, origins + raster.depth * directions
    albedo, material = (points.new_zeros(*hit.shape, channels) for channels in (3, 2))
    albedo[hit] = appearance.values("color", raster, points, hit)
    material[hit] = appearance.material.scaled(appearance.values("material", raster, points, hit))
    return Views(albedo.cpu(), material.cpu(), hit.cpu())


def compared(found: Views, truth: Truth) -> LightScore:
    """Compare the views of a painted object with the truth, on the pixels that both cover."""
    true = truth.views
    both = found.solid & true.solid

    def psnr(one: Tensor, other: Tensor) -> float:
        return -10 * math.log10(max(float((one - other)[both].square().mean()), 1e-10))

    def redness(views: Views) -> float:
        red, green, blue = views.albedo[both].mean(dim=0).tolist()
        return red - (green + blue) / 2

    metallic, roughness = (found.material - true.material)[both].abs().mean(dim=0).tolist()
    relit = [psnr(one, other) for one, other in zip(truth.relit(found), truth.relit(true), strict=True)]
    return LightScore(
        psnr(found.albedo, true.albedo), roughness, metallic, float(np.mean(relit)), redness(found) - redness(true)
    )


def bench(
    root: Path,
    model: str,
    prompts: Sequence[str] = PROMPTS[:4],
    overrides: Sequence[str] = (),
    device: str = "",
    threads: int = 0,
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, dict[str, LightScore]]:
    """Paint every object, and a white one under a red lamp, with each contender from the same seed, and write
    light.json, .md and .png into `root`.

    Returns the scores by contender and prompt; the white object is the last. Raises PriorError if `model` is not told
    the light.
    """
    set_threads(threads)
    setting = DiffusersConfig(model=model)
    priors = {name: setting.load(pick_device(device)) for name in ("told the light", "not told")}
    if not all(prior.takes_light for prior in priors.values()):
        raise PriorError(f"{model!r} is not told the light: make one that is, sds3d toybox train --light")
    priors["not told"].takes_light = False  # its encoder gets zeros in place of the light
    cameras = orbit([15.0, 105.0, 195.0, 285.0], 10.0, size=SIZE)
    unseen = [lamps(FIRST_UNSEEN + i) for i in range(UNSEEN_LIGHTS)]
    results: dict[str, dict[str, LightScore]] = {name: {} for name in priors}
    rows = []
    for number, prompt in enumerate([*prompts, WHITE]):
        look = parse(prompt)
        assert look is not None
        mesh = build_look(look, np.random.default_rng(number))
        red = [f"representation.appearance.material.environments=[{RED.model_dump_json()}]"] if prompt == WHITE else []
        lights = [load_lights(LightsConfig(environments=(RED,)))] if red else unseen
        truth = truth_of(mesh, cameras, lights)
        shown = [panels(truth.views, truth)]
        given = {"start_from": prompt, "prior": setting.model_dump()}
        config = make_config(prompt, "materials", [*red, *overrides], given)
        for name, prior in priors.items():
            stage = f"{prompt}, {name}"
            scene = painted(mesh, config, prior, lambda done, total, stage=stage: report(stage, done, total))
            found = views_of(scene, cameras)
            results[name][prompt] = compared(found, truth)
            shown.append(panels(found, truth))
        rows.append((prompt + " in red light" * bool(red), np.concatenate(shown)))
    root.mkdir(parents=True, exist_ok=True)
    columns = [word for name in ("truth", *priors) for word in (name, "albedo", "metallic, roughness")]
    contact_sheet(rows, columns, size=128).save(root / "light.png")
    scores = {name: {prompt: asdict(one) for prompt, one in of.items()} for name, of in results.items()}
    write_results(root, "light", {"model": model, "scores": scores}, markdown(results))
    return results


def painted(mesh: Mesh, config: RunConfig, prior: Prior, report: Callable[[int, int], None]) -> MeshScene:
    """Paint the shape of a mesh, and return the scene."""
    bare = replace(mesh, colors=None, materials=None, metallic=0.0, roughness=0.5)
    work = start_work(config, [prior], before=source_of(bare))
    for step in optimize_work(work):
        report(step.step, step.total)
    assert isinstance(work.scene, MeshScene)
    return work.scene


def panels(views: Views, truth: Truth) -> np.ndarray:
    """Return a view in the first light, its albedo, and metallic and roughness in red and green, (3, S, S, 3)."""
    material = torch.cat([views.material[0], torch.zeros_like(views.material[0, ..., :1])], dim=-1)
    covered = truth.views.solid[0, ..., None]
    maps = [torch.where(covered, values, 1.0) for values in (views.albedo[0], material)]
    return torch.stack([truth.relit(views)[0, 0], *maps]).numpy()


def table(results: Mapping[str, Mapping[str, LightScore]]) -> list[tuple[str, ...]]:
    """Return the rows of the table: the means over the objects of each contender, then each object."""
    rows = []
    for name, scores in results.items():
        figures = np.array([list(asdict(one).values()) for prompt, one in scores.items() if prompt != WHITE])
        rows.append(cells(name, LightScore(*figures.mean(axis=0).tolist())))
    for prompt in [prompt for prompt in next(iter(results.values())) if prompt != WHITE]:
        rows += [cells(f"{prompt}, {name}", scores[prompt]) for name, scores in results.items()]
    return rows


def cells(name: str, one: LightScore) -> tuple[str, ...]:
    """Return a row of the table."""
    return name, f"{one.albedo:.1f}", f"{one.roughness:.3f}", f"{one.metallic:.3f}", f"{one.relit:.1f}"


WHITE_HEADER = (f"{WHITE} under a red lamp", "albedo, dB", "red less green and blue")


def white_table(results: Mapping[str, Mapping[str, LightScore]]) -> list[tuple[str, ...]]:
    """Return the rows of the table of the white object: 0 is as white as the truth."""
    return [(name, f"{of[WHITE].albedo:.1f}", f"{of[WHITE].redness:+.3f}") for name, of in results.items()]


def markdown(results: Mapping[str, Mapping[str, LightScore]]) -> str:
    """Return both tables."""
    return f"{markdown_table(HEADER, table(results))}\n{markdown_table(WHITE_HEADER, white_table(results))}"
