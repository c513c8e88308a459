"""Adding and removing Gaussians: the guarantees of each strategy for parameters and for Adam's moments."""

import math

import pytest
import torch
from scipy import integrate
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.rendering.splatting import rasterization, rotation_matrices
from sds3d.representations.densify import (
    AdaptiveConfig,
    DistillationConfig,
    Edit,
    FixedCountConfig,
    MCMCConfig,
    Pull,
    adaptive,
    apply_edit,
    distillation,
    due,
    relocation,
    shake,
    split_in_place,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def splats(n: int, opacity: float = 0.5, scale: float = 0.02) -> dict[str, Tensor]:
    g = generator()
    return {
        "means": 0.3 * torch.randn(n, 3, generator=g),
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.full((n, 3), math.log(scale)),
        "opacities": torch.full((n,), math.log(opacity / (1 - opacity))),
        "colors": torch.randn(n, 3, generator=g),
    }


def pulled(*strength: float) -> Pull:
    return Pull(torch.tensor(strength), torch.ones(len(strength)))


def test_pull_is_the_mean_over_views_where_visible_in_half_pictures() -> None:
    pull = Pull.none(3)
    gradient = torch.zeros(2, 3, 2)
    gradient[0, 0] = torch.tensor([3.0, 4.0])  # visible in both views, pulled in one
    gradient[1, 1] = torch.tensor([1.0, 0.0])  # visible and pulled in the second view only
    gradient[:, 2] = 9.0  # visible in no view
    radii = torch.tensor([[[1, 1], [0, 0], [0, 0]], [[1, 1], [5, 5], [0, 0]]])
    pull.note(gradient, radii, width=20, height=20)
    torch.testing.assert_close(pull.mean, torch.tensor([2 * 50.0 / 2, 2 * 10.0, 0.0]))


def test_small_gaussians_are_cloned_and_large_ones_split() -> None:
    before = splats(3)
    before["scales"][1] = math.log(0.2)
    config = AdaptiveConfig(threshold=1.0, large=0.05)
    edit = adaptive(config, before, pulled(5.0, 5.0, 0.1), 0, generator())
    assert edit.source.tolist() == [0, 2, 0, 1, 1]  # kept, kept, clone, two halves
    assert edit.fresh.tolist() == [False, False, True, True, True]
    means, scales = edit.values["means"], edit.values["scales"]
    assert torch.equal(means[:3], before["means"][[0, 2, 0]])
    torch.testing.assert_close(scales[3:], (before["scales"][1] - math.log(1.6)).expand(2, 3))
    # The halves are sampled from the Gaussian that they replace.
    axes = rotation_matrices(before["quats"][1:2])[0]
    offsets = (means[3:] - before["means"][1]) @ axes / 0.2
    assert 0 < offsets.abs().max() < 5


def test_huge_gaussians_are_removed_by_their_size_after_splitting() -> None:
    before = splats(4)
    before["scales"][1:, 0] = torch.tensor([0.5, 0.5, 0.9]).log()
    config = AdaptiveConfig(threshold=1.0, large=0.05, largest=0.4)
    edit = adaptive(config, before, pulled(0.1, 0.1, 5.0, 5.0), 0, generator())
    assert edit.source.tolist() == [0, 2, 2]  # 0.5 is removed, and halves of 0.31 are kept, but not those of 0.56
    assert edit.fresh.tolist() == [False, True, True]
    largest = edit.values["scales"].amax(-1).exp()
    torch.testing.assert_close(largest, torch.tensor([0.02, 0.5 / 1.6, 0.5 / 1.6]))
    assert len(edit.values["means"]) == 3
    before["scales"][0] = 0.0
    assert len(adaptive(config, before, pulled(0, 0, 0, 0), 0, generator()).source) == 4  # never all


def test_transparent_gaussians_are_pruned_but_never_all() -> None:
    before = splats(4)
    before["opacities"][:3] = -9.0
    edit = adaptive(AdaptiveConfig(), before, pulled(0, 0, 0, 0), 0, generator())
    assert edit.source.tolist() == [3]
    before["opacities"][3] = -10.0
    edit = adaptive(AdaptiveConfig(), before, pulled(0, 0, 0, 0), 0, generator())
    assert len(edit.source) == 1


def test_growth_stops_at_the_limit_with_the_most_pulled_first() -> None:
    edit = adaptive(AdaptiveConfig(threshold=0.5, limit=5), splats(4), pulled(1, 4, 2, 3), 0, generator())
    assert edit.source.tolist() == [0, 1, 2, 3, 1]


def test_opacities_are_reset_periodically() -> None:
    config = AdaptiveConfig(reset_every=40, every=20)
    reset = adaptive(config, splats(3), pulled(0, 0, 0), 39, generator())
    torch.testing.assert_close(torch.sigmoid(reset.values["opacities"]), torch.full((3,), 0.01))
    assert reset.fresh.all()
    assert "opacities" not in adaptive(config, splats(3), pulled(0, 0, 0), 19, generator()).values


@pytest.mark.parametrize("strength", [1e-6, 1.0, 1e6])
def test_distillation_grows_by_a_share_whatever_the_gradients_scale(strength: float) -> None:
    pull = pulled(*(strength * (i + 1) for i in range(50)))
    edit = distillation(DistillationConfig(share=0.1), splats(50), pull, generator())
    assert edit.source.tolist() == [*range(50), 49, 48, 47, 46, 45]


def test_distillation_does_not_grow_without_pull() -> None:
    assert len(distillation(DistillationConfig(share=1.0), splats(5), pulled(0, 0, 0, 0, 0), generator()).source) == 5


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
def test_split_gaussians_look_like_the_one_they_replace(copies: int) -> None:
    """The integral of opacity along a line through the centre stays the same."""
    opacity, scale = 0.8, 0.3
    new_opacity, new_scale = split_in_place(
        torch.tensor([opacity], dtype=torch.float64),
        torch.full((1, 3), scale, dtype=torch.float64),
        torch.tensor([copies]),
    )
    o, s = new_opacity.item(), new_scale[0, 0].item()
    assert 1 - (1 - o) ** copies == pytest.approx(opacity, abs=1e-9)
    joint, _ = integrate.quad(lambda x: 1 - (1 - o * math.exp(-x * x / (2 * s * s))) ** copies, -5, 5)
    assert joint == pytest.approx(opacity * scale * math.sqrt(2 * math.pi), rel=1e-6)


def test_dead_gaussians_move_onto_living_ones_and_the_picture_stays() -> None:
    before = splats(60, opacity=0.6, scale=0.05)
    before["opacities"][::3] = -9.0
    edit = relocation(MCMCConfig(growth=0.0), before, generator())
    assert edit is not None
    assert len(edit.source) == 60
    assert not set(edit.source.tolist()) & set(range(0, 60, 3))  # no copy of a dead Gaussian remains
    after = {name: edit.values.get(name, value[edit.source]) for name, value in before.items()}
    cameras = orbit([0.0, 90.0], size=48)

    def picture(s: dict[str, Tensor]) -> Tensor:
        return rasterization(
            s["means"], s["quats"], s["scales"].exp(), torch.sigmoid(s["opacities"]), torch.sigmoid(s["colors"]),
            cameras.opencv_viewmats(), cameras.intrinsics(), 48, 48,
        ).colors  # fmt: skip

    change = (picture(after) - picture(before)).abs().mean()
    naive = {**{name: value[edit.source] for name, value in before.items()}}
    assert change < 0.2 * (picture(naive) - picture(before)).abs().mean()


def test_relocation_grows_to_its_limit_and_stops_there() -> None:
    config = MCMCConfig(growth=0.5, limit=12)
    edit = relocation(config, splats(10), generator())
    assert edit is not None
    assert len(edit.source) == 12
    assert relocation(config, splats(12), generator()) is None
    dead = {**splats(10), "opacities": torch.full((10,), -20.0)}
    assert relocation(config, dead, generator()) is None


def test_noise_follows_each_gaussians_shape_and_spares_opaque_ones() -> None:
    n = 4000
    before = {**splats(n), "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1)}
    before["scales"] = torch.tensor([0.1, 0.01, 0.001]).log().repeat(n, 1)
    before["opacities"] = torch.full((n,), -8.0)
    moves = shake(MCMCConfig(noise=1.0), before, 1.0, generator())
    ratio = moves.std(0) / moves.std(0)[0]
    torch.testing.assert_close(ratio, torch.tensor([1.0, 1e-2, 1e-4]), rtol=0.1, atol=0)
    before["opacities"] = torch.full((n,), 3.0)
    assert shake(MCMCConfig(noise=1.0), before, 1.0, generator()).abs().max() < 1e-3 * moves.abs().max()


def test_an_edit_carries_parameters_and_moments() -> None:
    parameters = {name: torch.nn.Parameter(value) for name, value in splats(3).items()}
    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.1} for p in parameters.values()])
    sum((p * p).sum() for p in parameters.values()).backward()
    optimizer.step()
    old = {name: (p.detach().clone(), optimizer.state[p]["exp_avg"].clone()) for name, p in parameters.items()}
    edit = Edit(torch.tensor([2, 0, 0]), torch.tensor([False, False, True]), {"means": torch.arange(9.0).reshape(3, 3)})
    new = apply_edit(edit, parameters, optimizer)
    assert torch.equal(new["means"], torch.arange(9.0).reshape(3, 3))
    assert torch.equal(new["colors"], old["colors"][0][[2, 0, 0]])
    moments = optimizer.state[new["colors"]]["exp_avg"]
    assert torch.equal(moments[:2], old["colors"][1][[2, 0]])
    assert moments[2].abs().max() == 0
    assert [group["params"][0] for group in optimizer.param_groups] == list(new.values())
    assert len(optimizer.state) == len(new)
    sum((p * p).sum() for p in new.values()).backward()
    optimizer.step()  # Adam continues with the new parameters


def test_when_edits_are_due() -> None:
    config = DistillationConfig(start=0.1, until=0.5, every=10)
    steps = [step for step in range(100) if due(config, step, step / 99)]
    assert steps == [19, 29, 39, 49]
    assert not due(FixedCountConfig(), 19, 0.2)
