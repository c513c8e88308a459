"""The light that a prior is told: renders of known materials in the very environment of each view."""

from __future__ import annotations

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.rendering.structure import KNOWN, LIGHT
from sds3d.representations.mesh_scene import MeshScene
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from sds3d.run.optimize import OptimizerConfig, Setup, Teacher, optimize, random_streams, start
from tests.representations.mesh_scenes import ball, mesh_config
from tests.run.scenes import CAMERAS, encoded, gaussian_prior
from tests.run.test_structure_of_renders import Listening

LIGHTS = {"environments": ["side", {"name": "lamps", "seed": 3, "tint": 1.0}], "each": "view", "turning": "random"}


def lit_ball() -> MeshScene:
    config = mesh_config("fixed", material={"name": "pbr", **LIGHTS}, vertices_lr=0)
    return MeshScene.from_mesh(ball(), config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("number", range(len(KNOWN)))
def test_the_maps_show_a_surface_of_a_known_material_as_the_scene_renders_it(number: int) -> None:
    scene, cameras = lit_ball(), orbit([0.0, 70.0, 140.0, 250.0], size=24)
    grey, *factors = KNOWN[number]
    with torch.no_grad():
        scene.parameters["color"].fill_(torch.logit(torch.tensor(grey)))
        scene.parameters["material"].copy_(torch.logit(torch.tensor(factors), eps=1e-6).expand(24, 24, 24, 2))
    rendering = scene.render(cameras, torch.zeros(3))
    told = scene.light_maps(cameras, rendering)
    assert told is not None
    assert told.shape == (4, 24, 24, LIGHT)
    assert not told.requires_grad
    inside = rendering.alpha[..., 0] == 1
    shown = told[..., 3 * number : 3 * number + 3]
    torch.testing.assert_close(shown[inside], rendering.rgb.detach()[inside], atol=0.02, rtol=0)
    assert (shown[:-1] - shown[1:]).abs().amax(dim=(1, 2, 3)).min() > 0.1  # each view has a light of its own
    assert told[rendering.alpha[..., 0] == 0].abs().max() == 0


def test_only_priors_that_take_the_light_are_told_that_of_the_views_they_see() -> None:
    def views_of(scene: MeshScene | VoxelGridScene, lit: bool) -> tuple[Listening, torch.Tensor | None]:
        prior, rule = gaussian_prior(), Listening()
        prior.takes_structure, prior.takes_light = True, lit
        state = start(scene, OptimizerConfig(), random_streams(0, "cameras", "guidance"))
        teacher = Teacher(prior, rule, encoded(prior), views=2)  # type: ignore[arg-type]
        step = next(iter(optimize(Setup(scene, [teacher], 3, CAMERAS, OptimizerConfig()), state)))
        seen = [int((step.cameras.azimuth == azimuth).nonzero()) for azimuth in rule.views[0].cameras.azimuth]
        again = lit_ball()
        told = again.light_maps(step.cameras, again.render(step.cameras, torch.zeros(3)))
        assert told is not None
        return rule, told[seen]

    rule, expected = views_of(lit_ball(), lit=True)
    structure = rule.views[0].structure
    assert structure is not None
    assert structure.light is not None
    torch.testing.assert_close(structure.light, expected, atol=1e-5, rtol=0)
    grid = VoxelGridScene(VoxelGridConfig(resolution=16, samples=16), torch.Generator().manual_seed(0))
    for scene, lit in ((lit_ball(), False), (grid, True)):
        structure = views_of(scene, lit)[0].views[0].structure
        assert structure is not None
        assert structure.light is None
