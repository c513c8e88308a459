"""A hash grid as the appearance of a mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import orbit, turntable
from sds3d.config import build
from sds3d.geometry.uv_atlas import bake, rasterize_uv
from sds3d.representations.base import Start
from sds3d.representations.fields import to_unit
from sds3d.representations.fields_hash import hash_encode_reference
from sds3d.representations.hash_nerf import HashNerfConfig
from sds3d.representations.mesh_hash_grid import HashGrid
from sds3d.representations.mesh_scene import MeshConfig, MeshScene
from tests.representations.mesh_scenes import BACKGROUND, adam, ball, fit, mesh_config, pictures, psnr, scene_from

SIZES: dict[str, Any] = {"name": "hash_grid", "levels": 3, "log2_entries": 9, "finest": 24, "hidden": 8, "size": 64}


def config_of(geometry: str = "fixed", resolution: int = 16, shading: str = "none", **appearance: Any) -> MeshConfig:
    shape = {"name": geometry, "resolution": resolution}
    return build(MeshConfig, {"geometry": shape, "appearance": SIZES | appearance, "shading": shading})


def scene_of(geometry: str = "fixed", seed: int = 0, **appearance: Any) -> MeshScene:
    return MeshScene(config_of(geometry, **appearance), torch.Generator().manual_seed(seed))


def strong(scene: MeshScene) -> MeshScene:
    """Give the grid features as large as those of a trained one."""
    with torch.no_grad():
        scene.parameters["table"].mul_(100)
    return scene


def colors_at(scene: MeshScene, points: Tensor) -> Tensor:
    """Return colours (P, 3) by plain torch in float64."""
    assert isinstance(scene.appearance, HashGrid)
    own = {name: value.detach().double() for name, value in scene.parameters.items()}
    encoding = hash_encode_reference(to_unit(points.double()), own["table"], scene.appearance.cells)
    hidden = torch.relu(encoding @ own["hidden"].T + own["hidden_bias"])
    return torch.sigmoid(hidden @ own["color"].T + own["color_bias"])


@pytest.mark.parametrize("geometry", ["dmtet", "fixed"])
def test_each_pixel_has_the_color_of_its_point_on_the_surface(geometry: str) -> None:
    scene, cameras = strong(scene_of(geometry)), orbit([20.0], elevation=15.0, size=24)
    rendering = pictures(scene, cameras)
    inside = rendering.alpha == 1
    inside = -functional.max_pool2d(-inside[..., 0].float(), 3, 1, 1) == 1  # away from the silhouette
    origins, directions = cameras.rays()
    expected = colors_at(scene, (origins + rendering.depth * directions)[inside])
    assert float(expected.std(0).min()) > 0.03
    torch.testing.assert_close(rendering.rgb[inside].double(), expected, atol=1e-4, rtol=0)


def test_a_constant_field_gives_its_color_everywhere() -> None:
    scene = scene_of("dmtet")
    with torch.no_grad():
        scene.parameters["color"].zero_()
        scene.parameters["color_bias"].copy_(torch.logit(torch.tensor([0.25, 0.5, 0.75])))
    rendering = pictures(scene, turntable(2, size=16))
    expected = rendering.alpha * torch.tensor([0.25, 0.5, 0.75]) + (1 - rendering.alpha) * BACKGROUND
    torch.testing.assert_close(rendering.rgb, expected, atol=1e-5, rtol=0)
    texture = scene.to_mesh(64).texture
    assert texture is not None
    assert np.unique(texture.reshape(-1, 3), axis=0).tolist() == [[64, 128, 191]]


def test_grid_and_network_get_their_gradients_by_finite_differences() -> None:
    scene, cameras = strong(scene_of("dmtet")), orbit([0.0], size=16)
    weights = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0))
    for name, parameter in scene.appearance.parameters.items():
        (gradient,) = torch.autograd.grad((scene.render(cameras, BACKGROUND).rgb[0] * weights).sum(), parameter)
        moved = 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * moved)
                sums.append(float((scene.render(cameras, BACKGROUND).rgb[0] * weights).double().sum()))
                parameter.sub_(sign * moved)
        assert float((gradient * moved).sum()) == pytest.approx((sums[0] - sums[1]) / 2, rel=0.02), name


@pytest.mark.parametrize(("geometry", "material"), [("dmtet", "color"), ("fixed", "pbr")])
def test_resuming_is_bit_identical(geometry: str, material: str) -> None:
    scene, cameras = scene_of(geometry, material=material, smoothness=0.01), turntable(2, size=16)
    target = torch.full((2, 16, 16, 3), 0.3)
    fit(scene, cameras, target, 2, adam(scene))
    state = {name: tensor.clone() for name, tensor in scene.state_dict().items()}
    other = scene_of(geometry, seed=5, material=material, smoothness=0.01)
    other.load_state_dict(state)
    for each in (scene, other):
        each.to_mesh(64)  # an export changes nothing
        fit(each, cameras, target, 2, adam(each))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, scene.state_dict()[name]), name


@pytest.mark.parametrize("geometry", ["dmtet", "fixed"])
def test_the_exported_texture_is_the_field_at_the_texels(geometry: str) -> None:
    scene = strong(scene_of(geometry, material="pbr"))
    mesh = scene.to_mesh(64)
    assert mesh.uv is not None
    assert mesh.texture is not None
    assert mesh.metallic_roughness is not None
    assert mesh.texture.shape == mesh.metallic_roughness.shape == (64, 64, 3)
    face, weights = rasterize_uv(mesh.uv, mesh.faces, 64)
    inside = face >= 0
    points = (mesh.vertices[mesh.faces[face[inside]]] * weights[inside][..., None]).sum(1)
    expected = 255 * colors_at(scene, torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(mesh.texture[inside], expected, atol=0.51)
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.colors, colors_at(scene, torch.from_numpy(mesh.vertices)).numpy(), atol=1e-4)


def test_a_given_mesh_keeps_its_uvs_and_colors() -> None:
    mesh = bake(ball(), size=64)
    scene = MeshScene.from_mesh(mesh, config_of(finest=48), torch.Generator().manual_seed(0))
    again = scene.to_mesh(64)
    for name in ("vertices", "faces", "uv"):
        np.testing.assert_array_equal(getattr(again, name), getattr(mesh, name))
    views = turntable(3, size=32)
    kept, shown = (pictures(each, views).rgb for each in (scene_from(mesh, appearance="texels", size=64), scene))
    assert psnr(kept, shown) > 25


@pytest.mark.parametrize("separate", [False, True])
def test_stages_after_a_hash_field_and_after_another_mesh_continue_its_grid(separate: bool) -> None:
    sizes = {"levels": 3, "log2_entries": 9, "coarsest": 8, "finest": 24, "hidden": 8}
    generator = torch.Generator().manual_seed(3)
    field = build(HashNerfConfig, sizes | {"name": "hash_nerf", "separate": separate}).make(Start(generator, 10))
    with torch.no_grad():
        field.field.table.mul_(100)  # type: ignore[operator]
    first = config_of("dmtet").make(Start(generator, 10, before=field))
    second = config_of().make(Start(generator, 10, before=first))
    again = config_of("dmtet").make(Start(generator, 10, before=first))
    assert torch.equal(again.parameters["sdf"], first.parameters["sdf"])  # the shape, too
    points = 0.3 * torch.randn(50, 3, generator=generator)
    _, expected = field.at(points)
    for scene in (first, second, again):
        torch.testing.assert_close(colors_at(scene, points).float(), expected.detach(), atol=1e-5, rtol=0)


def test_smoothness_is_the_difference_of_points_near_the_surface() -> None:
    scene = strong(scene_of("dmtet", smoothness=2.0))
    rendering = scene.render(orbit([0.0], size=8), BACKGROUND)
    loss = scene.regularisers(rendering, 0.0)["color_smoothness"]
    table = scene.parameters["table"]
    (gradient,) = torch.autograd.grad(loss, table)
    with torch.no_grad():
        table.sub_(1e-3 * gradient / gradient.norm())
    lower = scene.regularisers(scene.render(orbit([0.0], size=8), BACKGROUND), 0.0)["color_smoothness"]
    assert float((loss - lower).detach()) == pytest.approx(1e-3 * float(gradient.norm()), rel=0.05)
    with torch.no_grad():
        scene.parameters["color"].zero_()
        assert float(scene.regularisers(rendering, 0.0)["color_smoothness"]) == 0


def test_a_state_of_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set levels, log2_entries and hidden of representation\.appearance"):
        scene_of(levels=4).load_state_dict(scene_of().state_dict())
    voxels = MeshScene(mesh_config("fixed", resolution=16, size=4), torch.Generator())
    with pytest.raises(ValueError, match="is it of another representation, geometry, appearance"):
        scene_of().load_state_dict(voxels.state_dict())
    with pytest.raises(ValueError, match=r"of another representation\.appearance than voxels"):
        voxels.load_state_dict(scene_of().state_dict())
