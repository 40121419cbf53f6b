"""Noise-contrastive estimation against noise that is trained to be hard: adversarial and flow contrastive estimation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.noise import as_noise
from ebm_fast.objectives.contrastive import Batch
from ebm_fast.objectives.nce import check_log_z, learnable_log_z, load_log_z, nce_loss, require_like
from ebm_fast.objectives.numerics import softplus, wide
from ebm_fast.objectives.players import Draw
from ebm_fast.objectives.saved import require_fits
from ebm_fast.objectives.two_player import TwoPlayerObjective, states_alone
from ebm_fast.ops import checks


def adversarial_contrastive_loss(
    log_ratio_data: Tensor,  # (n,)
    log_ratio_base: Tensor,  # (k,)
    log_ratio_generator: Tensor,  # (m,)
    *,
    base_weight: float,
    num_noise: float = 1.0,
) -> Tensor:  # ()
    """L = mean softplus(log nu - r_data) + nu [w mean softplus(r_base - log nu) + (1 - w) mean softplus(r_gen - log nu)].

    `nce_loss` whose noise is w p_0 + (1 - w) q, each part with a mean of its own: (1 + nu) times (3.3) of the thesis. r is
    log p_model - log p_noise with the density of the whole mixture. Raises ValueError unless w is in [0, 1], each is a
    vector, n >= 1, k >= 1 where w > 0, m >= 1 where w < 1. Source: Bose, Ling, Cao 2018; thesis (3.3).
    """
    w = _share(base_weight)
    if w in (0.0, 1.0):
        return nce_loss(log_ratio_data, log_ratio_base if w else log_ratio_generator, num_noise=num_noise)
    base = nce_loss(log_ratio_data, log_ratio_base, num_noise=num_noise)
    generator = nce_loss(log_ratio_data, log_ratio_generator, num_noise=num_noise)
    return w * base + (1.0 - w) * generator


class AdversarialContrastive(TwoPlayerObjective):
    """min_theta max_phi L, L = E_data softplus(log nu - r) + nu E_{p_n} softplus(r - log nu), r = log p_theta - log p_n.

    The noise p_n = w p_0 + (1 - w) q_phi mixes a static model with a generator that is trained to make the classifier fail.

    `objective(batch)` is L for the energy, with samples and density of the noise held constant; `objective.generator_loss(
    batch)` is -L - entropy_weight H(q) for the generator, differentiated through its samples and its density. The batch is x
    (n, *event), the classifier sees nu n noise states, w of them from p_0. For any generator the minimum over the energy is
    the density of the data.

    `generator`: a flow, or one of `objectives.players`. `base`: p_0 as for `NCE`, with `base_weight` w in [0, 1); w = 1 is
    `NCE` itself and leaves nothing to `generator_loss`. `saturating=False` gives the generator nu (1 - w) E_q softplus(log nu
    - r) to minimise instead: an f-divergence of q from p_theta, whose gradient does not vanish where the classifier wins.
    H(q) = -E_q log q of the samples is exact for a density that is exact; for `Generator` it is a lower bound.
    `num_noise` is nu; `log_z`: see `NCE`; other arguments as `CountedObjective`.

    metrics of both: `accuracy` (of r > 0, data and noise weighed alike); of the energy's: energies and log ratios of data and
    noise, `log_z`; of the generator's: `energy_generator`, `entropy`. Raises ValueError for a generator without density: the
    logit needs log p_n. Source: Bose, Ling, Cao 2018; thesis (3.3).
    """

    _settings = ("base_weight", "entropy_weight", "likelihood_weight", "saturating")

    def __init__(
        self,
        energy: Callable[..., Tensor],
        generator: Any,
        base: Any = None,
        *,
        base_weight: float = 0.5,
        entropy_weight: float = 0.0,
        saturating: bool = True,
        num_noise: int = 1,
        log_z: float | None = None,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
    ) -> None:
        super().__init__(
            energy, generator, num_noise=num_noise, seed=seed, chain_offset=chain_offset, check=check
        )
        self.base_weight = _share(base_weight)
        if (base is None) != (self.base_weight == 0.0):
            raise ValueError(
                f"base: expected a noise model for base_weight={base_weight}, got None" if base is None
                else "base_weight: a base noise has a meaning for a weight above 0 alone, got 0"
            )  # fmt: skip
        if not self.generator.has_density:
            raise ValueError(
                "generator: expected one with a density, because the classifier's logit is log p_theta - log p_n; give "
                "Generator a std (noise on its samples), or use a flow"
            )
        self.base = None if base is None else as_noise(base)
        self.entropy_weight = checks.number(entropy_weight, "entropy_weight", low=0.0)
        self.likelihood_weight = 0.0
        self.saturating = saturating
        self.log_z = None if log_z is None else learnable_log_z(energy, log_z)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        data = states_alone(batch)
        with torch.no_grad():
            states, parts, draw = self._states(data)
            _, log_noise = self._log_noise(states, draw)
        energies = self._energies(states, None, parts)
        self._require_finite(
            batch=data,
            energy_data=energies[0],
            energy_noise=torch.cat(energies[1:]),
            noise_log_prob=log_noise,
        )
        ratios = self._ratios(energies, log_noise.split(parts), self.log_z)
        loss = self._loss(ratios)
        metrics = {
            "energy_data": energies[0].detach().mean(),
            "energy_noise": self._over_noise(energies[1].detach(), energies[2].detach()),
            "log_ratio_data": ratios[0].detach().mean(),
            "log_ratio_noise": self._over_noise(ratios[1].detach(), ratios[2].detach()),
            "accuracy": self._accuracy(ratios),
        }
        if self.log_z is not None:
            metrics["log_z"] = self.log_z.detach().clone()
        self.iteration += 1
        return loss, metrics

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """-L - entropy_weight H(q), with gradients in the generator alone; and metrics."""
        if self.base_weight == 1.0:
            raise ValueError("base_weight: with 1 the generator takes no part and has no loss")
        data = states_alone(batch)
        states, parts, draw = self._states(data, for_generator=True)
        log_q, log_noise = self._log_noise(states, draw)
        energies = self._frozen_energies(states, parts)
        own = states[-parts[2] :]
        self._require_finite(batch=data, samples=own, energy=torch.cat(energies), noise_log_prob=log_noise)
        ratios = self._ratios(
            energies, log_noise.split(parts), None if self.log_z is None else self.log_z.detach()
        )
        shift = math.log(self.num_noise)
        if self.saturating:
            loss = -self._loss(ratios)
        else:
            loss = self.num_noise * (1.0 - self.base_weight) * softplus(shift - ratios[2]).mean()
        assert log_q is not None
        q_data, _, q_own = log_q.split(parts)
        if self.entropy_weight:
            loss = loss + self.entropy_weight * q_own.mean()
        if self.likelihood_weight:
            loss = loss - self.likelihood_weight * q_data.mean()
        metrics = {
            "energy_generator": energies[2].detach().mean(),
            "entropy": -q_own.detach().mean(),
            "accuracy": self._accuracy(ratios),
        }
        self.generator_iteration += 1
        return loss, metrics

    def _states(self, data: Tensor, *, for_generator: bool = False) -> tuple[Tensor, list[int], Draw | None]:
        """Data, base noise, samples of the generator in one tensor; how many of each; and the draw."""
        n, m = len(data), len(data) * self.num_noise
        if m == 1 and 0.0 < self.base_weight < 1.0:
            raise ValueError(
                "batch: a mixture of noise needs 2 noise states or more, got 1 state and num_noise=1"
            )
        k = round(self.base_weight * m)
        if 0.0 < self.base_weight < 1.0:
            k = min(max(k, 1), m - 1)
        rows = [data]
        if self.base is not None:
            require_like(self.base, data)
            noise = self.base.sample_(data.new_empty(k, *data.shape[1:]), **self._counter(for_generator))
            rows.append(noise)
        draw = None
        if k < m:
            draw = self._draw(m - k, data, for_generator=for_generator)
            rows.append(draw.x)
        return torch.cat(rows), [n, k, m - k], draw

    def _log_noise(self, states: Tensor, draw: Draw | None) -> tuple[Tensor | None, Tensor]:
        """log q, where the generator takes part, and log p_n = log(w p_0 + (1 - w) q)."""
        log_q = log_p = None
        if draw is not None:
            assert draw.log_prob is not None
            if draw.log_q is None:  # one pass for all of them takes fewer, larger kernels than one of the samples' own
                log_q = wide(draw.log_prob(states))
            else:  # of the samples, which lie last
                log_q = torch.cat([wide(draw.log_prob(states[: -len(draw.log_q)])), wide(draw.log_q)])
        if self.base is not None:
            log_p = wide(self.base.log_prob(states))
        w = self.base_weight
        if log_q is None or log_p is None:
            log_noise = log_p if log_q is None else log_q
            assert log_noise is not None
            return log_q, log_noise
        return log_q, torch.logaddexp(log_p + math.log(w), log_q + math.log1p(-w))

    def _ratios(
        self, energies: list[Tensor], log_noise: Sequence[Tensor], log_z: Tensor | None
    ) -> list[Tensor]:  # (n,), (k,), (m - k,)
        ratios = [-e - p for e, p in zip(energies, log_noise, strict=True)]
        return ratios if log_z is None else [r - log_z for r in ratios]

    def _loss(self, ratios: list[Tensor]) -> Tensor:
        return adversarial_contrastive_loss(
            *ratios, base_weight=self.base_weight, num_noise=float(self.num_noise)
        )

    def _over_noise(self, base: Tensor, generator: Tensor) -> Tensor:
        """Mean under the noise of values at its two parts."""
        w = self.base_weight
        if w in (0.0, 1.0):
            return (base if w else generator).mean()
        return w * base.mean() + (1.0 - w) * generator.mean()

    def _accuracy(self, ratios: list[Tensor]) -> Tensor:
        data, base, generator = (r.detach() for r in ratios)
        right = (data > 0).to(data.dtype).mean()
        return 0.5 * (right + self._over_noise((base < 0).to(data.dtype), (generator < 0).to(data.dtype)))

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the energy's optimiser is to train: the energy's parameters, where it is a module, and log Z."""
        yield from super().parameters()
        if self.log_z is not None:
            yield self.log_z

    def state_dict(self) -> dict[str, Any]:
        """Seed, both iterations, log Z, generator and base noise."""
        state = super().state_dict()
        if self.base is not None:
            state["base"] = dict(self.base.state_dict())
        if self.log_z is not None:
            state["log_z"] = self.log_z.detach().clone()
        return state

    def _check_state(self, state: dict[str, Any]) -> None:
        super()._check_state(state)
        check_log_z(self.log_z, state)
        if self.base is not None:
            checks.entries(state, "base")
            require_fits(self.base, state["base"], "the base noise")

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        load_log_z(self.log_z, state)
        if self.base is not None:
            self.base.load_state_dict(state["base"])


class FlowContrastive(AdversarialContrastive):
    """min_theta max_phi E_data softplus(log nu - r) + nu E_{q_phi} softplus(r - log nu), r = log p_theta - log q_phi.

    Noise-contrastive estimation whose noise is a flow that is trained to be taken for the data. With nu = 1 the value of the
    game for the flow is 2 log 2 - 2 JS(p_data, q): at the energy's optimum the flow minimises the Jensen-Shannon divergence,
    and both players end at the density of the data, where L = 2 log 2.

    `objective(batch)` is L for the energy, `objective.generator_loss(batch)` is -L - likelihood_weight E_data log q for the
    flow, differentiated through its samples and its density. `flow`: a module of zuko (extra `flows`) or normflows, any with
    `rsample(n)` (or reparametrised `sample(n)`) and `log_prob(x)`, or `players.DiagonalGaussian`. `likelihood_weight`:
    maximum likelihood for the flow beside the game, which leads it to the data where the classifier's gradient has died.
    `log_z`: see `NCE`. metrics: see `AdversarialContrastive`; other arguments as `CountedObjective`.
    Raises TypeError for a generator whose density is not q itself.
    Source: Gao, Nijkamp, Kingma, Xu, Dai, Wu 2020; thesis (3.4); Grover, Dhar, Ermon 2018 (likelihood beside the game).
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        flow: Any,
        *,
        likelihood_weight: float = 0.0,
        num_noise: int = 1,
        log_z: float | None = None,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
    ) -> None:
        super().__init__(
            energy,
            flow,
            base_weight=0.0,
            num_noise=num_noise,
            log_z=log_z,
            seed=seed,
            chain_offset=chain_offset,
            check=check,
        )
        if not self.generator.exact:
            raise TypeError(
                f"flow: expected one with an exact log_prob, got {type(flow).__name__}, which knows the density of a draw alone; "
                "AdversarialContrastive takes it"
            )
        self.likelihood_weight = checks.number(likelihood_weight, "likelihood_weight", low=0.0)


def _share(base_weight: float) -> float:
    """A number in [0, 1]."""
    w = checks.number(base_weight, "base_weight", low=0.0)
    if w > 1.0:
        raise ValueError(f"base_weight must be in [0, 1], got {base_weight}")
    return w
