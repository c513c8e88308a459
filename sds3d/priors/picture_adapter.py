"""A U-Net of the toy world that also reads a picture, as an IP-Adapter does (Ye et al. 2023, arXiv:2308.06721).

A small network turns a picture into four tokens. Each cross-attention layer also attends to these, with keys and values
of their own, and the time embedding gets a further vector made of them. The U-Net keeps its weights. The values and the
further vector start at zero, so training starts from the plain model. Tokens of zeros are no picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sds3d.priors.multiview import camera_embedding, time_embedding_of
from sds3d.priors.network import Ask
from sds3d.priors.network_files import load_network, save_network
from sds3d.prompts.conditioning import Conditioning
from sds3d.rendering.resizing import resize_planes

FOLDER = "picture_adapter"
SIDE = 64
"""Height and width of the pictures that the network reads."""
TOKENS = 4


class PictureAdapter(nn.Module):
    """Turns pictures into tokens, and tokens into what they add to a U-Net.

    widths: of the U-Net's cross-attention layers, in their order. time_width: of its time embedding. token_width: of
    the tokens. digest: of the weights of the prior that its training started from.
    """

    def __init__(self, widths: Sequence[int], time_width: int, token_width: int = 128, digest: str = "") -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "widths": list(widths), "time_width": time_width, "token_width": token_width, "digest": digest,
        }  # fmt: skip

        def halved(inside: int, outside: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inside, outside, 3, 2, 1), nn.GroupNorm(8, outside), nn.SiLU())

        self.reader = nn.Sequential(
            halved(3, 32), halved(32, 64), halved(64, 128), halved(128, 128),
            nn.Flatten(), nn.Linear((SIDE // 16) ** 2 * 128, TOKENS * token_width),
            nn.Unflatten(1, (TOKENS, token_width)), nn.LayerNorm(token_width),
        )  # fmt: skip
        self.keys = nn.ModuleList(nn.Linear(token_width, width, bias=False) for width in widths)
        self.values = nn.ModuleList(nn.Linear(token_width, width, bias=False) for width in widths)
        self.to_time = nn.Linear(TOKENS * token_width, time_width)
        for layer in (*self.values, self.to_time):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.to_time.bias)

    @classmethod
    def of(cls, unet: Any) -> PictureAdapter:
        """Make a new one for a U-Net."""
        widths = [layer.to_q.out_features for layer in cross_attention(unet)]
        return cls(widths, time_embedding_of(unet)[1], unet.config["cross_attention_dim"])

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (B, 3, SIDE, SIDE) in [0, 1] to tokens (B, 4, D)."""
        return self.reader(2 * pictures - 1)

    @torch.no_grad()
    def read(self, rgb: Tensor) -> Tensor:
        """Map pictures (B, H, W, 3) in [0, 1] to tokens (B, 4, D). Oblong ones are made square by extending borders."""
        height, width = rgb.shape[1:3]
        side = max(height, width)
        across, down = side - width, side - height
        margins = (across // 2, across - across // 2, down // 2, down - down // 2)
        square = functional.pad(rgb.permute(0, 3, 1, 2).float(), margins, mode="replicate")
        return self(resize_planes(square, SIDE))

    def save(self, folder: Path) -> None:
        """Write config.json, and the weights in fp16 as model.safetensors."""
        save_network(folder, self, self.config)

    @classmethod
    def load(cls, folder: Path) -> PictureAdapter:
        """Read what `save` wrote, in float32."""
        return load_network(cls, folder)


def cross_attention(unet: Any) -> list[Any]:
    """Return the cross-attention layers of a U-Net."""
    return [module for name, module in unet.named_modules() if name.endswith("attn2")]


def asking_with_pictures(ask: Ask, adapter: PictureAdapter) -> Ask:
    """Return a function that calls a latent U-Net as `ask` does, and tells it the pictures if there are some."""

    def asked(unet: Any, x_t: Tensor, timestep: Tensor, cond: Conditioning, n_views: int) -> Tensor:
        if cond.pictures is None:
            return ask(unet, x_t, timestep, cond, n_views)
        with picture_tokens(unet, adapter, cond.pictures.float()):
            return ask(unet, x_t, timestep, cond, n_views)

    return asked


@contextmanager
def picture_tokens(unet: Any, adapter: PictureAdapter, tokens: Tensor) -> Iterator[None]:
    """Let a U-Net read tokens (B, 4, D) inside the `with` block. Rows of zeros change nothing."""
    told = (tokens != 0).flatten(1).any(dim=1).to(tokens)[:, None]  # (B, 1)

    def hook(keys: nn.Module, values: nn.Module) -> Any:
        def added(attn: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            """Add to a layer's output (B, N, C) what its queries find among the tokens."""

            def heads(x: Tensor) -> Tensor:
                return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, heads, tokens, dim)

            query, key, value = (heads(x.to(output.dtype)) for x in (attn.to_q(args[0]), keys(tokens), values(tokens)))
            found = functional.scaled_dot_product_attention(query, key, value)
            return output + told[..., None].to(output.dtype) * found.transpose(1, 2).flatten(2)

        return added

    layers = zip(cross_attention(unet), adapter.keys, adapter.values, strict=True)
    hooks = [layer.register_forward_hook(hook(keys, values)) for layer, keys, values in layers]
    try:
        with camera_embedding(unet, told * adapter.to_time(tokens.flatten(1))):
            yield
    finally:
        for one in hooks:
            one.remove()
