"""Muon against the singular value decomposition that it approximates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sds3d.toybox.muon import Muon, orthogonalised, split_parameters


def matrix(m: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("m", "n"), [(32, 32), (48, 300), (300, 48)])
def test_singular_vectors_stay_and_singular_values_become_about_one(m: int, n: int) -> None:
    x = matrix(m, n)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    core = u.T @ orthogonalised(x) @ vh.T
    values = core.diagonal()
    assert (core - values.diag()).abs().max() < 1e-9
    assert values.max() < 1.25
    if m != n:  # a square random matrix has singular values too close to 0 for five iterations
        assert values.min() > 0.6


def test_the_iteration_on_the_gram_matrix_is_that_on_the_whole_matrix() -> None:
    x = matrix(24, 60)
    whole = x / x.norm()
    for _ in range(5):
        gram = whole @ whole.T
        whole = 3.4445 * whole + (-4.7750 * gram + 2.0315 * gram @ gram) @ whole
    torch.testing.assert_close(orthogonalised(x), whole, rtol=1e-5, atol=1e-8)


def test_a_vanishing_gradient_moves_nothing() -> None:
    assert (orthogonalised(torch.zeros(32, 64)) == 0).all()


def test_first_step_by_hand() -> None:
    weight = nn.Parameter(matrix(40, 90).float())
    before, gradient = weight.detach().clone(), matrix(40, 90, seed=1).float()
    weight.grad = gradient
    Muon([weight], lr=0.1, momentum=0.95, weight_decay=0.5).step()
    expected = before * 0.95 - 0.1 * 0.2 * 90**0.5 * orthogonalised(gradient)  # a direction, without its length
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-5)
    assert (weight.detach() - before * 0.95).square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.2)


def test_rare_directions_learn_as_fast_as_common_ones() -> None:
    # One direction's gradient is a hundred times the other's, and so would be the first steps of SGD.
    u, v = torch.linalg.qr(matrix(40, 2))[0], torch.linalg.qr(matrix(90, 2, seed=1))[0]
    weight = nn.Parameter(torch.zeros(40, 90, dtype=torch.float64))
    weight.grad = u @ torch.diag(torch.tensor([1.0, 0.01], dtype=torch.float64)) @ v.T
    Muon([weight], lr=1.0).step()
    moved = (u.T @ weight.detach() @ v).diagonal().abs()
    assert moved.max() / moved.min() < 2


def test_convolutions_keep_their_memory_format() -> None:
    layer = nn.Conv2d(32, 48, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = nn.Conv2d(32, 48, 3)
    plain.load_state_dict(layer.state_dict())
    gradient = torch.randn(48, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    for conv in (layer, plain):
        conv.weight.grad = gradient.clone(memory_format=torch.preserve_format)
        Muon([conv.weight], lr=0.1).step()
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer.weight, plain.weight)


def test_which_optimiser_trains_which_parameters() -> None:
    model = nn.Sequential(nn.Embedding(64, 64), nn.Linear(64, 64), nn.Conv2d(64, 64, 3), nn.Linear(64, 8))
    model[2].weight.requires_grad_(False)
    matrices, others = split_parameters(model)
    assert [id(p) for p in matrices] == [id(model[1].weight)]
    expected = [model[0].weight, model[1].bias, model[2].bias, model[3].weight, model[3].bias]
    assert [id(p) for p in others] == [id(p) for p in expected]
