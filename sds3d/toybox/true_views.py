"""A teacher that knows the truth: it shows the true object of a prompt from the step's cameras.

It stands in the place of a guidance rule, so that what score distillation achieves can be compared with what the same
training achieves from true pictures.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sds3d.geometry.mesh import Mesh
from sds3d.guidance.base import Guidance, Guided, Views
from sds3d.rendering.shading import shade_mesh
from sds3d.toybox.captions import parse
from sds3d.toybox.objects import build
from sds3d.toybox.world import Spec


class TrueViews(Guidance):
    """Pictures of one object of each prompt, always the same one, under a headlight.

    The background has another colour in each step: on white, a white part could as well be missing.
    Raises ValueError for a prompt outside the toy world.
    """

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """See `Guidance`."""
        text = views.prompt.texts.plain
        spec = parse(text)
        if spec is None:
            raise ValueError(f"{text!r} does not name one toy object and its colour; write for example 'a red mug'")
        pictures, _ = shade_mesh(_true(spec), views.cameras, torch.rand(3, generator=generator).numpy())
        target = torch.from_numpy(pictures).to(views.rgb)
        return Guided(torch.zeros(len(target), dtype=torch.long, device=target.device), image_target=target)


@lru_cache(maxsize=4096)
def _true(spec: Spec) -> Mesh:
    return build(spec, np.random.default_rng(0))
