import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sds3d.guidance.balanced import Balanced, BalancedConfig, shortest_share
from sds3d.guidance.base import predict_each
from sds3d.guidance.schedules import UniformSchedule
from sds3d.priors.base import add_noise, expand
from tests.guidance.exact import TOLERANCE, exact_prior, renders, seeded
from tests.guidance.queries import queries_of
from tests.guidance.views import views_of


def combined(first: torch.Tensor, second: torch.Tensor, n_views: int = 1) -> torch.Tensor:
    share = expand(shortest_share(first, second, n_views), first)
    return share * first + (1 - share) * second


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scales=st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)),
    alike=st.floats(-1, 1),
    n_views=st.sampled_from([1, 2, 4]),
)
def test_it_descends_both_objectives(seed, scales, alike, n_views):
    first = renders(4, seed=seed)
    second = scales[1] * (alike * first + (1 - abs(alike)) * renders(4, seed=seed + 1))
    first = scales[0] * first
    g = combined(first, second, n_views)
    rounding = 1e-12 * (first.norm() + second.norm())
    for end in (first, second):
        inner, squared = ((g * other).reshape(4 // n_views, -1).sum(dim=1) for other in (end, g))
        assert (inner >= squared - rounding * (end.norm() + g.norm())).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_no_other_combination_is_shorter(seed, share):
    first, second = renders(2, seed=seed), renders(2, seed=seed + 1) - 0.3
    g = combined(first, second).flatten(1).norm(dim=1)
    other = (share * first + (1 - share) * second).flatten(1).norm(dim=1)
    assert (g <= other + 1e-12).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_opposite_gradients_cancel(dtype):
    first = renders(4, dtype)
    torch.testing.assert_close(combined(first, -3 * first), torch.zeros_like(first), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_orthonormal_gradients_are_averaged(dtype):
    q, _ = torch.linalg.qr(torch.randn(48, 2, generator=seeded(), dtype=dtype))
    first, second = (column.reshape(1, 3, 4, 4) for column in q.T)
    torch.testing.assert_close(combined(first, second), (first + second) / 2, atol=TOLERANCE[dtype], rtol=0)


def test_the_shorter_of_parallel_gradients_is_taken():
    first = renders(4)
    assert torch.equal(combined(first, 5 * first), first)
    assert torch.equal(combined(5 * first, first), first)
    assert torch.equal(combined(first, first), first)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_views", [1, 4])
def test_rule_by_its_formula(dtype, n_views):
    prior, x = exact_prior(dtype, n_views), renders(8, dtype)
    views, config = views_of(prior, 8), BalancedConfig(scale=2.0, schedule=UniformSchedule())
    guided = Balanced(config, prior)(x, views, 0.0, seeded())
    generator = seeded()
    t = config.schedule.sample(0.0, 8, n_views, generator)
    x_t = add_noise(prior, x, torch.randn(x.shape, generator=generator).to(x), t)
    positive, null = predict_each(prior, x_t, t, [views.positive, views.negative], views.cameras)
    g_c, g_d = 2 * (positive.eps - null.eps), null.eps
    shares = []
    for begin in range(0, 8, n_views):
        c, d = (g[begin : begin + n_views].flatten() for g in (g_c, g_d))
        a = (((d - c) @ d) / ((d - c) @ (d - c))).clamp(0, 1)
        expected = a * c + (1 - a) * d
        w = prior.alpha(t[begin]).item()
        got = guided.gradient[begin : begin + n_views].flatten()
        torch.testing.assert_close(got, w * expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        shares.append(a.item())
    assert guided.metrics["text_share"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert any(0 < share < 1 for share in shares)


def test_queries_of_the_prior_per_view():
    assert queries_of(BalancedConfig()) == {"view": 1, "bad": 1}
