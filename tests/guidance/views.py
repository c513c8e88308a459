"""Views for rules that are tested without a scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.guidance.base import Views
from sds3d.priors.base import Prior
from sds3d.prompts.prompt import PromptConfig, encode_texts, prompt_texts


def views_of(
    prior: Prior,
    batch: int,
    positive: str = "y",
    negative: str = "",
    *,
    extra: Mapping[str, str] = MappingProxyType({}),
    cameras: Cameras | None = None,
    rgb: Tensor | None = None,
) -> Views:
    """Return views on a turntable, 2.1 m from a surface that fills each picture, with one prompt for all views.

    extra: further texts that the rule uses, by name.
    """
    size = prior.image_size
    texts = prompt_texts(positive, PromptConfig(view_dependent=False, negative=negative))
    return Views(
        cameras=turntable(batch) if cameras is None else cameras,
        rgb=torch.zeros(batch, size, size, 3) if rgb is None else rgb,
        alpha=torch.ones(batch, size, size, 1),
        depth=torch.full((batch, size, size, 1), 2.1),
        prompt=encode_texts(prior, replace(texts, extra=extra)),
    )
