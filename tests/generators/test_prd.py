"""The prior's own network as a generator: its steps in closed form, its gradients, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sds3d.config import build
from sds3d.generators.files import WEIGHTS, About, load_generator, save_generator
from sds3d.generators.prd import MAPS, PrdGenerator, PrdGeneratorConfig
from sds3d.priors.base import Prior, add_noise
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.gaussian import Gaussian, GaussianPrior
from tests.priors.tiny import tiny_pipeline

SMALL = {"steps": 3, "latents": 8, "doublings": 1, "width": 8, "features": 8, "hidden": 8, "rank": 2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(prior: Prior) -> PrdGenerator:
    config, width = build(PrdGeneratorConfig, SMALL), prior.encode_text([""]).hidden.shape[-1]
    return config.make(width, prior, seeded())


def gaussian() -> GaussianPrior:
    return GaussianPrior({"a ball": Gaussian(0.7, 0.3), "": Gaussian(0.5, 0.3)}, (3, 8, 8))


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    folder = tmp_path_factory.mktemp("sd")
    tiny_pipeline("sd").save_pretrained(folder)
    return DiffusersConfig(model=str(folder)).load()


def test_training_noises_each_estimate_and_use_follows_ddim():
    """With updates of zero, the network is the prior, whose predictions are known."""
    prior = gaussian()
    network, text, noise = make(prior), prior.encode_text(["a ball"]), seeded(1)
    times = torch.tensor([1, 2 / 3, 1 / 3])
    rows = [t.expand(MAPS) for t in times]
    wanted, x = [], torch.randn(MAPS, 3, 8, 8, generator=noise)
    for index, t in enumerate(rows):
        z = prior.predict(x, t, text.repeat(MAPS), None).x0
        wanted.append(network._decode(z)["planes"])  # pyright: ignore[reportPrivateUsage]
        if index < 2:
            x = add_noise(prior, z, torch.randn(x.shape, generator=noise), rows[index + 1])
    found = [given["planes"] for given in network.estimates(text, seeded(1))]
    assert len(found) == network.parts == 3
    torch.testing.assert_close(found, wanted)

    seed = network.draw_seed(seeded(2))
    x = seed.reshape(MAPS, 3, 8, 8)
    for t, to in zip(rows, [*rows[1:], torch.zeros(MAPS)], strict=True):
        seen = prior.predict(x, t, text.repeat(MAPS), None)
        x = (prior.alpha(to)[0] * seen.x0) + prior.sigma(to)[0] * seen.eps
    torch.testing.assert_close(network(text, seed)["planes"], network._decode(x)["planes"])  # pyright: ignore[reportPrivateUsage]


def gradients(network: PrdGenerator, losses: list[Tensor]) -> dict[str, Tensor]:
    network.zero_grad()
    torch.autograd.backward(losses)
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_parts_one_by_one_have_the_gradient_of_all_at_once(stable_diffusion: Prior):
    network = make(stable_diffusion)
    with torch.no_grad():
        for value in network.updates.values():
            value.copy_(0.1 * torch.randn(value.shape, generator=seeded()))
    text = stable_diffusion.encode_text(["a red mug"])
    wanted = torch.randn(3, 16, 16, 8, generator=seeded(3))

    def loss(given: dict[str, Tensor]) -> Tensor:
        return (given["planes"] - wanted).square().sum() / network.parts

    together = gradients(network, [loss(given) for given in network.estimates(text, seeded(1))])
    network.zero_grad()
    for given in network.estimates(text, seeded(1)):
        loss(given).backward()
    apart = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert (
        apart.keys()
        == together.keys()
        == {*dict(network.named_parameters())}
        - {name for name, _ in network.named_parameters() if name.startswith("field.")}
    )
    torch.testing.assert_close(apart, together)
    # No gradient goes through an earlier estimate: the last part's is that of one call of the network.
    parts = list(network.estimates(text, seeded(1)))
    last = gradients(network, [loss(parts[-1])])
    first = gradients(network, [loss(part) for part in parts[:-1]])
    torch.testing.assert_close({name: first[name] + last[name] for name in first}, together)


def test_its_folder_holds_only_what_was_trained(stable_diffusion: Prior, tmp_path: Path):
    network = make(stable_diffusion)
    with torch.no_grad():
        for value in network.updates.values():
            value.copy_(0.1 * torch.randn(value.shape, generator=seeded()))
    about = About(generator=network.config, text_width=32, model="m", digest="", rule="sds")  # type: ignore[arg-type]
    save_generator(tmp_path, about, network)
    names = load_file(tmp_path / WEIGHTS).keys()
    assert {name.split(".")[0] for name in names} == {"updates", "upwards", "last", "field"}
    assert all("lora_" in name for name in names if name.startswith("updates"))
    text, seed = stable_diffusion.encode_text(["a red mug"]), network.draw_seed(seeded())
    with torch.no_grad():
        planes = network(text, seed)["planes"]
        again = load_generator(tmp_path, stable_diffusion)(text, seed)["planes"]
    torch.testing.assert_close(again, planes, rtol=0, atol=0.02 * float(planes.std()))
