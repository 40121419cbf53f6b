"""Directions drawn, and sliced, Hutchinson and finite-difference score matching against the exact implicit loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.models import ConvNetEnergy, ScoreMLP
from ebm_fast.objectives import (
    FiniteDifferenceScoreMatching,
    HutchinsonScoreMatching,
    SlicedScoreMatching,
    finite_difference_loss,
    implicit_score_matching_loss,
    sliced_score_matching_loss,
)
from ebm_fast.objectives.sliced import draw_projections

F64 = torch.float64


def flat_gradient(loss: Tensor, module: nn.Module) -> Tensor:
    found = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def all_signs(n: int, event: tuple[int, ...]) -> Tensor:  # (n, 2^d, *event)
    d = math.prod(event)
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=F64).view(1, -1, *event).expand(n, -1, *event)


MODELS = {
    "energy": lambda: (ef.energies.MLPEnergy(4, (12, 12)), (5, 4)),
    "convolutional energy": lambda: (ConvNetEnergy(1, 2, (3,), (4,)), (3, 1, 2, 2)),
    "score network": lambda: (ScoreMLP(4, (12,), conditional=False), (5, 4)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_the_mean_over_all_signs_is_the_implicit_loss(name, mode, variance_reduced):
    """Value and gradient to 1e-12 of their size; leaving one of 16 sign vectors out is off by 1e-4 at least."""
    net, shape = MODELS[name]()
    net, x = net.double(), torch.randn(shape, dtype=F64)
    signs = all_signs(len(x), x.shape[1:])
    truth = implicit_score_matching_loss(net, x)
    loss = sliced_score_matching_loss(net, x, signs, variance_reduced=variance_reduced, mode=mode)
    torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-12)
    wanted, found = flat_gradient(truth, net), flat_gradient(loss, net)
    assert (found - wanted).abs().max() < 1e-12 * wanted.abs().max()
    part = sliced_score_matching_loss(net, x, signs[:, 1:], variance_reduced=variance_reduced, mode=mode)
    assert (flat_gradient(part, net) - wanted).abs().max() > 1e-4 * wanted.abs().max()


def test_a_frame_on_the_sphere_gives_the_implicit_loss():
    """Directions of radius sqrt(2) at three angles have E v v' = I in the plane."""
    net, x = ef.energies.MLPEnergy(2, (12, 12)).double(), torch.randn(6, 2, dtype=F64)
    angles = torch.arange(3, dtype=F64) * 2 * math.pi / 3 + 0.2
    frame = math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], 1).expand(6, 3, 2)
    truth = implicit_score_matching_loss(net, x)
    torch.testing.assert_close(sliced_score_matching_loss(net, x, frame), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "sphere"])
def test_directions_have_mean_zero_and_unit_covariance(kind):
    """Entries of the mean and of E v v' within 5.5 standard errors (false alarm 4e-8 each): 2 % off would be seen."""
    n, m, d = 1000, 100, 4
    x = torch.empty(n, 2, 2)
    counter = {"seed": 1, "step": 3, "purpose": "projection", "chain_offset": 0}
    v = draw_projections(x, m, kind, **counter)
    assert v.shape == (n, m, 2, 2) and v.is_contiguous()
    rows = v.view(-1, d).double()
    bound = 5.5 * math.sqrt(2.0 / (n * m))
    assert bound < 0.03 and (rows.mean(0).abs() < bound).all()
    assert ((rows.T @ rows / len(rows) - torch.eye(d)).abs() < bound).all()
    if kind == "rademacher":
        assert (rows.abs() == 1).all()
    if kind == "sphere":
        torch.testing.assert_close(rows.norm(dim=1), torch.full((len(rows),), 2.0, dtype=F64), rtol=1e-6, atol=0)
    else:
        drawn = ef.ops.rademacher_ if kind == "rademacher" else ef.ops.normal_
        assert torch.equal(v, drawn(torch.empty_like(v), **counter))
    part = draw_projections(x[10:20], m, kind, **{**counter, "chain_offset": 10})
    assert torch.equal(part, v[10:20]), "directions of a state do not depend on its batch"
    assert draw_projections(x.to(torch.bfloat16), 2, kind, **counter).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "sphere"])
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_unbiased(kind, variance_reduced):
    """E = x'Px / 2 - b'x: each state's loss over 20,000 directions within 5.5 standard errors of the exact one, a few percent."""
    P = torch.tensor([[2.0, 0.8, 0.1], [0.8, 1.0, -0.5], [0.1, -0.5, 1.5]], dtype=F64)
    x = torch.tensor([[0.3, -1.0, 0.5]], dtype=F64)
    n, s = 20_000, 0.3 - x @ P
    rows = x.expand(n, 3)
    objective = SlicedScoreMatching(
        lambda x: 0.3 - x @ P, projection=kind, variance_reduced=variance_reduced, seed=5
    )
    loss, metrics = objective(rows)
    truth = 0.5 * s.square().sum() - P.trace()
    v = draw_projections(rows, 1, kind, seed=5, step=0, purpose="projection", chain_offset=0).squeeze(1)
    square = 0.5 * s.square().sum() if variance_reduced else 0.5 * (v @ s.squeeze()).square()
    terms = square - ((v @ P) * v).sum(1)
    torch.testing.assert_close(loss, terms.mean(), rtol=1e-12, atol=1e-12)
    error = 5.5 * terms.std() / math.sqrt(n)
    assert (loss - truth).abs() < error < 0.06 * truth.abs()
    assert metrics["score_norm"].item() == pytest.approx(s.norm().item())
    assert (metrics["trace"] + P.trace()).abs() < 0.15


def test_hutchinson_is_the_variance_reduced_form():
    net, x = ef.energies.MLPEnergy(3, (8,)), torch.randn(6, 3)
    for options in ({}, {"projection": "gaussian", "num_projections": 3}):
        a = HutchinsonScoreMatching(net, seed=4, **options)(x)[0]
        b = SlicedScoreMatching(net, variance_reduced=True, seed=4, **{"projection": "rademacher", **options})(x)[0]
        assert torch.equal(a, b)
    diagonal = HutchinsonScoreMatching(ef.energies.Gaussian(torch.zeros(3), precision=torch.tensor([1.0, 2.0, 5.0])), seed=0)
    assert diagonal(x)[1]["trace"].item() == pytest.approx(-8.0), "signs see a diagonal without noise"


FUNCTIONS = {
    "energy": (lambda: ef.energies.MLPEnergy(3, (12, 12)).double(), False),
    "score network": (lambda: ScoreMLP(3, (12,), conditional=False).double(), True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_differences_converge_at_second_order(name):
    """Loss and gradient approach those of sliced score matching as h^2: halving h quarters the error within 2 %."""
    net, x = FUNCTIONS[name][0](), torch.randn(6, 3, dtype=F64)
    v = torch.randn(6, 2, 3, dtype=F64)
    exact = sliced_score_matching_loss(net, x, v)
    slope = flat_gradient(exact, net)
    values, slopes = [], []
    for h in (0.04, 0.02, 0.01):
        loss = finite_difference_loss(net, x, v, h)
        values.append((loss - exact).item())
        slopes.append(flat_gradient(loss, net) - slope)
    for coarse, fine in itertools.pairwise(values):
        assert coarse / fine == pytest.approx(4.0, rel=0.02)
    for a, b in itertools.pairwise(slopes):
        assert (a.norm() / b.norm()).item() == pytest.approx(4.0, rel=0.02)
    assert slopes[-1].norm() < 1e-3 * slope.norm()


def test_finite_differences_of_a_quadratic_are_exact():
    """To the rounding of the second difference, 1e-16 |E| / h^2."""
    P = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=F64)
    x, v = torch.randn(5, 2, dtype=F64), torch.randn(5, 3, 2, dtype=F64)
    for model in (lambda x: 0.5 * ((x @ P) * x).sum(1) - x.sum(1), lambda x: 1.0 - x @ P):
        exact = sliced_score_matching_loss(model, x, v)
        for h in (0.5, 0.01):
            torch.testing.assert_close(finite_difference_loss(model, x, v, h), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_default_step_serves_float32(name):
    """Within 1 % of the gradient in float64 by sliced score matching, rounding and truncation together."""
    net, x = FUNCTIONS[name][0](), torch.randn(256, 3, dtype=F64)
    objective = FiniteDifferenceScoreMatching(net.float(), seed=2)
    found = flat_gradient(objective(x.float())[0], net).double()
    net.double()
    counter = {"seed": 2, "step": 0, "purpose": "projection", "chain_offset": 0}
    v = draw_projections(x, 1, "gaussian", **counter)
    exact = flat_gradient(sliced_score_matching_loss(net, x, v), net)
    assert (found - exact).norm() < 0.01 * exact.norm()


def test_finite_differences_ask_for_values_alone_and_once():
    """One batch of (2m + 1) n states for an energy, 2 m n for a score network once it is known; no derivative in x."""
    seen: list[Tensor] = []

    def spy(function):
        def model(x: Tensor, y: Tensor) -> Tensor:
            assert not x.requires_grad
            seen.append(torch.cat([x, y[:, None]], 1))
            return function(x)

        return model

    x, y = torch.randn(5, 2), torch.arange(5.0)
    for function, sizes in ((lambda x: x.square().sum(1), [35, 35]), (lambda x: -x, [35, 30])):
        seen.clear()
        objective = FiniteDifferenceScoreMatching(spy(function), 0.1, num_projections=3, seed=1)
        losses = [objective((x, y))[0] for _ in range(2)]
        assert [len(batch) for batch in seen] == sizes
        assert losses[0] != losses[1], "another iteration, other directions"
        for batch in seen:  # labels go with their states
            near = batch[:, :2].view(-1, 5, 2) - x
            assert near.abs().max() < 0.1 * 6.8 and torch.equal(batch[:, 2].view(-1, 5), y.expand(len(near), 5))
        resumed = FiniteDifferenceScoreMatching(spy(function), 0.1, num_projections=3)
        resumed.load_state_dict(objective.state_dict())
        assert torch.equal(resumed((x, y))[0], objective((x, y))[0])
        assert [len(batch) for batch in seen[2:]] == sizes[1:] * 2


def test_errors():
    net, x = nn.Identity(), torch.randn(4, 2)
    for make in (SlicedScoreMatching, HutchinsonScoreMatching, FiniteDifferenceScoreMatching):
        with pytest.raises(ValueError, match="projection: expected one of rademacher, gaussian, sphere"):
            make(net, projection="cube")
        for bad in (0, 1.5):
            with pytest.raises((TypeError, ValueError), match="num_projections"):
                make(net, num_projections=bad)
    with pytest.raises(ValueError, match="mode"):
        SlicedScoreMatching(net, mode="fast")
    with pytest.raises(TypeError, match="variance_reduced"):
        HutchinsonScoreMatching(net, variance_reduced=False)
    for option in ("variance_reduced", "mode"):
        with pytest.raises(TypeError, match=option):
            FiniteDifferenceScoreMatching(net, **{option: True})
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="step"):
            FiniteDifferenceScoreMatching(net, bad)
        with pytest.raises(ValueError, match="step"):
            finite_difference_loss(net, x, x[:, None], bad)
    for v in (x, x[:3, None], x[:, None, :1], torch.empty(4, 0, 2)):
        with pytest.raises(ValueError, match=r"projections: expected \(4, m, 2\)"):
            sliced_score_matching_loss(net, x, v)
        with pytest.raises(ValueError, match=r"projections: expected \(4, m, 2\)"):
            finite_difference_loss(net, x, v, 0.1)
