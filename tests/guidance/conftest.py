from collections.abc import Callable

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.guidance.base import Views
from sds3d.priors.base import Prior

MakeViews = Callable[..., Views]


@pytest.fixture
def make_views() -> MakeViews:
    """Views of a batch on a turntable, with one positive and one negative prompt for all of them."""

    def make(prior: Prior, batch: int, positive: str = "y", negative: str = "") -> Views:
        return Views(
            cameras=turntable(batch),
            rgb=torch.zeros(batch, prior.image_size, prior.image_size, 3),
            positive=prior.encode_text([positive] * batch),
            negative=prior.encode_text([negative] * batch),
        )

    return make
