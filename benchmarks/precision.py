"""Which objectives work under torch.autocast and with a compiled network, measured: the table of docs/training_cost.md.

    python benchmarks/precision.py            # the table, as Markdown, in a minute

The gradient of a loss in float32 is compared with that under bfloat16 autocast and with that of a network under torch.compile,
whose front ends alone decide what works (backend aot_eager), from equal seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.models import (
    ConditionalScore,
    GaussianGenerator,
    ImplicitEncoder,
    JointEnergy,
    LatentPrior,
    LevelEnergy,
    ScoreMLP,
)
from ebm_fast.objectives import players

DATA = 0.7 * torch.randn(128, 2, generator=torch.Generator().manual_seed(0)) + 1.0
NOISE = ef.noise.Gaussian(torch.ones(2), 1.5)
CHAINS: dict[str, Any] = {"sampler": ef.Langevin(0.02), "num_steps": 3, "seed": 1}
SEED: dict[str, Any] = {"seed": 1}
Wrap = Callable[[nn.Module], nn.Module]


class Result(NamedTuple):
    """Relative difference of the gradient from that of float32 in plain PyTorch; or why there is none."""

    error: float | None
    reason: str = ""


def energy() -> nn.Module:
    """A network of the user's own (2,) -> (), trained a little, so that its gradient is that of a shape."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0))
    objective = ef.DenoisingScoreMatching(net, 0.5, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        objective(DATA)[0].backward()
        optimizer.step()
    return net


def score() -> nn.Module:
    torch.manual_seed(0)
    return ScoreMLP(2, (64, 64), conditional=False)


def buffer() -> ef.ReplayBuffer:
    return ef.ReplayBuffer(256, (2,), init=("normal", 1.0), seed=1)


def gaussian() -> Any:
    return players.DiagonalGaussian(torch.zeros(2), 1.5)


def latent(wrap: Wrap) -> Any:
    torch.manual_seed(0)
    net = wrap(nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 2)))
    joint = JointEnergy(LatentPrior(2), GaussianGenerator(net, std=0.5))
    return ef.LatentMLE(joint, ef.Langevin(0.01), latent_shape=2, num_steps=3, **SEED)


def latent_prior(wrap: Wrap) -> Any:
    prior, generator = LatentPrior(2, tilt=wrap(energy())), GaussianGenerator(nn.Linear(2, 2), std=0.5)
    return ef.LatentEBM(prior, generator, ef.Langevin(0.02), num_steps=3, **SEED)


def implicit_vae(wrap: Wrap) -> Any:
    torch.manual_seed(0)
    encoder, decoder = ImplicitEncoder(2, 2, 1, widths=(64,)), GaussianGenerator(nn.Linear(1, 2), std=0.5)
    return ef.ImplicitVAE(encoder, decoder, wrap(ConditionalScore(1, 2, widths=(64,))), noise_shape=2, method="implicit", **SEED)


def recovery(wrap: Wrap) -> Any:
    torch.manual_seed(0)
    net = wrap(LevelEnergy(2, 6, (64, 64)))
    return ef.DiffusionRecoveryLikelihood(net, ef.objectives.diffusion_sigmas(6), ef.Langevin(0.1), num_steps=3, **SEED)


def noise_conditional(wrap: Wrap) -> Any:
    torch.manual_seed(0)
    sigmas = ef.objectives.geometric_sigmas(1.0, 0.1, 5)
    return ef.NoiseConditionalScoreMatching(wrap(ScoreMLP(2, (64, 64))), sigmas, **SEED)


TRUTH = ef.energies.Gaussian(torch.ones(2), 0.7)
MAKE: dict[str, Callable[[Wrap], Any]] = {
    "ContrastiveDivergence": lambda w: ef.ContrastiveDivergence(w(energy()), **CHAINS),
    "ContrastiveDivergence, kl_weight": lambda w: ef.ContrastiveDivergence(w(energy()), kl_weight=0.3, **CHAINS),
    "ContrastiveDivergence, gradient_penalty": lambda w: ef.ContrastiveDivergence(w(energy()), gradient_penalty=0.3, **CHAINS),
    "PersistentCD": lambda w: ef.PersistentCD(w(energy()), buffer=buffer(), **CHAINS),
    "ShortRunMLE": lambda w: ef.ShortRunMLE(w(energy()), init=("normal", 1.0), **CHAINS),
    "AdaptiveNCE": lambda w: ef.AdaptiveNCE(w(energy()), buffer=buffer(), interval=5, **CHAINS),
    "AdaptiveBregman": lambda w: ef.AdaptiveBregman(w(energy()), buffer=buffer(), interval=5, generator="kl", **CHAINS),
    "NCE": lambda w: ef.NCE(w(energy()), NOISE, num_noise=4, log_z=0.0, **SEED),
    "RankingNCE": lambda w: ef.RankingNCE(w(energy()), NOISE, num_noise=15, **SEED),
    "ConditionalNCE": lambda w: ef.ConditionalNCE(w(energy()), 0.5, num_noise=4, **SEED),
    "BregmanRatioMatching": lambda w: ef.BregmanRatioMatching(w(energy()), NOISE, generator="kl", log_z=0.0, **SEED),
    "FlowContrastive": lambda w: ef.FlowContrastive(w(energy()), gaussian(), log_z=0.0, **SEED),
    "AdversarialContrastive": lambda w: ef.AdversarialContrastive(w(energy()), gaussian(), NOISE, log_z=0.0, **SEED),
    "VariationalMLE": lambda w: ef.VariationalMLE(w(energy()), gaussian(), **SEED),
    "ExplicitScoreMatching": lambda w: ef.ExplicitScoreMatching(w(energy()), TRUTH, **SEED),
    "ImplicitScoreMatching": lambda w: ef.ImplicitScoreMatching(w(energy()), **SEED),
    "HutchinsonScoreMatching": lambda w: ef.HutchinsonScoreMatching(w(energy()), **SEED),
    "SlicedScoreMatching": lambda w: ef.SlicedScoreMatching(w(energy()), **SEED),
    "SlicedScoreMatching, score network": lambda w: ef.SlicedScoreMatching(w(score()), **SEED),
    "FiniteDifferenceScoreMatching": lambda w: ef.FiniteDifferenceScoreMatching(w(energy()), step=0.05, **SEED),
    "DenoisingScoreMatching": lambda w: ef.DenoisingScoreMatching(w(energy()), 0.3, **SEED),
    "DenoisingScoreMatching, score network": lambda w: ef.DenoisingScoreMatching(w(score()), 0.3, **SEED),
    "NoiseConditionalScoreMatching, score network": noise_conditional,
    "DiffusionRecoveryLikelihood": recovery,
    "LatentMLE": latent,
    "LatentEBM": latent_prior,
    "ImplicitVAE, its score network": implicit_vae,
}


def gradient(make: Callable[[Wrap], Any], wrap: Wrap, autocast: bool) -> Tensor:
    """Of the loss, of `ImplicitVAE` of both losses together."""
    objective = make(wrap)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        loss, _ = objective(DATA)
        if hasattr(objective, "score_loss"):
            loss = loss + objective.score_loss(DATA)[0]
    parameters: Iterable[nn.Parameter] = objective.parameters()
    if hasattr(objective, "score_parameters"):
        parameters = [*parameters, *objective.score_parameters()]
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return torch.cat([g.flatten().float() for g in found if g is not None])


def _plain(net: nn.Module) -> nn.Module:
    return net


def _compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="aot_eager")  # type: ignore[return-value]


def measure(name: str, *, compiled: bool) -> Result:
    """An objective's gradient under autocast, or with its network compiled, against plain float32."""
    make = MAKE[name]
    expected = gradient(make, _plain, False)
    try:
        found = gradient(make, _compiled if compiled else _plain, not compiled)
    except (RuntimeError, FloatingPointError) as error:
        twice = "double backward" in str(error) or "create_graph=False" in str(error)
        return Result(None, "double backward" if twice else str(error).splitlines()[0])
    finally:
        if compiled:
            torch._dynamo.reset()
    return Result(((found - expected).norm() / expected.norm()).item())


def verdict(result: Result, tolerance: float) -> str:
    """yes or no, with the reason; under a tolerance of percents with the difference."""
    if result.error is None:
        return f"no: {result.reason}"
    told = f"{result.error:.1%}" if tolerance > 1e-3 else ""
    return (f"yes, {told}" if told else "yes") if result.error < tolerance else f"no: off by {result.error:.0%}"


def table() -> str:
    """Markdown, a row an objective."""
    lines = ["| objective | compiled network | gradient under bfloat16 autocast |", "|---|---|---|"]
    for name in MAKE:
        c, a = measure(name, compiled=True), measure(name, compiled=False)
        lines.append(f"| {name} | {verdict(c, 1e-4)} | {verdict(a, 0.05)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(table())
