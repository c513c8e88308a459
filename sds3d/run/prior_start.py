"""A start from the prior's own pictures: it draws the prompt from four sides, and a network turns these into a mesh."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.geometry.mesh import EmptySurfaceError, FloatArray, Mesh
from sds3d.guidance.sampling import sample_prompt
from sds3d.priors.base import Prior
from sds3d.priors.starts import VIEWS, StartNetwork, view_features
from sds3d.prompts.conditioning import Conditioning
from sds3d.prompts.prompt import EncodedPrompt
from sds3d.rendering.volume import BOUND
from sds3d.representations.density_surface import extract_surface, grid_points

RESOLUTION = 48
"""Samples per side of the grid on which the surface is extracted."""
ELEVATION = 20.0
"""Elevation of the four views in degrees."""
STEPS = 20
"""DDIM steps with which they are drawn."""
_MOST = 8.0  # logit at which being inside is certain enough


@torch.no_grad()
def mesh_of_prior(network: StartNetwork, prior: Prior, prompt: EncodedPrompt, seed: int) -> Mesh:
    """Return the object of a prompt as the network sees it in four views that the prior draws, with vertex colours.

    seed: of the noise. Raises PriorError if the prior is of another kind, and EmptySurfaceError if nothing is there.
    """
    cameras = turntable(VIEWS, ELEVATION, size=prior.image_size).to(prior.device)
    x = sample_prompt(prior, prompt, cameras, seed, STEPS)
    return mesh_of_views(network, prior, x, prompt.positive(cameras), cameras, seed)


@torch.no_grad()
def mesh_of_views(
    network: StartNetwork, prior: Prior, x: Tensor, cond: Conditioning, cameras: Cameras, seed: int
) -> Mesh:
    """Return the object in four clean views x (4, C, h, w) of a text from these cameras, see `mesh_of_prior`."""
    features = view_features(prior, x, cond, cameras, torch.Generator().manual_seed(seed))
    network = network.to(prior.device)

    def solid(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        logits, colors = network.solid(features, cameras, torch.from_numpy(points).to(prior.device))
        return logits.clamp(-_MOST, _MOST).exp().cpu().numpy(), colors.cpu().numpy()

    odds, _ = solid(grid_points(RESOLUTION, (-BOUND, BOUND)))
    if odds.max() < 1:
        raise EmptySurfaceError("the prior's pictures show no solid object: use another seed, or remove start_from")
    density = odds.reshape(RESOLUTION, RESOLUTION, RESOLUTION)
    return extract_surface(density, lambda points: solid(points)[1], (-BOUND, BOUND), isovalue=1.0)
