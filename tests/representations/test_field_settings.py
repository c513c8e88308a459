"""Settings of radiance fields that published systems have: levels over time, separate layers, densities, colours."""

from typing import Any

import pytest
import torch

from sds3d.cameras import orbit
from sds3d.ramps import Ramp
from sds3d.representations.base import Rendering
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.representations.fields import Blob, Decoder, deactivate
from sds3d.representations.fields_hash import HashField
from sds3d.representations.hash_nerf import HashNerfConfig


def test_levels_come_into_use_over_the_run():
    """Eight levels until 20 % of the run, then one more every 5 %, as in threestudio's DreamFusion."""
    ramp = Ramp(((0.2, 8), (0.6, 16)))
    field = HashField(torch.Generator().manual_seed(0), levels=16, entries=1 << 8, active=ramp)
    in_use = []
    for percent in (0, 20, 24.9, 25, 30, 59.9, 60, 100):
        field.begin(percent / 100)
        in_use.append(field.in_use)
    assert in_use == [8, 8, 8, 9, 10, 15, 16, 16]


def test_levels_that_are_not_in_use_neither_show_nor_learn():
    torch.manual_seed(0)
    points = torch.rand(50, 3) - 0.5
    fields = [
        HashField(torch.Generator().manual_seed(0), levels=6, entries=1 << 8, active=active)
        for active in (Ramp(3), None)
    ]
    with torch.no_grad():
        fields[1].table[3:] = 0
    expected, actual = (field(points) for field in reversed(fields))
    torch.testing.assert_close(actual, expected)
    density, color = actual
    (density.sum() + color.sum()).backward()
    gradient = fields[0].table.grad
    assert gradient is not None
    assert gradient[:3].abs().sum() > 0
    assert not gradient[3:].any()


def test_separate_layers_scale_and_linear_colours():
    generator = torch.Generator().manual_seed(0)
    decoder = Decoder(4, generator, hidden=8, separate=True, scale=1.0, linear=True, blob=Blob(10.0, 0.5))
    encoding, points = torch.randn(20, 4), torch.rand(20, 3) - 0.5
    density, color = decoder(encoding, points)
    assert decoder.features is not None
    first, _, last = decoder.features
    hidden = torch.relu(encoding @ decoder.hidden.weight.T + decoder.hidden.bias)
    raw = (hidden @ decoder.out.weight.T + decoder.out.bias)[:, 0]
    # threestudio: softplus(raw + 10 (1 - |x| / 0.5)) per unit of length
    torch.testing.assert_close(density, torch.nn.functional.softplus(raw + 10 * (1 - points.norm(dim=-1) / 0.5)))
    y = torch.relu(encoding @ first.weight.T) @ last.weight.T
    torch.testing.assert_close(color, (y + 1) / 2)
    torch.testing.assert_close(deactivate(density, 1.0), raw + 10 * (1 - points.norm(dim=-1) / 0.5), atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(density.sum(), last.weight, allow_unused=True)
    assert gradient is None


def test_an_exponential_density_with_a_bump_as_in_latent_nerf():
    config = HashNerfConfig(
        levels=2,
        log2_entries=8,
        density="exponential",
        density_scale=1,
        blob_shape="bump",
        blob_height=5,
        blob_radius=0.2,
    )
    field = config.make_field(torch.Generator().manual_seed(0)).double()
    points = torch.rand(20, 3, dtype=torch.float64) - 0.5
    raw = field.decoder.out(torch.relu(field.decoder.hidden(field._encode(points))))[:, 0]
    level = raw + 5 * torch.exp(-points.square().sum(-1) / (2 * 0.2**2))
    density, _ = field(points)
    torch.testing.assert_close(density, level.exp())
    torch.testing.assert_close(deactivate(density, 1.0, exponential=True), level)
    axes = 1e-6 * torch.eye(3, dtype=torch.float64)[:, None]
    before, after = field((torch.cat([points - axes, points + axes])).reshape(-1, 3))[0].reshape(2, 3, -1)
    torch.testing.assert_close(field.slope(points), ((after - before) / 2e-6).T, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        field.decoder.out.bias.fill_(1000.0)
    assert field(points)[0].isfinite().all()


def test_levels_in_use_must_exist():
    with pytest.raises(ValueError, match="active_levels must be from 1 to levels = 8"):
        HashNerfConfig(active_levels=Ramp(((0, 4), (1, 9))))


def test_further_samples_show_a_scene_as_a_finer_march_does():
    cameras, white = orbit([20.0], 15.0, size=12), torch.ones(3)
    fields = {"levels": 4, "log2_entries": 8, "blob_height": 60, "blob_radius": 0.3, "density_scale": 30}

    def shown(**settings: Any) -> Rendering:
        config = HashNerfConfig.model_validate({"name": "hash_nerf", **fields, **settings})
        rendering = FieldNerfScene(config, torch.Generator().manual_seed(0)).render(cameras, white)
        assert rendering.alpha.requires_grad
        return rendering

    exact, coarse = shown(samples=512), shown(samples=24)
    fine = shown(samples=24, fine_samples=64, fine_kernel="boxcar")
    wrong = [float((one.depth - exact.depth).detach().square().mean().sqrt()) for one in (fine, coarse)]
    assert 0 < wrong[0] < 0.5 * wrong[1]
