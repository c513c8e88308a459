"""Coarse shapes from a text by Shap-E (Jun and Nichol 2023, arXiv:2305.02463), for runs to start from.

Its model in diffusers' layout draws the weights of a small network: signed distances and colours at points. Here, its
surface becomes a mesh, as GaussianDreamer and others start from one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.geometry.mesh import Mesh
from sds3d.geometry.placing import z_up_to_y_up
from sds3d.priors.loading import Dtype, find, pick_dtype, without_bars
from sds3d.representations.isosurface import dmtet, grid_points

_POINTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class ShapE:
    """A loaded model. pipeline: diffusers' ShapEPipeline."""

    pipeline: Any

    @torch.no_grad()
    def __call__(
        self, prompt: str, seed: int = 0, *, steps: int = 64, scale: float = 15.0, resolution: int = 128
    ) -> Mesh:
        """Draw a shape for a text: a closed mesh with vertex colours in the cube of 2 m around the origin.

        seed: of the noise, which is drawn on the CPU. steps: denoising steps. scale: classifier-free guidance scale S
        in eps_null + S (eps_cond - eps_null). resolution: points per side of the grid of signed distances.
        Raises EmptySurfaceError if the shape has no surface.
        """
        latents = self.pipeline(
            prompt,
            generator=torch.Generator().manual_seed(seed),
            num_inference_steps=steps,
            guidance_scale=scale,
            output_type="latent",
        ).images  # (1, V, D)
        self._become(latents)
        outside, _ = self.at(grid_points(resolution, 1.0).reshape(-1, 3))
        # A border that is outside closes what would leave the cube.
        inner = outside.reshape(resolution, resolution, resolution)[1:-1, 1:-1, 1:-1]
        surface = dmtet(functional.pad(inner, (1, 1, 1, 1, 1, 1), value=1.0), bound=1.0)
        _, colors = self.at(surface.vertices)
        return Mesh(z_up_to_y_up(surface.vertices.numpy()), surface.faces.int().numpy(), colors.numpy())

    def _become(self, latents: Tensor) -> None:
        """Give the small network the weights that latents (1, V, D) stand for."""
        renderer = self.pipeline.shap_e_renderer
        projected = renderer.params_proj(latents)
        for name, weights in renderer.mlp.state_dict().items():
            if f"nerstf.{name}" in projected:
                weights.copy_(projected[f"nerstf.{name}"][0])

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return signed distances (P,), negative inside, and sRGB (P, 3) in [0, 1], both on the CPU, at points (P, 3)
        in metres with +Z up."""
        network = self.pipeline.shap_e_renderer.mlp
        parts = []
        for some in points.split(_POINTS_AT_ONCE):
            place = some[None].to(self.pipeline.device, network.dtype)
            out = network(position=place, direction=None, ts=None, nerf_level="fine", rendering_mode="stf")
            parts.append(torch.cat([-out.signed_distance[0], out.channels[0]], dim=-1).float().cpu())
        values = torch.cat(parts)
        return values[:, 0], values[:, 1:].clamp(0, 1)


def load_shap_e(
    model: str, device: torch.device | str = "cpu", dtype: Dtype = "auto", *, offline: bool = True
) -> ShapE:
    """Load a Shap-E model from a folder, or from the local cache by its id. offline: never use the network.

    Raises PriorError if the folder is missing, truncated, pickled or of another kind.
    """
    from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
    from diffusers.pipelines.shap_e.renderer import ShapERenderer
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    device = torch.device(device)
    files = find(model, offline=offline, dtype=pick_dtype(dtype, device), device=device)
    kind = str(files.index().get("_class_name"))
    if kind != "ShapEPipeline":
        raise files.error(f"its pipeline is {kind}; give a folder of ShapEPipeline")
    prior, renderer = files.network(PriorTransformer, "prior"), files.network(ShapERenderer, "shap_e_renderer")
    with files.explained(), without_bars():
        pipeline = ShapEPipeline(
            prior.eval().requires_grad_(False),
            files.text_encoder(CLIPTextModelWithProjection, "text_encoder"),
            files.plain(CLIPTokenizer, "tokenizer"),
            files.plain(HeunDiscreteScheduler, "scheduler"),
            renderer.eval().requires_grad_(False),
        ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return ShapE(pipeline)
