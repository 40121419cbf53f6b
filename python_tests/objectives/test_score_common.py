"""What every score-matching objective keeps to: the protocol, labels, exact resume, finiteness, torch.compile, the trainer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.models import NCSN, NoiseConditionalEnergy, ScoreMLP
from ebm_fast.objectives import (
    denoising_score_matching_loss,
    finite_difference_loss,
    implicit_score_matching_loss,
    sliced_score_matching_loss,
)

SIGMAS = (2.0, 1.0, 0.5)
MAKERS = {
    "explicit": lambda net, **o: ef.ExplicitScoreMatching(net, lambda x: -x, **o),
    "implicit": lambda net, **o: ef.ImplicitScoreMatching(net, **o),
    "implicit, chunks": lambda net, **o: ef.ImplicitScoreMatching(net, chunk=1, **o),
    "sliced": lambda net, **o: ef.SlicedScoreMatching(net, num_projections=2, **o),
    "sliced, forward": lambda net, **o: ef.SlicedScoreMatching(net, num_projections=2, mode="forward", **o),
    "hutchinson": lambda net, **o: ef.HutchinsonScoreMatching(net, **o),
    "finite differences": lambda net, **o: ef.FiniteDifferenceScoreMatching(net, **o),
    "denoising": lambda net, **o: ef.DenoisingScoreMatching(net, 0.5, **o),
    "noise conditional": lambda net, **o: ef.NoiseConditionalScoreMatching(net, SIGMAS, **o),
}
RANDOM = [name for name in MAKERS if name not in ("explicit", "implicit", "implicit, chunks")]


def network(objective: str, kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = ScoreMLP(3, (8, 8), conditional=objective == "noise conditional")
    if kind == "score":
        return net
    return NoiseConditionalEnergy(net) if objective == "noise conditional" else ef.energies.MLPEnergy(3, (8, 8))


@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("name", MAKERS)
def test_protocol(name, kind):
    net, x = network(name, kind), torch.randn(6, 3)
    before = x.clone()
    objective = MAKERS[name](net)
    assert list(objective.parameters()) == list(net.parameters())
    loss, metrics = objective(x)
    assert loss.shape == () and loss.requires_grad and loss.dtype == torch.float32
    assert metrics and all(m.shape == () and not m.requires_grad and m.isfinite() for m in metrics.values())
    assert torch.equal(x, before) and all(p.grad is None for p in net.parameters())
    second, _ = objective(x)
    (loss + second).backward()  # two graphs at once, as in gradient accumulation
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert sum(p.grad.abs().sum() for p in net.parameters() if p.grad is not None) > 0
    with torch.no_grad():
        assert not objective(x)[0].requires_grad
    objective.finish_checks()


@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("name", MAKERS)
def test_resume_is_exact(name, kind):
    x = torch.randn(8, 3)

    def train(net: nn.Module, objective: object) -> list[float]:
        losses = []
        for _ in range(3):
            loss, _ = objective(x)
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in net.parameters():
                    if p.grad is not None:
                        p -= 0.05 * p.grad
            losses.append(loss.item())
        return losses

    net = network(name, kind)
    objective = MAKERS[name](net, seed=3)
    train(net, objective)
    other_net = network(name, kind)
    other_net.load_state_dict(net.state_dict())
    other = MAKERS[name](other_net, seed=8)
    other.load_state_dict(objective.state_dict())
    assert train(other_net, other) == train(net, objective)


@pytest.mark.parametrize("name", RANDOM)
def test_numbers_follow_seed_iteration_and_chain_alone(name):
    """A batch split in two, the second with its chain_offset, has the same loss; torch's generator governs without a seed."""
    net, x = network(name, "score").double(), torch.randn(8, 3, dtype=torch.float64)
    whole = MAKERS[name](net, seed=5)
    halves = [MAKERS[name](net, seed=5), MAKERS[name](net, seed=5, chain_offset=4)]
    losses = []
    for _ in range(2):
        losses.append(whole(x)[0].item())
        parts = [half(x[i : i + 4])[0].item() for half, i in zip(halves, (0, 4), strict=True)]
        assert 0.5 * sum(parts) == pytest.approx(losses[-1], rel=1e-12)
    assert losses[0] != losses[1]
    again = halves[0](x[4:])[0].item()
    assert again != halves[1](x[4:])[0].item(), "other chains, other numbers"

    def fresh(seed: int) -> float:
        torch.manual_seed(seed)
        return MAKERS[name](net)(x)[0].item()

    assert fresh(1) == fresh(1) != fresh(2)


@pytest.mark.parametrize("name", MAKERS)
def test_labels_reach_the_model(name):
    """A model s(x, y) = -(1 + y) x has the loss of its two classes apart, averaged."""
    def labelled(x: Tensor, y: Tensor | float, sigma: Tensor | None = None) -> Tensor:
        rows = (1.0 + y)[:, None] if isinstance(y, Tensor) else 1.0 + y
        return -rows * x

    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    loss, _ = MAKERS[name](labelled, seed=0)((x, y))
    parts = [
        MAKERS[name](lambda x, y=y, **c: labelled(x, y), seed=0, chain_offset=2 * y)(x[2 * y : 2 * y + 2])[0] for y in (0, 1)
    ]
    torch.testing.assert_close(loss, 0.5 * (parts[0] + parts[1]), rtol=1e-12, atol=1e-12)
    assert parts[0] != parts[1]


@pytest.mark.parametrize("name", MAKERS)
def test_errors(name):
    net = network(name, "score")
    objective = MAKERS[name](net)
    with pytest.raises(FloatingPointError, match="not finite: batch, loss"):
        objective(torch.tensor([[0.0, 1.0, math.nan]]))
    assert objective.iteration == 0
    for bad in (torch.ones(3), torch.ones(0, 3), torch.ones(2, 3, dtype=torch.int64), ["no tensor", None]):
        with pytest.raises(ValueError, match="batch"):
            objective(bad)
    with torch.no_grad():
        net.last.bias.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="not finite: loss"):
        objective(torch.ones(2, 3))
    for bad in (None, 5, nn.Linear):
        with pytest.raises(TypeError, match="model"):
            MAKERS[name](bad)
    for option, value in (("seed", 1 << 64), ("seed", "a"), ("chain_offset", -1)):
        with pytest.raises((TypeError, ValueError), match=option):
            MAKERS[name](net, **{option: value})


def test_images_with_labels_on_a_unet_and_the_trainer(tmp_path):
    """The one loop of the package runs them, with checkpoints; the loss of a network that knows nothing falls."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 1, 4, 4) * 0.1 + 0.5, torch.arange(64) % 2
    net = NCSN(1, 4, (8,), num_classes=2, data_std=0.5)
    objective = ef.NoiseConditionalScoreMatching(net, ef.objectives.geometric_sigmas(1.0, 0.1, 4), seed=0)
    batches = ef.training.BatchStream((x, y), 32, seed=0)
    losses: list[float] = []
    trainer = ef.Trainer(
        net, objective, torch.optim.Adam(net.parameters(), 3e-3), batches, directory=tmp_path, checkpoint_every=20,
        progress=False, callbacks=[lambda trainer, metrics: losses.append(metrics["residual"].item())],
    )  # fmt: skip
    trainer.fit(40)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def compiles(function) -> Tensor:
    torch._dynamo.reset()
    try:
        return torch.compile(function, backend="aot_eager", fullgraph=True)()
    finally:
        torch._dynamo.reset()


def test_torch_compile_where_the_docs_say_so():
    """Denoising and finite differences compile as whole losses, of energies and scores alike; a compiled energy with
    double backward is refused by torch."""
    x = torch.randn(6, 3)
    v = torch.randn(6, 1, 3)
    for kind in ("energy", "score"):
        net = network("denoising", kind)
        for function in (
            lambda net=net: denoising_score_matching_loss(net, x, v[:, 0], 0.5),
            lambda net=net: finite_difference_loss(net, x, v, 0.05),
        ):
            found, wanted = compiles(function), function()
            torch.testing.assert_close(found, wanted)
            for a, b in zip(
                torch.autograd.grad(found, list(net.parameters()), allow_unused=True),
                torch.autograd.grad(wanted, list(net.parameters()), allow_unused=True),
                strict=True,
            ):
                assert (a is None) == (b is None)
                if a is not None:
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    net = torch.compile(network("denoising", "energy"), backend="aot_eager")
    for loss in (
        lambda: implicit_score_matching_loss(net, x, mode="reverse"),
        lambda: sliced_score_matching_loss(net, x, v, mode="reverse"),
        lambda: denoising_score_matching_loss(net, x, v[:, 0], 0.5),
    ):
        with pytest.raises(RuntimeError, match="double backward"):
            loss().backward()
    finite_difference_loss(net, x, v, 0.05).backward()
    torch._dynamo.reset()


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("name", MAKERS)
def test_an_iteration_does_not_wait_for_the_device(name, kind):
    net, x = network(name, kind).cuda(), torch.randn(16, 3, device="cuda")
    objective = MAKERS[name](net)
    for _ in range(2):  # tables and kernels are made, and what the model is becomes known
        objective(x)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(x)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    objective.finish_checks()
    objective(x * math.nan)
    with pytest.raises(FloatingPointError, match="batch"):
        objective.finish_checks()
