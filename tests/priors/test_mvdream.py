"""MVDream folders in both published layouts, made from a tiny stock U-Net by renaming its weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras, sample_cameras, turntable
from sds3d.files import PriorError
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.mvdream import poses
from tests.priors.tiny import LAYERS, WEIGHTS, pose_network, tiny_mvdream

CONFIG = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
    "num_res_blocks": LAYERS, "channel_mult": [1, 2], "num_head_channels": 16, "transformer_depth": 1,
    "context_dim": 32, "camera_dim": 16,
}  # fmt: skip


def original_name(name: str) -> str:
    """Return the original code's name of a stock U-Net's weight: one list of blocks, and numbered ResNet layers."""
    for new, old in (
        ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
        ("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
    ):  # fmt: skip
        if name.startswith(new + "."):
            name = old + name.removeprefix(new)
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name):
        way, block, kind, layer, rest = found.groups()
        place = int(block) * (LAYERS + 1) + int(layer)
        match kind:
            case "downsamplers":
                name = f"input_blocks.{(int(block) + 1) * (LAYERS + 1)}.0.op.{rest.removeprefix('conv.')}"
            case "upsamplers":
                name = f"output_blocks.{int(block) * (LAYERS + 1) + LAYERS}.2.{rest}"
            case _:
                part = 0 if kind == "resnets" else 1
                name = (
                    f"input_blocks.{place + 1}.{part}.{rest}"
                    if way == "down"
                    else f"output_blocks.{place}.{part}.{rest}"
                )
    if ".transformer_blocks." not in name and not name.startswith(("time_embed", "out.")):
        for new, old in (
            ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
        ):  # fmt: skip
            name = name.replace(f".{new}.", f".{old}.")
    return name


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of a stock U-Net, with the camera network in `camera_proj`."""
    return tiny_mvdream(tmp_path_factory.mktemp("mvdream") / "stock")


@pytest.fixture(scope="module")
def renamed(stock: Path) -> Path:
    """A folder with the original code's names in the U-Net, including the camera network."""
    folder = stock.parent / "renamed"
    shutil.copytree(stock, folder)
    shutil.rmtree(folder / "camera_proj")
    weights: dict[str, Tensor] = {
        original_name(name): value for name, value in load_file(stock / "unet" / WEIGHTS).items()
    }
    save_file(weights | pose_network().state_dict(prefix="camera_embed."), folder / "unet" / WEIGHTS)
    (folder / "unet" / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_poses_are_those_of_the_paper() -> None:
    """MVDream builds camera-to-world matrices from a look-at in OpenGL's frame, then turns Y up into Z up.

    Its sampling example starts at azimuth 90, which is the front and thus our azimuth 0.
    """
    cameras = Cameras(
        torch.tensor([0.0, 37.0, 200.0]), torch.tensor([15.0, -20.0, 60.0]), torch.tensor([1.5, 2.1, 3.0]),
        torch.full((3,), 40.0), 64, 64,
    )  # fmt: skip
    for row, azimuth, elevation in zip(
        poses(cameras), np.radians([90, 127, 290]), np.radians([15, -20, 60]), strict=True
    ):
        position = np.array(
            [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
        )
        right = np.cross(-position, [0, 1, 0])
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3] = np.stack([right, np.cross(right, -position), position, position], axis=1)
        matrix[[1, 2]] = np.stack([-matrix[2], matrix[1]])
        np.testing.assert_allclose(row.reshape(4, 4).numpy(), matrix, atol=1e-6)


def test_cameras_with_jitter_are_told_as_they_are_with_their_place_on_the_unit_sphere() -> None:
    """MVDream's `normalize_camera` divides the translation by its own length and leaves the rotation."""
    config = CameraConfig(position_jitter=0.3, target_jitter=0.2, up_jitter=0.1)
    cameras = sample_cameras(config, torch.Generator().manual_seed(0))
    told = poses(cameras).reshape(4, 4, 4)
    torch.testing.assert_close(told[:, :3, 3].norm(dim=-1), torch.ones(4))
    yup = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # from Z up, front +X
    torch.testing.assert_close(yup @ told[:, :3, :3], cameras.c2w()[:, :3, :3])
    torch.testing.assert_close(
        (yup @ told[:, :3, 3:])[..., 0], torch.nn.functional.normalize(cameras.position(), dim=-1)
    )


def test_the_front_is_on_the_x_axis() -> None:
    front, side = poses(turntable(4, elevation=0.0))[:2].reshape(2, 4, 4)
    torch.testing.assert_close(front[:3, 3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(side[:3, 3], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_both_layouts_are_the_stock_u_net_with_views_and_poses(stock: Path, renamed: Path) -> None:
    priors = [DiffusersConfig(model=str(folder)).load() for folder in (stock, renamed)]
    assert [prior.n_views for prior in priors] == [4, 4]
    assert [prior.image_size for prior in priors] == [16, 16]
    x_t, t, cameras = torch.randn(4, 4, 8, 8), torch.full((4,), 0.4), turntable(4)
    cond = priors[0].encode_text(["a red mug"] * 4)
    plain = DiffusersConfig(model=str(stock), multiview=False).load()
    with torch.no_grad():
        joint = [prior.predict(x_t, t, cond, cameras).eps for prior in priors]
        alone = [prior.predict(x_t, t, cond, None).eps for prior in priors]
        stock_eps = plain.network(x_t, priors[0].timestep(t), cond.hidden).sample
    assert torch.equal(joint[0], joint[1])
    for eps in (*alone, plain.predict(x_t, t, cond, cameras).eps):
        torch.testing.assert_close(eps, stock_eps, atol=1e-5, rtol=1e-5)
    # Views attend to each other, and poses matter.
    other = x_t.clone()
    other[3] += 1
    with torch.no_grad():
        assert (priors[1].predict(other, t, cond, cameras).eps[0] - joint[1][0]).abs().max() > 1e-4
        turned = priors[1].predict(x_t, t, cond, cameras[torch.tensor([2, 3, 0, 1])]).eps
        farther = priors[1].predict(x_t, t, cond, turntable(4, distance=3.0)).eps
    assert (turned - joint[1]).abs().max() > 1e-4
    torch.testing.assert_close(farther, joint[1])  # the distance is not an input


def test_the_joint_path_is_diffusers_own_attention_over_all_views(stock: Path) -> None:
    """The reference is diffusers' plain attention over the tokens of four views as one, with its class embedding."""
    prior = DiffusersConfig(model=str(stock)).load()
    x_t, t, cameras = torch.randn(8, 4, 8, 8), torch.tensor([0.4, 0.7]).repeat_interleave(4), turntable(4)
    both = Cameras.cat([cameras, turntable(4, elevation=40.0)])  # two objects
    cond = prior.encode_text(["a red mug"] * 4 + ["a blue chair"] * 4)

    reference = UNet2DConditionModel.from_pretrained(stock / "unet", class_embed_type="identity")
    reference.set_attn_processor(AttnProcessor())
    for name, module in reference.named_modules():
        if name.endswith(".attn1"):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: ((args[0].unflatten(0, (2, 4)).flatten(1, 2),), kwargs), with_kwargs=True
            )
            module.register_forward_hook(lambda _, args, out: out.unflatten(1, (4, -1)).flatten(0, 1))
    with torch.no_grad():
        labels = pose_network()(poses(both))
        expected = reference(x_t, prior.timestep(t), cond.hidden, class_labels=labels).sample
        joint = prior.predict(x_t, t, cond, both).eps
    torch.testing.assert_close(joint, expected, atol=1e-5, rtol=1e-5)


def test_imagedream_is_refused(renamed: Path, tmp_path: Path) -> None:
    shutil.copytree(renamed, tmp_path / "image")
    (tmp_path / "image" / "unet" / "config.json").write_text(json.dumps({**CONFIG, "ip_dim": 16}))
    with pytest.raises(PriorError, match="ImageDream"):
        DiffusersConfig(model=str(tmp_path / "image")).load()


def test_a_missing_camera_network_is_reported(renamed: Path, tmp_path: Path) -> None:
    shutil.copytree(renamed, tmp_path / "lacking")
    file = tmp_path / "lacking" / "unet" / WEIGHTS
    save_file({name: value for name, value in load_file(file).items() if "camera_embed" not in name}, file)
    with pytest.raises(PriorError, match="camera_embed"):
        DiffusersConfig(model=str(tmp_path / "lacking")).load()
