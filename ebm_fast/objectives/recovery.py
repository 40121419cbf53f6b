"""Diffusion recovery likelihood: conditional energy-based models along a ladder of noise levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast import engine, ops
from ebm_fast.engine.run import STRATEGIES, check_alone, check_count
from ebm_fast.objectives.contrastive import Batch, _split, bare
from ebm_fast.objectives.counted import CountedObjective
from ebm_fast.objectives.numerics import wide
from ebm_fast.ops import checks


def diffusion_sigmas(num_levels: int, *, smallest: float = 0.3, largest: float = 0.85) -> tuple[float, ...]:
    """sigma_1 ... sigma_L with sigma_l^2 linear in l, from smallest^2 to largest^2.

    prod sqrt(1 - sigma_l^2) is what is left of x_0 in x_L, and should be small: 0.17 for 6 levels, 0.05 for 10.
    Raises ValueError unless 0 < smallest <= largest < 1 and L >= 2. Source: Ho, Jain, Abbeel 2020 (linear variances).
    """
    check_count(num_levels, "num_levels", 2)
    smallest, largest = checks.number(smallest, "smallest"), checks.number(largest, "largest")
    if not 0.0 < smallest <= largest < 1.0:
        raise ValueError(f"smallest, largest: expected 0 < smallest <= largest < 1, got {smallest} and {largest}")
    slope = (largest**2 - smallest**2) / (num_levels - 1)
    return (smallest, *(math.sqrt(smallest**2 + slope * i) for i in range(1, num_levels - 1)), largest)


def recovery_loss(e_data: Tensor, e_model: Tensor, weight: Tensor | None = None) -> Tensor:  # (n,), (n,), (n,) -> ()
    """L = mean_i w_i (E(y_i, t_i) - E(y'_i, t_i)), y the data and y' a sample of the recovery density given the same x_{t+1}.

    With y' held constant its gradient is that of the mean of -w_i log p(y_i | x_{t+1, i}): the quadratic term has no parameter.
    Raises ValueError unless all are vectors of one length n >= 1. Source: Gao, Song, Poole, Wu, Kingma 2021.
    """
    if e_data.dim() != 1 or len(e_data) == 0 or any(t is not None and t.shape != e_data.shape for t in (e_model, weight)):
        raise ValueError(
            "e_data, e_model, weight: expected one number a state, all (n,) with n >= 1, got "
            + ", ".join("none" if t is None else str(tuple(t.shape)) for t in (e_data, e_model, weight))
        )
    terms = e_data - e_model
    return (terms if weight is None else weight * terms).mean()


class RecoveryEnergy(nn.Module):
    """E(u; x) = E(y, t) + |u|^2 / 2 at y = x + sigma u: the recovery density p(y | x) ~ exp(-E(y, t) - |x - y|^2 / (2 sigma^2)),
    in units of the noise that it removes.

    Called as energy(u, x=..., sigma=..., t=...), x # (n, *event), sigma # (n,), t # (n,) int64; further keywords go to E. In
    these units one step size serves every level: a step s is s sigma^2 on y. Source: Gao, Song, Poole, Wu, Kingma 2021.
    """

    def __init__(self, energy: Callable[..., Tensor]) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, u: Tensor, x: Tensor, sigma: Tensor, t: Tensor, **condition: Any) -> Tensor:  # (n,)
        """E(u; x)."""
        energies = _vector(self.energy(torch.addcmul(x, u, _rows(sigma, x)), t=t, **condition), len(u))
        return energies + 0.5 * u.flatten(1).square().sum(1)


class DiffusionRecoveryLikelihood(CountedObjective):
    """L = -E_t E log p(y_t | x_{t+1}), p(y | x) ~ exp(-E(y, t) - |x - y|^2 / (2 sigma_{t+1}^2)).

    The diffusion x_{t+1} = y_t + sigma_{t+1} eps, y_t = sqrt(1 - sigma_{t+1}^2) x_t, t = 0 ... T-1, takes data x_0 to about
    N(0, I). E(., t) is an energy of the marginal density of y_t, learned through the density of y_t given x_{t+1}, which the
    quadratic term concentrates near x_{t+1}: short chains from x_{t+1} are samples of it. `objective(batch)` returns
    (loss, metrics); batch is x (n, *event), or (x, y) with labels; each state has a level t drawn uniformly. `sample(n, shape)`
    comes down the ladder from N(0, I).

    Args:
        energy: E(y_t, t=t) -> (n,), t # (n,) int64 the level, such as `models.LevelEnergy`; with labels E(y_t, t=t, y=labels).
        sigmas: sigma_1 ... sigma_T, each in (0, 1), such as `diffusion_sigmas(6)`; the data should have variance about 1.
        sampler: of chains in units of sigma_{t+1} (see `RecoveryEnergy`): Langevin(step_size=s) takes steps s sigma_{t+1}^2 on
            y_t, which are b^2 sigma_{t+1}^2 / 2 in the paper's notation.
        num_steps: of a chain; iteration i uses steps i K ... i K + K - 1 of one seed.
        weight: of a level in the loss, a function of t; None weighs all levels alike.
        seed, chain_offset, check, strategy, backend: as of `ContrastiveDivergence`.

    Metrics: energy_data, energy_samples, gap, moved (root mean square of (y - x_{t+1}) / sigma_{t+1} at the ends of the chains,
    1 for the data's own), grad_norm of samplers that report it. Raises TypeError or ValueError naming the argument,
    FloatingPointError for what is not finite.
    Source: Gao, Song, Poole, Wu, Kingma 2021.
    """

    _settings = ("sigmas", "weights", "sampler", "num_steps")

    def __init__(
        self,
        energy: Callable[..., Tensor],
        sigmas: Sequence[float] | Tensor,
        sampler: Any,
        *,
        num_steps: int = 30,
        weight: Callable[[int], float] | None = None,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
        strategy: str = "auto",
        backend: str | None = None,
    ) -> None:
        super().__init__(energy, 1, seed=seed, chain_offset=chain_offset, check=check)
        check_alone(sampler)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
        levels = sigmas.tolist() if isinstance(sigmas, Tensor) else list(sigmas)
        if not levels or any(not 0.0 < checks.number(s, "sigmas") < 1.0 for s in levels):
            raise ValueError(f"sigmas must be standard deviations in (0, 1), one a level, got {levels}")
        self.sigmas = tuple(float(s) for s in levels)
        if weight is not None and not callable(weight):
            raise TypeError(f"weight: expected a function of a level, or None, got {weight!r}")
        self.weights = None if weight is None else tuple(float(weight(t)) for t in range(len(levels)))
        if self.weights is not None and any(not (math.isfinite(w) and w >= 0.0) for w in self.weights):
            raise ValueError(f"weight: expected a finite number >= 0 for every level, got {self.weights}")
        self.sampler, self.num_steps = sampler, check_count(num_steps, "num_steps", 1)
        self.strategy, self.backend = strategy, backend
        self.recovery = RecoveryEnergy(bare(energy))
        self._kept: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        data, y = _split(batch)
        labels = {} if y is None else {"y": y}
        t = self._levels(data)
        at = {name: table[t] for name, table in self._tables(data).items()}
        y_t, x_next = self._diffuse(data, at)
        u, strength = self._chain(x_next, at["sigma"], t, labels, self.seed, self.iteration * self.num_steps, self.chain_offset)
        samples = torch.addcmul(x_next, u, _rows(at["sigma"], u))

        both = {name: torch.cat([value, value]) for name, value in {"t": t, **labels}.items()}
        energies = _vector(self.energy(torch.cat([y_t, samples]), **both), 2 * len(data))
        e_data, e_model = wide(energies).split(len(data))
        self._require_finite(batch=data, samples=samples, energy_data=e_data, energy_samples=e_model)
        loss = recovery_loss(e_data, e_model, at.get("weight"))
        high, low = e_model.detach().mean(), e_data.detach().mean()
        metrics = {"energy_data": low, "energy_samples": high, "gap": high - low, "moved": wide(u).square().mean().sqrt()}
        if strength is not None:
            metrics["grad_norm"] = strength.mean()
        self.iteration += 1
        return loss, metrics

    @torch.no_grad()
    def sample(
        self, n: int, event_shape: int | Sequence[int], *, num_steps: int | None = None, y: Tensor | None = None,
        seed: int | None = None, chain_offset: int = 0, dtype: torch.dtype | None = None,
        device: torch.device | str | None = None, ladder: bool = False,
    ) -> Tensor:  # fmt: skip
        """x_0 # (n, *event): x_T ~ N(0, I); y_t by a chain from x_{t+1}, and x_t = y_t / sqrt(1 - sigma_{t+1}^2), down to t = 0.

        num_steps: of each level's chain; None takes that of training. y: labels (n,). seed: None draws one from torch's
        generator; row i is the same whatever n is. dtype, device: None takes those of the energy's parameters. ladder: return
        x_T ... x_0 # (T + 1, n, *event). Raises TypeError or ValueError naming the argument.
        """
        check_count(n, "n", 1)
        steps = self.num_steps if num_steps is None else check_count(num_steps, "num_steps", 1)
        sizes = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        x = torch.empty(n, *sizes, dtype=dtype or like.dtype, device=like.device if device is None else device)
        seed = ops.fresh_seed() if seed is None else seed
        ops.normal_(x, seed=seed, purpose="init", chain_offset=chain_offset)
        kept = [x]
        tables, labels = self._tables(x), {} if y is None else {"y": y}
        for down, level in enumerate(reversed(range(len(self.sigmas)))):
            t = torch.full((n,), level, dtype=torch.int64, device=x.device)
            sigma = tables["sigma"][t]
            u, _ = self._chain(x, sigma, t, labels, seed, down * steps, chain_offset, steps)
            x = torch.addcmul(x, u, _rows(sigma, x)) / math.sqrt(1.0 - self.sigmas[level] ** 2)
            kept.append(x)
        return torch.stack(kept) if ladder else x

    def _chain(
        self, x: Tensor, sigma: Tensor, t: Tensor, labels: dict[str, Tensor], seed: int, step: int, chain_offset: int,
        num_steps: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """u # (n, *event) at the ends of chains that start from x, u = 0; their gradient norms (n,)."""
        u = torch.zeros_like(x, memory_format=torch.contiguous_format)
        strength = engine.run_(
            self.recovery, self.sampler, u, self.num_steps if num_steps is None else num_steps, seed=seed, step=step,
            chain_offset=chain_offset, condition={"x": x, "sigma": sigma, "t": t, **labels}, strategy=self.strategy,
            backend=self.backend, grad_norm=True,
        )  # fmt: skip
        return u, strength

    def _levels(self, x: Tensor) -> Tensor:  # (n,) int64
        """A level for each state, uniform."""
        words = torch.empty(len(x), 1, dtype=torch.int32, device=x.device)
        ops.bits_(words, seed=self.seed, step=self.iteration, purpose="noise_level", chain_offset=self.chain_offset)
        # The high half of word * T / 2^32 is uniform on 0 ... T-1.
        return (((words.long() & 0xFFFFFFFF) * len(self.sigmas)) >> 32).squeeze(1)

    def _diffuse(self, x: Tensor, at: dict[str, Tensor]) -> tuple[Tensor, Tensor]:  # (n, *event) both
        """y_t = sqrt(1 - sigma_{t+1}^2) x_t and x_{t+1} = y_t + sigma_{t+1} eps of data x."""
        noise = torch.empty(len(x), 2, *x.shape[1:], dtype=x.dtype, device=x.device)
        ops.normal_(noise, seed=self.seed, step=self.iteration, purpose="data_noise", chain_offset=self.chain_offset)
        y = torch.addcmul(_rows(at["scale"], x) * x, noise[:, 0], _rows(at["spread"], x))
        return y, torch.addcmul(y, noise[:, 1], _rows(at["sigma"], x))

    def _tables(self, x: Tensor) -> dict[str, Tensor]:
        """Of each level t: sigma_{t+1}, and scale and spread of y_t = scale x_0 + spread eps; the weights. # (T,)"""
        wanted = torch.float64 if x.dtype == torch.float64 else torch.float32
        known = self._kept.get("sigma")
        if known is None or known.device != x.device or known.dtype != wanted:
            scales, spreads, product = [], [], 1.0
            for sigma in self.sigmas:
                shrink = math.sqrt(1.0 - sigma**2)
                scales.append(shrink * math.sqrt(product))
                spreads.append(shrink * math.sqrt(1.0 - product))
                product *= 1.0 - sigma**2
            rows: dict[str, Sequence[float]] = {"sigma": self.sigmas, "scale": scales, "spread": spreads}
            if self.weights is not None:
                rows["weight"] = self.weights
            self._kept = {name: torch.tensor(row, dtype=wanted, device=x.device) for name, row in rows.items()}
        return self._kept


def _vector(energies: Any, n: int) -> Tensor:  # (n,)
    if not isinstance(energies, Tensor) or tuple(energies.shape) != (n,):
        got = tuple(energies.shape) if isinstance(energies, Tensor) else type(energies).__name__
        raise ValueError(f"energy: expected one energy a state, ({n},), got {got}")
    return energies


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """# (n,) -> (n, 1, ..., 1), of x's dtype"""
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
