"""Maximum likelihood with a sampler that is learned beside the energy: the adversarial, or variational, game."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ebm_fast.objectives.contrastive import Batch, contrastive_divergence_loss
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.penalty import squared_gradient_norm, valued_without_grad
from ebm_fast.objectives.two_player import TwoPlayerObjective, states_alone
from ebm_fast.ops import checks

EULER = 0.5772156649015329


def reverse_kl_loss(energy: Tensor, log_q: Tensor) -> Tensor:  # (n,), (n,) -> ()
    """L = mean (E(x) + log q(x)), x ~ q: KL(q || p) - log Z, p ~ e^-E.

    Where q is p it is -log Z, whatever the samples. Raises ValueError unless both are vectors of one length n >= 1.
    Source: the variational bound of log Z; lecture notes on adversarial training of energy-based models.
    """
    if energy.dim() != 1 or energy.shape != log_q.shape or len(energy) == 0:
        raise ValueError(
            f"energy, log_q: expected one number a state, (n,) with n >= 1, got {tuple(energy.shape)} and {tuple(log_q.shape)}"
        )
    return (wide(energy) + wide(log_q)).mean()


def kozachenko_leonenko(x: Tensor) -> Tensor:  # (n, *event) -> ()
    """H = d mean_i log rho_i + log V_d + log(n - 1) + gamma, rho_i the distance to the nearest other sample, V_d the unit ball.

    An estimate of the entropy of the law that x is drawn from, consistent as n grows, with a bias of order n^(-2/d). It is
    differentiable in both ends of each distance, so that scaling x by e^t adds d t exactly. Equal samples count as the
    smallest distance of the dtype. Raises ValueError for fewer than two states. Source: Kozachenko and Leonenko 1987.
    """
    if x.dim() < 2 or len(x) < 2:
        raise ValueError(
            f"x: an entropy from distances needs at least 2 states (n, *event), got {tuple(x.shape)}"
        )
    flat = wide(x.flatten(1))
    n, d = flat.shape
    with torch.no_grad():
        distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.fill_diagonal_(torch.inf).argmin(1)
    squared = (flat - flat[nearest]).square().sum(1).clamp_min(torch.finfo(flat.dtype).tiny)
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)
    return 0.5 * d * squared.log().mean() + (ball + math.log(n - 1) + EULER)


class VariationalMLE(TwoPlayerObjective):
    """min_theta max_phi E_data E(x) - E_q E(x) + H(q_phi), E = E_theta: maximum likelihood whose samples a generator makes.

    log Z >= H(q) - E_q E for every q, with equality where q is the model: the generator makes the bound tight, and the energy
    then descends the negative log-likelihood. (In f = -E: max_theta min_phi E_data f - E_q f - H(q).)

    `objective(batch)` is E_data E - E_q E for the energy, its samples held constant: contrastive divergence without a chain.
    `objective.generator_loss(batch)`, or `(n)` for a number of states, is E_q E - entropy_weight H(q) for the generator:
    with weight 1 KL(q || p_theta) - log Z. `num_noise`: samples a datum. `energy_l2`, `gradient_penalty`: see
    `ContrastiveDivergence`.

    `entropy`: "density", H = -mean log q(x): exact for a flow, a lower bound for `players.Generator`; or "nearest_neighbour",
    the estimate of Kozachenko and Leonenko from distances alone, for generators without a density, in few dimensions.
    metrics: of the energy's `energy_data`, `energy_samples`, `gap`; of the generator's `energy_samples`, `entropy`, and
    `log_z_bound` = H(q) - E_q E, a lower bound of log Z in expectation with "density".

    Raises ValueError for a generator without density unless entropy="nearest_neighbour"; TypeError or ValueError naming
    another argument. Sources: Kim and Bengio 2016; Dai et al. 2017; lecture notes on adversarial training of energy-based
    models, where H stands with the other sign.
    """

    _settings = ("energy_l2", "gradient_penalty", "entropy", "entropy_weight")

    def __init__(
        self,
        energy: Callable[..., Tensor],
        generator: Any,
        *,
        num_noise: int = 1,
        energy_l2: float = 0.0,
        gradient_penalty: float = 0.0,
        entropy: str = "density",
        entropy_weight: float = 1.0,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
    ) -> None:
        super().__init__(
            energy, generator, num_noise=num_noise, seed=seed, chain_offset=chain_offset, check=check
        )
        if entropy not in ("density", "nearest_neighbour"):
            raise ValueError(f"entropy: expected 'density' or 'nearest_neighbour', got {entropy!r}")
        self.energy_l2 = checks.number(energy_l2, "energy_l2", low=0.0)
        self.gradient_penalty = checks.number(gradient_penalty, "gradient_penalty", low=0.0)
        self.entropy, self.entropy_weight = entropy, checks.number(entropy_weight, "entropy_weight", low=0.0)
        if entropy == "density" and self.entropy_weight and not self.generator.has_density:
            raise ValueError(
                "generator: without a density its entropy is not known; give Generator a std (noise on its samples), use a "
                "flow, or ask for an estimate with entropy='nearest_neighbour'"
            )

    @valued_without_grad
    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        data = states_alone(batch)
        n, m = len(data), len(data) * self.num_noise
        with torch.no_grad():
            samples = self._draw(m, data).x
        states = torch.cat([data, samples]).requires_grad_(self.gradient_penalty > 0.0)
        energies = self._energies(states, None, [n + m])[0]
        e_data, e_model = energies.split([n, m])
        self._require_finite(batch=data, samples=samples, energy_data=e_data, energy_samples=e_model)
        loss = contrastive_divergence_loss(e_data, e_model, energy_l2=self.energy_l2)
        data_mean, model_mean = e_data.detach().mean(), e_model.detach().mean()
        metrics = {"energy_data": data_mean, "energy_samples": model_mean, "gap": model_mean - data_mean}
        if self.gradient_penalty:
            at_data, at_samples = squared_gradient_norm(energies, states).split([n, m])
            penalty = at_data.mean() + at_samples.mean()
            loss, metrics["gradient_penalty"] = loss + self.gradient_penalty * penalty, penalty.detach()
        self.iteration += 1
        return loss, metrics

    def generator_loss(self, batch: Batch | int) -> tuple[Tensor, dict[str, Tensor]]:
        """E_q E - entropy_weight H(q), with gradients in the generator alone; and metrics."""
        data, n = (None, batch) if isinstance(batch, int) else (states_alone(batch), 0)
        n = n if data is None else len(data) * self.num_noise
        if n < 1:
            raise ValueError(f"batch: expected states, or a number of them of at least 1, got {n}")
        asked = self.entropy_weight > 0.0 and self.entropy == "density"
        draw = self._draw(n, data, for_generator=True, density=asked)
        (energies,) = self._frozen_energies(draw.x, [n])
        log_q = wide(draw.density()) if asked else None
        self._require_finite(
            samples=draw.x,
            energy_samples=energies,
            **({} if log_q is None else {"log_prob_of_samples": log_q}),
        )
        if log_q is not None:
            entropy = -log_q.detach().mean()
            loss = reverse_kl_loss(energies, self.entropy_weight * log_q)
        else:
            loss = energies.mean()
            if self.entropy_weight:
                estimate = kozachenko_leonenko(draw.x)
                loss, entropy = loss - self.entropy_weight * estimate, estimate.detach()
        metrics = {"energy_samples": energies.detach().mean()}
        if self.entropy_weight:
            metrics["entropy"] = entropy
            metrics["log_z_bound"] = entropy - metrics["energy_samples"]
        self.generator_iteration += 1
        return loss, metrics
