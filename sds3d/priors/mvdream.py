"""MVDream (arXiv:2308.16512) in diffusers' layout, on a stock U-Net.

Two public conversions are read. In one, the weights have the names of the original code, and the model brings its class
as Python code. That code is not run: the weights are renamed to those of the stock U-Net (`camera_embed` is the
camera's network). In the other, the U-Net is a stock one, and the camera's network is in `camera_proj`. Self-attention
across views is `ViewAttention`, as in the embedded prior. The original checkpoints are pickled and are not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.priors.loading import ModelFiles, chosen_weights
from sds3d.priors.multiview import CameraEncoder
from sds3d.priors.unet_latent import DiffusersPrior, Networks, Variant, load_noising, load_vae

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

POSE = 16  # values of a 4 x 4 matrix


class PoseEncoder(CameraEncoder):
    """MVDream's camera network, from camera-to-world matrices, with cameras on the unit sphere, to the time embedding.

    It does not see distance and field of view.
    """

    def __init__(self, width: int, time_embedding_dim: int) -> None:
        nn.Module.__init__(self)
        self.layers = nn.Sequential(nn.Linear(POSE, width), nn.SiLU(), nn.Linear(width, time_embedding_dim))

    def embed(self, cameras: Cameras) -> Tensor:
        """Map B cameras to (B, time_embedding_dim)."""
        return self(poses(cameras))


def poses(cameras: Cameras) -> Tensor:
    """Return camera-to-world matrices of OpenGL cameras in MVDream's frame (Z up, front on +X), flattened: (B, 16).

    That objects face +X follows from its sampling example, whose first camera is on +X; no weights were tried.
    """
    matrix = cameras.c2w().clone()
    # Onto the unit sphere, where the object is as large in all pictures. With jitter, that is MVDream's own way too.
    distance = cameras.distance if cameras.pose is None else cameras.position().norm(dim=-1)
    matrix[:, :3, 3] /= distance[:, None]
    x, y, z, last = matrix.unbind(1)  # of a frame with Y up and the front on +Z
    return torch.stack([z, x, y, last], dim=1).flatten(1)


def load_mvdream(files: ModelFiles) -> DiffusersPrior:
    """Load a folder of MVDreamPipeline. Raises PriorError if it is ImageDream, which needs a picture."""
    from transformers import CLIPTextModel, CLIPTokenizer

    if files.config("unet").get("ip_dim"):
        raise files.error("this is ImageDream, which is conditioned on a picture: use MVDream")
    unet, encoder = _stock(files) if files.has("camera_proj") else _renamed(files)
    networks = Networks(
        load_vae(files),
        files.plain(CLIPTokenizer, "tokenizer"),
        lambda: files.text_encoder(CLIPTextModel, "text_encoder"),
        files.ready(unet, "unet"),
        load_noising(files),
        encoder if files.multiview else None,
    )
    return DiffusersPrior(networks, files.device, Variant(image_size=files.image_size))


def _weights(files: ModelFiles, part: str) -> dict[str, Tensor]:
    files.variant(part)  # checks them
    names = [path.name for path in (files.folder / part).glob("*")]
    chosen = chosen_weights(names, files.dtype != torch.float32)
    with files.explained():
        return {key: value for name in chosen for key, value in load_file(files.folder / part / name).items()}


def _pose_encoder(files: ModelFiles, weights: dict[str, Tensor], first: str, last: str) -> PoseEncoder:
    with files.explained():
        state = {f"layers.{i}.{k}": weights[f"{n}.{k}"] for i, n in ((0, first), (2, last)) for k in ("weight", "bias")}
        encoder = PoseEncoder(len(state["layers.0.bias"]), len(state["layers.2.bias"]))
        encoder.load_state_dict({name: value.float() for name, value in state.items()})
    return encoder


def _stock(files: ModelFiles) -> tuple[UNet2DConditionModel, PoseEncoder]:
    from diffusers import UNet2DConditionModel

    encoder = _pose_encoder(files, _weights(files, "camera_proj"), "linear_1", "linear_2")
    return files.network(UNet2DConditionModel, "unet"), encoder


def _renamed(files: ModelFiles) -> tuple[UNet2DConditionModel, PoseEncoder]:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    weights = _weights(files, "unet")
    with files.explained():
        config = stock_config(files.config("unet"))
        unet: Any = UNet2DConditionModel.from_config(config)
        prefixed = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
        unet.load_state_dict(convert_ldm_unet_checkpoint(prefixed, unet.config))
    encoder = _pose_encoder(files, weights, "camera_embed.0", "camera_embed.2")
    nn.Module.to(unet, dtype=files.dtype)
    return unet, encoder


def stock_config(given: dict[str, Any]) -> dict[str, Any]:
    """Return the stock U-Net's configuration for one in the original code's terms."""
    channels = [given["model_channels"] * factor for factor in given["channel_mult"]]
    attends = [2**level in given["attention_resolutions"] for level in range(len(channels))]
    heads = [c // given["num_head_channels"] if given.get("num_head_channels", -1) > 0 else given["num_heads"]
             for c in channels]  # fmt: skip
    return {
        "sample_size": given["image_size"],
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": given["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "attention_head_dim": heads,  # despite its name, the number of heads
        "cross_attention_dim": given["context_dim"],
        "transformer_layers_per_block": given.get("transformer_depth", 1),
        "use_linear_projection": True,
    }
