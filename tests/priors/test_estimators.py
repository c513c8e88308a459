"""Marigold's models against diffusers' own pipelines, on tiny random models saved and loaded offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import MarigoldDepthPipeline, MarigoldIntrinsicsPipeline, MarigoldNormalsPipeline
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from sds3d.cli.main import app
from sds3d.files import PriorError
from sds3d.priors.estimators import load_estimator
from sds3d.toybox.diffusion import make_tokenizer
from tests.priors.tiny import WORDS, clip, ddim, tiny_pipeline, unet, vae

PICTURE = np.random.default_rng(3).integers(0, 256, (20, 28, 3), np.uint8)
KINDS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "depth": (MarigoldDepthPipeline, 1, {"prediction_type": "depth"}),
    "normals": (MarigoldNormalsPipeline, 1, {"prediction_type": "normals"}),
    "appearance": (
        MarigoldIntrinsicsPipeline, 2,
        {"prediction_type": "intrinsics", "target_properties": {
            "target_names": ["albedo", "material"],
            "albedo": {"prediction_space": "srgb"},
            "material": {"prediction_space": "stack", "sub_target_names": ["roughness", "metallicity", None]},
        }},
    ),
    "lighting": (
        MarigoldIntrinsicsPipeline, 3,
        {"prediction_type": "intrinsics", "target_properties": {
            "target_names": ["albedo", "shading", "residual"],
            "albedo": {"prediction_space": "linear", "up_to_scale": False},
            "shading": {"prediction_space": "linear", "up_to_scale": True},
            "residual": {"prediction_space": "linear", "up_to_scale": False},
        }},
    ),
}  # fmt: skip


def save(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    pipeline, targets, settings = KINDS[kind]
    network = unet(in_channels=4 + 4 * targets, out_channels=4 * targets)
    parts = network, vae(), ddim("v_prediction"), clip(), make_tokenizer(WORDS)
    pipeline(*parts, **settings, default_denoising_steps=2, default_processing_resolution=24).save_pretrained(folder)
    return folder


def theirs(kind: str, folder: Path, **further: Any) -> Tensor:
    pipeline = KINDS[kind][0].from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    made = pipeline(Image.fromarray(PICTURE), generator=generator, output_type="pt", **further)
    return made.prediction.permute(0, 2, 3, 1)  # (T, H, W, C)


def rgb() -> Tensor:
    return torch.from_numpy(PICTURE)[None] / 255


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_diffusers_pipelines(kind: str, tmp_path: Path) -> None:
    folder = save(kind, tmp_path / kind)
    estimator = load_estimator(str(folder))
    maps, expected = estimator(rgb(), seed=5), theirs(kind, folder)
    assert tuple(maps) == estimator.maps
    match kind:
        case "depth":  # theirs is 0 at the near plane
            torch.testing.assert_close(maps["depth"], 1 - expected[..., 0], atol=1e-5, rtol=1e-5)
        case "normals":
            torch.testing.assert_close(maps["normal"], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(maps["normal"].norm(dim=-1), torch.ones(1, 20, 28))
        case "appearance":
            torch.testing.assert_close(maps["albedo"], expected[:1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(maps["roughness"], expected[1:2, ..., 0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(maps["metallic"], expected[1:2, ..., 1], atol=1e-5, rtol=1e-5)
        case _:
            linear = expected[:1].numpy().astype(np.float64)
            srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
            np.testing.assert_allclose(maps["albedo"].numpy(), srgb, atol=1e-5)
            assert set(maps) == {"albedo"}
    assert all(torch.equal(maps[name], again) for name, again in estimator(rgb(), seed=5).items())


def test_steps_ensembles_and_resolution_are_passed_on(tmp_path: Path) -> None:
    folder = save("normals", tmp_path / "model")
    ours = load_estimator(str(folder))(rgb(), seed=5, steps=3, ensemble=3, resolution=16)["normal"]
    expected = theirs("normals", folder, num_inference_steps=3, ensemble_size=3, processing_resolution=16)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_other_models_are_refused_in_one_line(tmp_path: Path) -> None:
    tiny_pipeline("sd").save_pretrained(tmp_path / "sd")
    folder = save("appearance", tmp_path / "unknown")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"target_properties": {"target_names": ["fog"]}}))
    pickled = save("depth", tmp_path / "pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").rename(pickled / "unet" / "diffusion_pytorch_model.bin")
    for place, words in (
        (tmp_path / "sd", "its pipeline is StableDiffusionPipeline; supported estimators are MarigoldDepthPipeline"),
        (tmp_path / "none", "neither a folder nor an id"),
        (folder, "names no targets that are known"),
        (pickled, "the weights of unet are pickled"),
    ):
        with pytest.raises(PriorError) as caught:
            load_estimator(str(place))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_command_writes_pictures_that_a_run_can_follow(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "mug.png")
    models = [save(kind, tmp_path / kind) for kind in ("depth", "normals")]
    arguments = [
        "estimate",
        str(tmp_path / "mug.png"),
        "--seed",
        "5",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, [*arguments, *(f"--model={model}" for model in models)])
    assert done.exit_code == 0, done.output
    depth = np.asarray(Image.open(tmp_path / "out" / "mug-depth.png"))
    expected = 255 * (1 - theirs("depth", models[0])[0, ..., 0].numpy())
    np.testing.assert_allclose(depth, expected, atol=0.51)
    normal = np.asarray(Image.open(tmp_path / "out" / "mug-normal.png"))
    np.testing.assert_allclose(normal, 127.5 * (theirs("normals", models[1])[0].numpy() + 1), atol=0.51)
