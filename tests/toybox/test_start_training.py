"""Training of the networks of starts and normals: their data, and a killed training that resumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.priors.loading import toybox_folder
from sds3d.priors.normals import NormalsNetwork
from sds3d.rendering.shading import shade_mesh
from sds3d.representations.signed_distance import mesh_to_occupancy
from sds3d.states import read_tensors
from sds3d.toybox import train_normals, train_start
from sds3d.toybox.captions import sample_spec
from sds3d.toybox.dataset import DataConfig
from sds3d.toybox.objects import build
from sds3d.toybox.render import iterate_objects
from sds3d.toybox.train_config import TrainConfig
from sds3d.toybox.world import Spec

TINY = TrainConfig(
    start_objects=16, held_out_objects=1, workers=1, checkpoint_every=1, start_steps=2, start_batch=1,
    normals_objects=16, normals_steps=2, normals_batch=2, start_from=str(toybox_folder()),
)  # fmt: skip


def ignore(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
    pass


def test_a_solid_is_the_object_in_the_pictures():
    data = DataConfig(3, 5, 32, kinds=("mug", "car"))
    for number, views in enumerate(
        iterate_objects(3, 5, size=32, sample=lambda rng: sample_spec(rng, kinds=data.kinds))
    ):
        mesh = train_start.mesh_of(data, number)
        cameras = train_start.cameras_at(
            torch.tensor([[a, views.elevation, views.distance] for a in views.azimuth])
        ).resized(32, 32)
        _, coverage = shade_mesh(mesh, cameras)
        empty = coverage[..., 0] == 0
        background = np.abs(views.pictures / 255 - views.background).max(axis=-1) < 0.01
        assert background[empty].all()
        assert (background & (coverage[..., 0] == 1)).mean() < 0.03


def test_the_bits_of_a_solid_are_its_occupancy_and_its_points_have_their_colours():
    mesh = build(Spec("duck", "yellow"), np.random.default_rng(0))
    parts = train_start.solid_of(mesh, 0)
    data = train_start.Solids(torch.zeros(1), torch.zeros(1), *(part[None] for part in parts.values()))
    expected = mesh_to_occupancy(mesh, train_start.GRID)
    assert torch.equal(data.occupancy(0), torch.from_numpy(expected).float())
    assert 0.02 < expected.mean() < 0.5
    assert mesh.colors is not None
    known = {tuple(color) for color in (255 * mesh.colors).round().astype(int)}
    close = [min(np.abs(np.array(color) - other).max() for other in known) for color in parts["colors"].numpy()[::64]]
    assert np.mean([distance <= 1 for distance in close]) > 0.9  # the others are between two colours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "name"), [(train_start.train_start, "start"), (train_normals.train_normals, "normals")]
)
def test_a_killed_training_ends_in_the_same_weights(train, name: str, tmp_path: Path):
    folder = train(tmp_path / "whole", TINY, ignore)
    assert (folder / "CARD.md").is_file()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.5e6

    class Killed(Exception):
        pass

    def killer(stage: str, step: int, total: int, figures: dict[str, float]) -> None:
        if stage == name and step == 2:
            raise Killed

    ignored = shutil.ignore_patterns("*.ckpt.safetensors", name)
    shutil.copytree(tmp_path / "whole", tmp_path / "again", ignore=ignored)
    with pytest.raises(Killed):
        train(tmp_path / "again", TINY, killer)
    again = train(tmp_path / "again", TINY, ignore)
    expected, resumed = (read_tensors(path / "model.safetensors")[0] for path in (folder, again))
    assert all(torch.equal(value, resumed[key]) for key, value in expected.items())


def test_the_difference_of_normals_is_one_minus_the_cosine_where_there_is_a_surface():
    maps = torch.zeros(1, 4, 2, 2, dtype=torch.int8)
    maps[0, :, 0, 0] = torch.tensor([0, 0, 127, 127])
    maps[0, :, 0, 1] = torch.tensor([0, 0, 60, 60])  # less than half covered
    maps[0, :, 1, 1] = torch.tensor([70, 0, 0, 70])
    vectors = torch.tensor([0.0, 3.0, 3.0])[:, None, None].expand(1, 3, 2, 2)
    wrong, covered = train_normals.difference(vectors, maps)
    assert covered.tolist() == [[[True, False], [False, True]]]
    torch.testing.assert_close(wrong[0], torch.tensor([[1 - 0.5**0.5, 0.0], [0.0, 1.0]]))


def test_normals_are_unit_vectors_at_the_size_of_the_picture():
    normals = NormalsNetwork().estimate(torch.rand(2, 96, 96, 3))
    assert normals.shape == (2, 96, 96, 3)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(2, 96, 96))
