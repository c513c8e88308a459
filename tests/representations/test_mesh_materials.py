"""Textures and metallic-roughness materials of the mesh scene."""

import io
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.config import ConfigError
from sds3d.formats.export import asset_files
from sds3d.formats.glb import to_glb
from sds3d.formats.glb_chunks import read_chunks
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.uv_atlas import bake
from sds3d.rendering.mesh_differentiable import interpolate, rasterize_mesh
from sds3d.rendering.shading import (
    Light,
    linear_to_srgb,
    metallic_roughness,
    prefilter,
    sample_texture,
    shade_mesh,
    srgb_to_linear,
    studio,
)
from sds3d.representations.mesh_scene import MeshScene
from sds3d.representations.mesh_texture import look_up, roughening, texel_map, welded, with_uv
from tests.representations.mesh_scenes import mesh_config, psnr

BACKGROUND = torch.tensor([0.2, 0.5, 0.9])
UNLIT = Light(np.float32([0, 0, 1]), ambient=1.0, diffuse=0.0)
TEXELS = {"appearance": "texels", "vertices_lr": 0.0}


def pattern(points: np.ndarray) -> np.ndarray:
    """Return colors of smooth stripes in all three channels, a few per metre."""
    return (0.5 + 0.4 * np.sin(points * [14.0, 11.0, 9.0] + [0.0, 1.0, 2.0])).astype(np.float32)


def torus() -> Mesh:
    shape = trimesh.creation.torus(0.3, 0.13, 48, 32)
    vertices = np.asarray(shape.vertices, np.float32)
    return Mesh(vertices, np.asarray(shape.faces, np.int32), colors=pattern(vertices))


@pytest.fixture(scope="module")
def baked() -> Mesh:
    return bake(torus(), pattern, 256)


def scene_from(mesh: Mesh, appearance: str = "voxels", size: int = 256, **options: Any) -> MeshScene:
    """Return a scene with a fixed mesh. size: texels along an edge; voxel grids always have 24."""
    config = mesh_config("fixed", appearance, size=24 if appearance == "voxels" else size, **options)
    return MeshScene.from_mesh(mesh, config, torch.Generator().manual_seed(0))


def pictures(scene: MeshScene, cameras: Cameras) -> Tensor:
    with torch.no_grad():
        return scene.render(cameras, BACKGROUND).rgb


def fit(scene: MeshScene, cameras: Cameras, target: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(scene.parameter_groups(), eps=1e-15)
    for step in range(steps):
        some = torch.arange(step % 4, len(cameras), 4)
        rendering = scene.render(cameras[some], BACKGROUND)
        data = 0.5 * (rendering.rgb - target[some]).square().sum() / len(some)
        (data + torch.stack(list(scene.regularisers(rendering, step / steps).values())).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scene.after_step(step, optimizer)


# ---- texels ----


def test_look_ups_agree_with_the_exported_texture() -> None:
    generator = torch.Generator().manual_seed(0)
    texels, uv = torch.randn(16, 16, 3, generator=generator), torch.rand(500, 2, generator=generator) * 1.2 - 0.1
    values = look_up(texels, torch.arange(256), uv)
    expected = torch.nn.functional.grid_sample(
        texels.sigmoid().permute(2, 0, 1)[None], 2 * uv[None, None] - 1, padding_mode="border", align_corners=False
    )
    torch.testing.assert_close(values, expected[0, :, 0].T, atol=1e-5, rtol=0)
    rounded = (texels.sigmoid() * 255).round().to(torch.uint8).numpy()
    np.testing.assert_allclose(values.numpy(), sample_texture(rounded, uv.numpy()), atol=0.5 / 255 + 1e-5)


def test_gradients_of_look_ups_and_smoothness_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    texels = torch.randn(6, 6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    uv = torch.rand(20, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    source = torch.randint(36, (36,), generator=generator)
    assert torch.autograd.gradcheck(lambda t, p: look_up(t, source, p), (texels, uv))
    pairs = torch.randint(36, (40, 2), generator=generator)
    assert torch.autograd.gradcheck(lambda t: roughening(t, pairs), (texels,))


def test_a_texture_gets_its_gradient_by_finite_differences() -> None:
    scene, cameras = scene_from(torus(), **TEXELS, size=64), orbit([0.0], size=32)
    weights = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    color = scene.parameters["color"]
    (scene.render(cameras, BACKGROUND).rgb[0] * weights).sum().backward()
    assert color.grad is not None
    moved = torch.randn(color.shape, generator=torch.Generator().manual_seed(1))
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            color.add_(sign * 0.01 * moved)
            sums.append(float((scene.render(cameras, BACKGROUND).rgb[0] * weights).double().sum()))
            color.sub_(sign * 0.01 * moved)
    assert float((color.grad * moved).sum()) == pytest.approx((sums[0] - sums[1]) / 0.02, rel=0.01)


def test_texels_start_as_the_given_texture_and_geometry_is_kept_exactly(baked: Mesh) -> None:
    again = scene_from(baked, **TEXELS).to_mesh(64)
    for name in ("vertices", "faces", "uv"):
        np.testing.assert_array_equal(getattr(again, name), getattr(baked, name))
    assert again.texture is not None
    assert baked.texture is not None
    inside = texel_map(welded(baked)[1], 256).face >= 0
    assert np.abs(again.texture.astype(int) - baked.texture)[inside].max() <= 1


def test_seams_are_not_silhouettes(baked: Mesh) -> None:
    split, whole = (scene_from(mesh, shading="normal") for mesh in (baked, torus()))
    cameras = turntable(2, size=64)
    torch.testing.assert_close(pictures(split, cameras), pictures(whole, cameras), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(split.to_mesh(64).vertices, baked.vertices)
    np.testing.assert_array_equal(split.to_mesh(64).faces, baked.faces)


def test_texels_start_as_vertex_colors_on_a_new_atlas() -> None:
    mesh, cameras = torus(), turntable(3, size=96)
    again = scene_from(mesh, **TEXELS).to_mesh(64)
    assert again.uv is not None
    np.testing.assert_array_equal(again.vertices[again.faces], mesh.vertices[mesh.faces])
    one, other = (torch.from_numpy(shade_mesh(m, cameras, light=UNLIT)[0]) for m in (again, mesh))
    assert psnr(one, other) > 40


def test_neighbouring_texels_are_adjacent_or_across_a_seam() -> None:
    mesh = torus()
    vertices, layout = welded(mesh)
    layout = with_uv(vertices, layout, 128)
    texels = texel_map(layout, 128)
    inside = torch.from_numpy(texels.face >= 0).reshape(-1)
    assert bool(inside[texels.source].all())
    assert torch.equal(texels.source[inside], torch.arange(128 * 128)[inside])
    corners = vertices[layout.origin[layout.faces[texels.face.reshape(-1)]]]  # (S S, 3, 3)
    points = (torch.from_numpy(texels.weights).reshape(-1, 3, 1) * corners).sum(1)
    one, other = texels.neighbours.unbind(1)
    apart = (points[one] - points[other]).norm(dim=-1)
    step = (one - other).abs()
    beside = (step == 1) | (step == 128)
    texel = float(apart[beside].median())
    assert float(apart.max()) < 4 * texel
    assert (~beside).sum() > 100  # pairs across welded seams


def test_fits_a_known_texture_from_renders(baked: Mesh) -> None:
    cameras = orbit([22.5 * i for i in range(16)], elevation=torch.tensor([-40.0, 0.0, 30.0, 60.0] * 4), size=96)
    target = torch.from_numpy(shade_mesh(baked, cameras, BACKGROUND, UNLIT)[0])
    bare = Mesh(baked.vertices, baked.faces, uv=baked.uv)
    scene = scene_from(bare, **TEXELS, size=128)
    fit(scene, cameras, target, 80)
    unseen = orbit([10.0, 130.0, 250.0], elevation=20.0, size=96)
    ours, theirs = pictures(scene, unseen), torch.from_numpy(shade_mesh(baked, unseen, BACKGROUND, UNLIT)[0])
    assert psnr(ours, theirs) > 28
    np.testing.assert_array_equal(scene.to_mesh(64).vertices, baked.vertices)


def test_exported_texture_looks_like_the_scene(baked: Mesh) -> None:
    scene, cameras = (
        scene_from(baked, **TEXELS),
        orbit([0.0, 8.0, 180.0], elevation=0.0, size=128),
    )  # no self-occlusion
    with torch.no_grad():
        noise = torch.randn(scene.parameters["color"].shape, generator=torch.Generator().manual_seed(0))
        scene.parameters["color"].add_(0.3 * noise)
    document, binary = read_chunks(to_glb(scene.to_mesh(64)))
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    start = view.get("byteOffset", 0)
    png = Image.open(io.BytesIO(bytes(binary[start : start + view["byteLength"]])))
    exported = Mesh(baked.vertices, baked.faces, uv=baked.uv, texture=np.asarray(png.convert("RGB")))
    shown = torch.from_numpy(shade_mesh(exported, cameras, BACKGROUND, UNLIT, supersampling=1)[0])
    with torch.no_grad():
        render = scene.render(cameras, BACKGROUND)
    solid = render.alpha[..., 0] == 1
    assert psnr(render.rgb[solid], shown[solid]) > 45


@pytest.mark.parametrize("options", [TEXELS, TEXELS | {"material": "pbr"}, {"material": "pbr"}])
def test_resuming_is_bit_identical(options: dict[str, object]) -> None:
    scene, cameras = scene_from(torus(), **options, size=64), turntable(4, size=24)
    target = torch.full((4, 24, 24, 3), 0.3)
    fit(scene, cameras, target, 2)
    state = scene.state_dict()
    other = MeshScene(scene.config, torch.Generator().manual_seed(5))
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for each in (scene, other):
        fit(each, cameras, target, 3)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, scene.state_dict()[name]), name


def test_texels_on_the_starting_ball() -> None:
    config = mesh_config("fixed", "texels", resolution=12, size=64)
    scene = MeshScene(config, torch.Generator().manual_seed(0))
    mesh = scene.to_mesh(64)
    assert mesh.texture is not None
    assert mesh.texture.shape == (64, 64, 3)
    assert scene.render(orbit([0.0], size=24), BACKGROUND).alpha.sum().item() > 50


def test_incompatible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="set geometry=fixed"):
        mesh_config(appearance="texels")
    with pytest.raises(ConfigError, match="lit by environments"):
        mesh_config(material="pbr", shading="lambert")
    repeated = Mesh(torus().vertices, torus().faces, uv=torus().vertices[:, :2] * 9)
    with pytest.raises(ValueError, match=r"UVs leave \[0, 1\]"):
        scene_from(repeated, **TEXELS)
    with pytest.raises(ValueError, match=r"representation\.appearance\.size=64"):
        scene_from(torus(), **TEXELS, size=32).load_state_dict(scene_from(torus(), **TEXELS, size=64).state_dict())


# ---- metallic-roughness ----


def set_material(scene: MeshScene, metallic: float, roughness: float) -> None:
    with torch.no_grad():
        scene.parameters["material"].copy_(torch.logit(torch.tensor([metallic, roughness])))


@pytest.mark.parametrize("appearance", ["voxels", "texels"])
def test_pbr_is_metallic_roughness_under_the_studio(appearance: str) -> None:
    mesh, cameras = torus(), orbit([0.0, 100.0], elevation=50.0, size=48)
    scene = scene_from(mesh, material="pbr", appearance=appearance)
    set_material(scene, 0.7, 0.3)
    with torch.no_grad():
        render = scene.render(cameras, BACKGROUND)
        vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
        raster = rasterize_mesh(vertices, faces, cameras)
        normals = torch.from_numpy(trimesh.Trimesh(mesh.vertices, mesh.faces).vertex_normals.copy()).float()
        normal = torch.nn.functional.normalize(interpolate(normals, faces, raster), dim=-1)
        plain = scene_from(mesh, appearance=appearance).render(cameras, BACKGROUND).rgb
        factor = torch.ones_like(render.alpha)
        to_camera = -cameras.rays()[1]
        light = metallic_roughness(
            srgb_to_linear(plain), 0.7 * factor, 0.3 * factor, normal, to_camera, prefilter(studio())
        )
    solid = render.alpha[..., 0] == 1
    difference = (render.rgb - linear_to_srgb(light).clamp(max=1))[solid].abs()
    assert float(difference.mean()) < 0.005  # trimesh weights vertex normals by angle, the scene by area
    assert float(difference.quantile(0.99)) < 0.03


@pytest.mark.parametrize("appearance", ["voxels", "texels"])
def test_metallic_and_roughness_get_gradients_by_finite_differences(appearance: str) -> None:
    scene = scene_from(torus(), material="pbr", appearance=appearance, size=64)
    set_material(scene, 0.4, 0.5)
    cameras = orbit([30.0], size=32)
    weights = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    material = scene.parameters["material"]
    (scene.render(cameras, BACKGROUND).rgb[0] * weights).sum().backward()
    assert material.grad is not None
    for channel in (0, 1):
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                material[..., channel] += sign * 0.01
                sums.append(float((scene.render(cameras, BACKGROUND).rgb[0] * weights).double().sum()))
                material[..., channel] -= sign * 0.01
        slope = (sums[0] - sums[1]) / 0.02
        assert abs(slope) > 0.1
        assert float(material.grad[..., channel].sum()) == pytest.approx(slope, rel=0.03)


@pytest.mark.parametrize("appearance", ["voxels", "texels"])
def test_materials_are_fitted_and_exported(appearance: str) -> None:
    cameras = orbit([45.0 * i for i in range(8)], elevation=torch.tensor([10.0, 50.0] * 4), size=48)
    truth = scene_from(torus(), material="pbr", appearance=appearance, size=64)
    set_material(truth, 0.9, 0.25)
    # A bright dielectric and a dark metal look similar, so the colours stay fixed.
    rates = {"vertices_lr": 0.0, "lr": 1e-9, "material": {"name": "pbr", "lr": 0.1}}
    scene = scene_from(torus(), appearance=appearance, size=64, **rates)
    before = scene.to_mesh(64)
    assert before.metallic == pytest.approx(0.05, abs=0.01)  # the given mesh's 0, as close as the sigmoid gets
    assert before.roughness == pytest.approx(0.8, abs=0.01)
    fit(scene, cameras, pictures(truth, cameras), 120)
    mesh = scene.to_mesh(64)
    assert mesh.metallic > 0.75
    assert mesh.roughness < 0.45  # without highlights, rough and smooth look the same
    assert psnr(pictures(scene, cameras), pictures(truth, cameras)) > 33
    assert (mesh.metallic_roughness is not None) == (appearance == "texels")


@pytest.mark.parametrize("appearance", ["voxels", "texels"])
def test_a_glb_holds_the_material_of_each_point(appearance: str) -> None:
    scene = scene_from(torus(), material="pbr", appearance=appearance, size=64)
    with torch.no_grad():
        half = scene.parameters["material"].shape[0] // 2  # of the voxels along x, or of the texture's rows
        scene.parameters["material"][:half] = torch.logit(torch.tensor([0.9, 0.2]))
        scene.parameters["material"][half:] = torch.logit(torch.tensor([0.1, 0.7]))
    glb = asset_files(["glb"], "torus", scene.to_mesh(64), texture_size=64)["torus.glb"]
    (shape,) = trimesh.load(io.BytesIO(glb), file_type="glb", process=False).geometry.values()
    picture = np.asarray(shape.visual.material.metallicRoughnessTexture.convert("RGB")) / 255
    assert (shape.visual.material.metallicFactor, shape.visual.material.roughnessFactor) == (1.0, 1.0)
    corners = np.asarray(shape.faces)
    u, v = shape.visual.uv[corners].mean(1).T
    row, column = ((1 - v) * 64).astype(int).clip(0, 63), (u * 64).astype(int).clip(0, 63)
    seen = picture[row, column]
    left = shape.vertices[corners].mean(1)[:, 0] < 0 if appearance == "voxels" else row < 32
    clear = np.abs(shape.vertices[corners].mean(1)[:, 0]) > 0.06 if appearance == "voxels" else np.abs(row - 31.5) > 2
    for side, metallic, roughness in ((left, 0.9, 0.2), (~left, 0.1, 0.7)):
        np.testing.assert_allclose(np.median(seen[side & clear][:, 2]), metallic, atol=0.01)
        np.testing.assert_allclose(np.median(seen[side & clear][:, 1]), roughness, atol=0.01)
