"""ControlNets against diffusers' own pipelines on tiny random models, and the pictures that they are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.files import PriorError
from sds3d.guidance.base import guided_prediction
from sds3d.guidance.vsd import VSDConfig
from sds3d.priors.base import Prior
from sds3d.priors.control import canny, control_picture
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.telling import Kind
from sds3d.prompts.conditioning import Structure
from tests.guidance.views import views_of
from tests.priors.test_picture_conditions import PICTURE, save_adapter
from tests.priors.tiny import ddim_picture, tiny_pipeline

DATA = Path(__file__).parents[1] / "data"
PIPELINES = {"sd": StableDiffusionControlNetPipeline, "sdxl": StableDiffusionXLControlNetPipeline}


def structure(rows: int = 1, size: int = 16) -> Structure:
    draws = torch.Generator().manual_seed(4)
    normal = torch.nn.functional.normalize(torch.randn(rows, size, size, 3, generator=draws), dim=-1)
    depth, alpha = torch.rand(2, rows, size, size, generator=draws)
    return Structure(depth, normal, (alpha > 0.3).float())


def controlnet(network: UNet2DConditionModel, seed: int) -> ControlNetModel:
    """Return a ControlNet whose last layers are random, where new ones are zero. Pictures are twice as large as x."""
    torch.manual_seed(seed)
    control: Any = ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(16, 32))
    for layer in (
        *control.controlnet_down_blocks,
        control.controlnet_mid_block,
        control.controlnet_cond_embedding.conv_out,
    ):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return control


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / request.param
    pipeline = tiny_pipeline(request.param)
    pipeline.save_pretrained(path)
    for seed, kind in enumerate(("depth", "normal")):
        controlnet(pipeline.unet, seed).save_pretrained(path.parent / kind)
    return path


def settings(folder: Path, *scaled: tuple[str, float]) -> list[dict[str, object]]:
    return [{"model": str(folder.parent / kind), "kind": kind, "scale": scale} for kind, scale in scaled]


def shown(
    prior: Prior, scale: float, noise: Tensor, told: Structure, pictures: Tensor | None, steps: int = 3
) -> Tensor:
    views = replace(views_of(prior, 1, "a red mug"), structure=told)
    if pictures is not None:
        plain = replace(views.prompt.plain, pictures=pictures)
        views = replace(views, prompt=replace(views.prompt, plain=plain))
    return ddim_picture(prior, views, noise, steps, scale)


@pytest.mark.parametrize("adapted", [False, True], ids=["alone", "with an IP-Adapter"])
def test_several_controlnets_give_the_pictures_of_diffusers_pipelines(
    folder: Path, adapted: bool, tmp_path: Path
) -> None:
    further: dict[str, Any] = {}
    nets = [ControlNetModel.from_pretrained(folder.parent / kind) for kind in ("depth", "normal")]
    pipeline = PIPELINES[folder.name].from_pretrained(folder, controlnet=nets, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    files = save_adapter(tmp_path / "adapter", pipeline.unet, "plain")
    if adapted:
        pipeline.load_ip_adapter(files, subfolder="", weight_name="plain.safetensors", local_files_only=True)
        further = {"ip_adapter": str(files)}
    scaled = settings(folder, ("depth", 0.9), ("normal", 0.5))
    prior = DiffusersConfig.model_validate({"model": str(folder), "controlnets": scaled} | further).load()
    assert prior.takes_structure
    pictures = prior.encode_picture(torch.from_numpy(PICTURE)[None] / 255) if adapted else None
    told = structure()
    control = [control_picture(told, kind, 16) for kind in ("depth", "normal")]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {"ip_adapter_image": Image.fromarray(PICTURE)} if adapted else {}
    theirs = pipeline(
        "a red mug", image=control, num_inference_steps=3, guidance_scale=5.0, latents=noise.clone(), output_type="np",
        controlnet_conditioning_scale=[0.9, 0.5], height=16, width=16, **given,
    ).images  # fmt: skip
    np.testing.assert_allclose(shown(prior, 5.0, noise, told, pictures).numpy(), theirs, atol=2e-5)
    other = replace(told, depth=1 - told.depth)
    assert np.abs(shown(prior, 5.0, noise, other, pictures).numpy() - theirs).max() > 1e-3


def test_a_rule_tells_a_controlnet_every_view_and_a_prior_without_structure_refuses(folder: Path) -> None:
    prior = DiffusersConfig.model_validate(
        {"model": str(folder), "controlnets": settings(folder, ("depth", 1.0)), "chunk": 1}
    ).load()
    views = replace(views_of(prior, 2, "a red mug"), structure=structure(2))
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5, 0.6])
    both = guided_prediction(prior, x, t, views, 5.0)
    alone = replace(views_of(prior, 1, "a red mug"), cameras=turntable(2)[1:], structure=structure(2)[1:])
    torch.testing.assert_close(
        both.eps[1:], guided_prediction(prior, x[1:], t[1:], alone, 5.0).eps, atol=1e-5, rtol=1e-4
    )
    learned = VSDConfig().make(prior)(x, views, 0.5, torch.Generator().manual_seed(0)).learned()
    assert learned.metrics["variational_loss"] > 0  # phi is a trainable copy, and is told the structure too
    with pytest.raises(PriorError, match="needs depth and normals of a render"):
        prior.predict(x, t, prior.encode_text(["a mug"] * 2), None)


def test_pictures_of_depth_and_normals_have_the_colours_of_the_published_networks():
    """Depth: white is near, black is background. Normals: red left, green up, blue to the viewer."""
    told = Structure(
        torch.tensor([[[1.0, 0.2], [0.0, 0.5]]]),
        torch.tensor([[[[-1.0, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 1]]]]),
        torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]),
    )
    depth = control_picture(told, "depth", 2)
    assert torch.equal(depth, told.depth[:, None].repeat(1, 3, 1, 1))
    colors = control_picture(told, "normal", 2)[0].permute(1, 2, 0)
    expected = torch.tensor([[[1.0, 0.5, 0.5], [0.5, 1.0, 0.5]], [[0.5, 0.5, 1.0], [0.5, 0.5, 1.0]]])
    torch.testing.assert_close(colors, expected)


def test_canny_edges_equal_opencvs():
    """The file holds pictures of random discs, more or less blurred, beside cv2.Canny(picture, 100, 200) of each."""
    file = np.load(DATA / "canny.npz")
    pictures = torch.from_numpy(file["pictures"]).permute(0, 3, 1, 2) / 255
    edges = canny(pictures)[:, 0]
    assert file["edges"].any(axis=(1, 2)).all()
    np.testing.assert_array_equal(edges.numpy().astype(bool), file["edges"])


def test_edges_are_those_of_the_shape():
    alpha = torch.zeros(1, 32, 32)
    alpha[:, 8:24, 8:24] = 1
    normal = torch.zeros(1, 32, 32, 3)
    normal[..., 2] = alpha
    edges = control_picture(Structure(alpha, normal, alpha), "canny", 32)
    assert edges.shape == (1, 3, 32, 32)
    rows, columns = edges[0, 0].nonzero().unbind(dim=1)
    assert {rows.min().item(), columns.min().item()} <= {7, 8}
    assert {rows.max().item(), columns.max().item()} <= {23, 24}
    assert edges[0, 0, 10:22, 10:22].sum() == 0


def test_folders_that_do_not_fit_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    own = json.loads((folder / "unet" / "config.json").read_text())["cross_attention_dim"]
    wide = 96 - own  # of the other family: 32 or 64
    other = tmp_path / "wide"
    controlnet(tiny_pipeline("sdxl" if own == 32 else "sd").unet, 0).save_pretrained(other)
    adapter = tmp_path / "t2i"
    adapter.mkdir()
    (adapter / "config.json").write_text(json.dumps({"_class_name": "T2IAdapter"}))
    for place, words in (
        (tmp_path / "nowhere", "no ControlNet's folder"),
        (other, f"with text width {wide}, and this one has {own}"),
        (adapter, "it is a T2IAdapter; supported is ControlNetModel"),
    ):
        config = {"model": str(folder), "controlnets": [{"model": str(place), "kind": "depth"}]}
        with pytest.raises(PriorError) as caught:
            DiffusersConfig.model_validate(config).load()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_embedded_prior_refuses_a_controlnet(folder: Path) -> None:
    with pytest.raises(PriorError, match="needs a model of single views"):
        DiffusersConfig.model_validate({"controlnets": settings(folder, ("depth", 1.0))}).load()


def test_a_call_with_structure_has_its_own_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded calls are told apart by what they are told, and replay with the new structure."""
    from tests.priors.test_graphs import Recorder

    recorder = Recorder()
    monkeypatch.setattr("sds3d.priors.graphs.recorder", lambda device: recorder)
    prior = DiffusersConfig.model_validate(
        {"model": str(folder), "controlnets": settings(folder, ("depth", 1.0))}
    ).load()
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([0.5]), prior.encode_text(["a mug"])
    told = [replace(structure(), depth=structure().depth * factor) for factor in (1.0, 0.8, 0.1)]
    with torch.no_grad():
        recorded = [prior.predict(x, t, replace(text, structure=one), None).eps for one in told]
    assert recorder.recorded == 1
    for one, expected in zip(told, recorded, strict=True):
        torch.testing.assert_close(prior.predict(x, t, replace(text, structure=one), None).eps, expected)
    assert not torch.equal(recorded[0], recorded[2])


def test_offloaded_networks_predict_alike(folder: Path, tmp_path: Path) -> None:
    files = save_adapter(tmp_path / "adapter", tiny_pipeline(folder.name).unet, "plain")
    config = {"model": str(folder), "controlnets": settings(folder, ("depth", 1.0)), "ip_adapter": str(files)}
    kept, moved = (DiffusersConfig.model_validate(config | {"offload": offload}).load() for offload in (False, True))
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0.4])
    told = replace(kept.encode_text(["a mug"]), structure=structure(), pictures=torch.ones(1, 1, 24))
    torch.testing.assert_close(moved.predict(x, t, told, None).eps, kept.predict(x, t, told, None).eps)


@pytest.mark.parametrize("kind", ["depth", "normal", "canny"])
def test_pictures_of_conditions_are_made_without_waiting_for_a_device(kind: Kind) -> None:
    """Tensors on the meta device have no values, so that reading one of them would raise."""
    told = Structure(*(maps.to("meta") for maps in structure(2).tensors().values()))
    assert control_picture(told, kind, 24).shape == (2, 3, 24, 24)
