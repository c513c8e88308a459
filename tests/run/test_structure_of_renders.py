"""The loop tells the structure of its renders to teachers whose prior takes it."""

from __future__ import annotations

import torch

from sds3d.guidance.base import Guided, Views
from sds3d.rendering.resizing import resize
from sds3d.rendering.structure import structure_of
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene
from sds3d.run.lessons import Teacher
from sds3d.run.optimize import OptimizerConfig, Setup, optimize, random_streams, start
from tests.run.scenes import CAMERAS, encoded, gaussian_prior


class Listening:
    """A rule that keeps what it is shown, and gives no gradient."""

    def __init__(self) -> None:
        self.views: list[Views] = []

    def __call__(self, x: torch.Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        self.views.append(views)
        return Guided(t=torch.ones(len(x)), gradient=torch.zeros_like(x))


def test_only_priors_that_take_structure_are_told_that_of_the_renders_they_see():
    first, second = gaussian_prior(), gaussian_prior()
    second.takes_structure = True
    rules = [Listening(), Listening()]
    teachers = [
        Teacher(first, rules[0], encoded(first)),  # type: ignore[arg-type]
        Teacher(second, rules[1], encoded(second), views=2),  # type: ignore[arg-type]
    ]
    scene = VoxelGridScene(VoxelGridConfig(resolution=16, samples=16), torch.Generator().manual_seed(0))
    cameras = CAMERAS.model_copy(update={"size": 2 * second.image_size})
    config = OptimizerConfig()
    state = start(scene, config, random_streams(0, "cameras", "guidance", "guidance_2"))
    step = next(iter(optimize(Setup(scene, teachers, 3, cameras, config), state)))
    (plain,), (told,) = (rule.views for rule in rules)
    assert plain.structure is None
    assert plain.positive.structure is None
    structure = told.structure
    assert structure is not None
    assert structure.depth.shape == (2, second.image_size, second.image_size)
    assert not structure.depth.requires_grad
    assert structure.alpha.max() > 0.1
    seen = [int((step.cameras.azimuth == azimuth).nonzero()) for azimuth in told.cameras.azimuth]
    pictures = step.rendering
    expected = structure_of(
        pictures.alpha[seen], pictures.depth[seen], pictures.normal[seen], told.cameras, second.image_size
    )
    for name in ("depth", "normal", "alpha"):
        torch.testing.assert_close(getattr(structure, name), getattr(expected, name))
    torch.testing.assert_close(structure.alpha, resize(pictures.alpha[seen], second.image_size)[..., 0])
    assert told.positive.structure is told.negative.structure is structure
