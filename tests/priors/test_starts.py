"""The network of starts: where points are seen, views in any order, its file, and the solid that it sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.files import PriorError
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.starts import StartNetwork, load_start, projected, start_folder

CAMERAS = orbit([10.0, 100.0, 190.0, 280.0], torch.tensor([-5.0, 20.0, 40.0, 80.0]), 2.3, 35.0, size=8)


def network(channels: int = 5) -> StartNetwork:
    torch.manual_seed(0)
    return StartNetwork(channels, width=16).eval().requires_grad_(False)


def test_points_of_a_ray_are_seen_at_its_pixel():
    origins, directions = CAMERAS.rays()
    for along in (1.7, 2.3, 2.9):
        points = (origins + along * directions).flatten(1, 2)  # (4, 64, 3)
        seen = projected(CAMERAS, points).reshape(4, 8, 8, 3)
        middles = (torch.arange(8) + 0.5) / 4 - 1
        torch.testing.assert_close(seen[..., 0], middles.expand(4, 8, 8))
        torch.testing.assert_close(seen[..., 1], middles[:, None].expand(4, 8, 8))
        nearest = -torch.einsum("bi,bhwi->bhw", CAMERAS.c2w()[:, :3, 2], directions) * along
        torch.testing.assert_close(seen[..., 2], 2 * (nearest - 2.3))


def test_views_may_come_in_any_order_and_objects_do_not_mix():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(8, 5, 4, 4, generator=generator)
    points = torch.rand(2, 30, 3, generator=generator) - 0.5
    both = Cameras.cat([CAMERAS, CAMERAS])
    logits, colors = network()(features, both, points)
    assert logits.shape == (2, 30)
    assert colors.shape == (2, 30, 3)
    order = torch.tensor([2, 0, 3, 1])
    again, shades = network()(features[4:][order], CAMERAS[order], points[1:])
    torch.testing.assert_close(again[0], logits[1])
    torch.testing.assert_close(shades[0], colors[1])
    parts = network().solid(features[4:], CAMERAS, points[1])
    torch.testing.assert_close(parts[0], logits[1])
    turned, _ = network()(features[4:], CAMERAS[order], points[1:])
    assert (turned[0] - logits[1]).abs().max() > 1e-3  # the cameras count


def test_files_keep_the_network_and_the_prior_that_it_belongs_to(tmp_path: Path):
    prior = DiffusersConfig()
    made = network()
    made.digest = prior.digest()
    made.save(tmp_path / "start")
    assert start_folder(str(tmp_path / "start")) == tmp_path / "start"
    assert start_folder(str(tmp_path)) is None
    loaded = load_start(tmp_path / "start", prior)
    for name, value in made.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    made.digest = "another"
    made.save(tmp_path / "start")
    with pytest.raises(PriorError, match="belongs to another prior: train one for yours"):
        load_start(tmp_path / "start", prior)
    (tmp_path / "start" / "model.safetensors").write_bytes(b"")
    with pytest.raises(PriorError, match="holds no network of starts"):
        load_start(tmp_path / "start", prior)


def test_a_network_that_knows_a_ball_gives_a_ball():
    """Set the last layers so that the logit is that of a ball, whatever the views are."""
    from sds3d.priors.starts import view_features
    from sds3d.run.prior_start import mesh_of_views

    class Ball(StartNetwork):
        def at(self, planes: Tensor, cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
            return 20 * (0.3 - points.norm(dim=-1)), 0.5 + points

    prior = DiffusersConfig().load()
    cameras = orbit([0.0, 90.0, 180.0, 270.0], size=64)
    x, text = prior.encode_image(torch.rand(4, 64, 64, 3)), prior.encode_text(["a red mug"] * 4)
    channels = view_features(prior, x, text, cameras, torch.Generator().manual_seed(0)).shape[1]
    mesh = mesh_of_views(Ball(channels), prior, x, text, cameras, 0)
    radius = torch.from_numpy(mesh.vertices).norm(dim=1)
    assert (radius - 0.3).abs().max() < 0.006
    assert mesh.colors is not None
    torch.testing.assert_close(torch.from_numpy(mesh.colors), torch.from_numpy(mesh.vertices) + 0.5)
    assert mesh.volume() == pytest.approx(4 / 3 * torch.pi * 0.3**3, rel=0.03)
