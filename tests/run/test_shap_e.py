"""Shap-E on a tiny random pipeline of diffusers' real classes, saved and loaded offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
from diffusers.pipelines.shap_e.renderer import ShapERenderer
from typer.testing import CliRunner

from sds3d.cli.main import app
from sds3d.files import PriorError
from sds3d.formats.load import load_asset
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.placing import y_up_to_z_up
from sds3d.run.shap_e import load_shap_e
from sds3d.toybox.diffusion import make_tokenizer
from tests.priors.tiny import WORDS, clip, tiny_pipeline

FEW: dict[str, Any] = {"steps": 2, "scale": 2.0, "resolution": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, embedding_dim=32, num_embeddings=32, embedding_proj_dim=32,
        time_embed_dim=32, num_layers=1, clip_embed_dim=64, additional_embeddings=0, time_embed_act_fn="gelu",
        norm_in_type="layer", encoder_hid_proj_type=None, added_emb_type=None,
    )  # fmt: skip
    shapes: Any = ((8, 93), (8, 8), (8, 8), (8, 8))
    renderer = ShapERenderer(param_shapes=shapes, d_latent=32, d_hidden=8)
    last: Any = renderer.mlp.mlp[-1]
    with torch.no_grad():  # distances of different signs in the cube
        last.weight[0] *= 20
    scheduler = HeunDiscreteScheduler(
        beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True,
        clip_sample=True, clip_sample_range=1.0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("shap-e")
    ShapEPipeline(prior, clip(projected=True), make_tokenizer(WORDS), scheduler, renderer).save_pretrained(path)
    return path


def test_the_mesh_is_the_zero_level_of_diffusers_own_network(folder: Path):
    mesh = load_shap_e(str(folder))("a red mug", 3, **FEW)
    pipeline: Any = ShapEPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        "a red mug", generator=torch.Generator().manual_seed(3), num_inference_steps=2, guidance_scale=2.0,
        output_type="latent",
    ).images  # fmt: skip
    weights = pipeline.shap_e_renderer.params_proj(latents)
    network = pipeline.shap_e_renderer.mlp
    with torch.no_grad():
        for index in range(4):
            network.mlp[index].weight.copy_(weights[f"nerstf.mlp.{index}.weight"][0])

        def ask(places: Any) -> Any:
            places = torch.as_tensor(places, dtype=torch.float32).reshape(1, -1, 3)
            return network(position=places, direction=None, ts=None, nerf_level="fine", rendering_mode="stf")

        axis = torch.linspace(-1, 1, 16)  # in float32, since the network's highest frequency magnifies rounding
        field = ask(torch.cartesian_prod(axis, axis, axis)).signed_distance
        points = y_up_to_z_up(mesh.vertices)
        colors = ask(points).channels[0].numpy()
    distance = np.full((16, 16, 16), -1.0)  # outside at the border
    distance[1:-1, 1:-1, 1:-1] = field.reshape(16, 16, 16)[1:-1, 1:-1, 1:-1]
    # A vertex lies between two points of the grid, where the interpolated distance is 0.
    place = 7.5 * (points + 1)
    along = np.abs(place - place.round()) > 1e-3  # (V, 3)
    low, high = (np.where(along, rounded(place), place.round()).astype(int) for rounded in (np.floor, np.ceil))
    share = ((place - low) * along).max(axis=1)
    a, b = distance[tuple(low.T)], distance[tuple(high.T)]
    clear = along.any(axis=1)
    assert clear.sum() > 100
    assert (a * b < 0)[clear].all()
    np.testing.assert_allclose(((1 - share) * a + share * b)[clear], 0, atol=1e-4)
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.colors, colors, atol=1e-5)
    assert mesh.volume() > 0


def test_a_start_from_the_command_line(folder: Path, tmp_path: Path):
    file = tmp_path / "new" / "start.ply"
    words = ["start", "a red mug", "--model", str(folder), "--out", str(file), "--device", "cpu"]
    few = ["--steps", "2", "--scale", "2", "--resolution", "16", "--seed", "3"]
    result = CliRunner().invoke(app, [*words, *few])
    assert result.exit_code == 0, result.output
    made, expected = load_asset(file), load_shap_e(str(folder))("a red mug", 3, **FEW)
    assert isinstance(made, Mesh)
    np.testing.assert_allclose(made.vertices, expected.vertices, atol=1e-6)
    tiny_pipeline("sd").save_pretrained(tmp_path / "sd")
    with pytest.raises(PriorError, match="its pipeline is StableDiffusionPipeline"):
        load_shap_e(str(tmp_path / "sd"))
