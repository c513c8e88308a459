"""Networks of inverse depth against transformers' own processors and classes, on tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
)

from sds3d.files import PriorError
from sds3d.priors.disparity import disparity_folder
from sds3d.priors.estimators import load_estimator

SIZE = 32


def save_disparity(folder: Path, kind: str = "dpt") -> Path:
    """Write a tiny random network for pictures of 32 pixels, with its processor. Returns its folder."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    neck: dict[str, Any] = {"neck_hidden_sizes": [8, 8], "reassemble_factors": [2, 1], "fusion_hidden_size": 8}
    if kind == "dpt":
        config = DPTConfig(
            **sizes, **neck, intermediate_size=16, image_size=SIZE, patch_size=8, backbone_out_indices=[0, 1],
            add_projection=False, head_in_index=-1,
        )  # fmt: skip
        network: Any = DPTForDepthEstimation(config)
    else:
        places: dict[str, Any] = {"out_indices": [1, 2]}
        backbone = Dinov2Config(
            **sizes, mlp_ratio=2, image_size=SIZE, patch_size=8, reshape_hidden_states=False, **places
        )
        config = DepthAnythingConfig(
            backbone_config=backbone, patch_size=8, reassemble_hidden_size=16, head_hidden_size=8, **neck
        )
        network = DepthAnythingForDepthEstimation(config)
    network.save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    DPTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.4] * 3).save_pretrained(folder)
    return folder


def pictures(size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)


def stretched(values: Tensor) -> Tensor:
    """Return each map with its least value at 0 and its greatest at 1."""
    flat = values.flatten(1)
    low, high = flat.min(1).values[:, None, None], flat.max(1).values[:, None, None]
    return (values - low) / (high - low)


@pytest.mark.parametrize("kind", ["dpt", "depth_anything"])
def test_disparities_are_those_of_transformers(kind: str, tmp_path: Path):
    folder = save_disparity(tmp_path / kind, kind)
    cls = DPTForDepthEstimation if kind == "dpt" else DepthAnythingForDepthEstimation
    shown = pictures(SIZE)
    pixels = DPTImageProcessor.from_pretrained(folder)(list(shown), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = cls.from_pretrained(folder)(pixels).predicted_depth
    expected = functional.interpolate(expected[:, None], (SIZE, SIZE), mode="bicubic")[:, 0]
    estimator = load_estimator(str(folder))
    assert estimator.maps == ("disparity",)
    made = estimator(torch.from_numpy(shown) / 255)["disparity"]
    assert made.std() > 0.05
    torch.testing.assert_close(made, stretched(expected), atol=1e-4, rtol=1e-4)


def test_pictures_of_other_sizes_keep_their_size(tmp_path: Path):
    estimator = load_estimator(str(save_disparity(tmp_path / "dpt")))
    shown = torch.from_numpy(pictures(48))[:, :40] / 255
    made = estimator(shown)["disparity"]
    assert made.shape == (2, 40, 48)
    torch.testing.assert_close(made.amax(dim=(1, 2)), torch.ones(2))


def test_the_part_of_a_pipeline_is_found_with_its_feature_extractor(tmp_path: Path):
    folder = save_disparity(tmp_path / "depth_estimator")
    (tmp_path / "feature_extractor").mkdir()
    (folder / "preprocessor_config.json").rename(tmp_path / "feature_extractor" / "preprocessor_config.json")
    assert disparity_folder(str(tmp_path)) == folder.resolve()
    assert load_estimator(str(tmp_path)).maps == ("disparity",)
    (tmp_path / "feature_extractor" / "preprocessor_config.json").unlink()
    with pytest.raises(PriorError, match=r"has no preprocessor_config\.json, which says how pictures are prepared"):
        load_estimator(str(tmp_path))


def test_damaged_weights_are_reported_in_one_line(tmp_path: Path):
    folder = save_disparity(tmp_path / "dpt")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(PriorError, match="truncated or damaged"):
        load_estimator(str(folder))
