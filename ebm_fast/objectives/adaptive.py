"""Self-adapting noise: data against samples of a frozen copy of the model itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.engine.run import check_count
from ebm_fast.objectives.contrastive import Batch, Buffer, PersistentCD, bare
from ebm_fast.objectives.generators import Generator, Logistic, as_generator, bregman_loss
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.saved import require_fits
from ebm_fast.ops import checks


class AdaptiveBregman(PersistentCD):
    """L = E_m S0(g) - E_data S1(g), g = exp(E_m(x) - E_theta(x)): the noise m is a frozen copy of the model.

    The copy is made anew before iterations 0, interval, 2 interval, ...; its samples are the ends of chains that continue
    from the replay buffer, `num_steps` steps of `sampler` on the copy's energy. With interval=1 the gradient is S0'(1)
    (`generator.slope`) times that of `PersistentCD` on the same samples, and no copy is kept. In the first iteration after a
    refresh E_m is the energy just computed, so that nothing is evaluated twice.

    `generator`: see `BregmanRatioMatching`. `energy_l2`, `gradient_penalty`, `data_noise`, `seed`, `chain_offset`, `check`,
    `strategy`, `backend`, batches and metrics: see `ContrastiveDivergence`; metrics also hold `log_ratio_std`, the standard
    deviation of E_m - E_theta over data and samples: where it is of order 1 or more, the interval is too long for the steps
    taken.

    The copy is in evaluation mode, without gradients. The minimum for a fixed copy is p_theta Z_theta / Z_m = p_data: the energy
    needs a constant that it can shift (the bias of a last layer). Raises TypeError for an energy that is no module
    unless interval=1. Source: thesis (4.10), algorithm 3.1.
    """

    _settings = ("interval", "generator")

    def __init__(
        self,
        energy: Callable[..., Tensor],
        sampler: Any,
        buffer: Buffer,
        *,
        interval: int = 1,
        generator: str | Generator = "logistic",
        **options: Any,
    ) -> None:
        for name in ("kl_weight", "entropy_weight"):
            if options.get(name):
                raise ValueError(
                    f"{name}: the term belongs to contrastive divergence, not to self-adapting noise; leave it out"
                )
        super().__init__(energy, sampler, buffer, **options)
        check_count(interval, "interval", 1)
        if interval > 1 and not isinstance(energy, nn.Module):
            raise TypeError(
                f"energy: interval={interval} needs a torch module to copy, got {type(energy).__name__}"
            )
        self.interval, self.generator = interval, as_generator(generator)
        self.frozen: nn.Module | None = None

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self._is_fresh() and self.interval > 1:
            self.refresh()
        return super().__call__(batch)

    def refresh(self) -> None:
        """The frozen copy takes the model's parameters and buffers, as one copy of many tensors."""
        sources, targets = _tensors(bare(self.energy)), [] if self.frozen is None else _tensors(self.frozen)
        alike = len(sources) == len(targets) and all(
            s.shape == t.shape and s.dtype == t.dtype and s.device == t.device
            for s, t in zip(sources, targets, strict=True)
        )
        if self.frozen is None or not alike:  # the first time, and where the model has moved
            self.frozen = self._copy()
            return
        with torch.no_grad():
            torch._foreach_copy_(targets, sources)

    def _copy(self) -> nn.Module:
        return copy.deepcopy(bare(self.energy)).requires_grad_(False).eval()

    def _is_fresh(self) -> bool:
        """Whether the copy is the model itself in this iteration."""
        return self.iteration % self.interval == 0

    def _chain_energy(self) -> Callable[..., Tensor]:
        # One module for all iterations: a captured graph belongs to a module.
        return bare(self.energy) if self.frozen is None else self.frozen

    def _contrast(
        self,
        e_data: Tensor,  # (n,)
        e_model: Tensor,  # (n,)
        states: Tensor,  # (2n, *event), data first
        condition: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        e_theta = wide(torch.cat([e_data, e_model]))
        if self._is_fresh():
            e_frozen = e_theta.detach()
        else:
            assert self.frozen is not None
            with torch.no_grad():
                e_frozen = wide(self.frozen(states, **condition))
        r = e_frozen - e_theta
        self._require_finite(log_ratio=r)
        r_data, r_model = r.split(len(e_data))
        loss = bregman_loss(r_data, r_model, self.generator)
        if self.energy_l2:
            loss = loss + self.energy_l2 * (e_data.square().mean() + e_model.square().mean())
        return loss, {"log_ratio_std": r.detach().std(correction=0)}

    def state_dict(self) -> dict[str, Any]:
        """As the base class, and the frozen copy."""
        frozen = (
            None if self.frozen is None else {name: t.clone() for name, t in self.frozen.state_dict().items()}
        )
        return {**super().state_dict(), "frozen": frozen}

    def _check_state(self, state: dict[str, Any]) -> None:
        super()._check_state(state)
        checks.entries(state, "frozen")
        if state["frozen"] is not None:
            assert isinstance(self.energy, nn.Module)
            require_fits(bare(self.energy), state["frozen"], "the frozen copy")

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        if state["frozen"] is None:
            self.frozen = None
            return
        if self.frozen is None:
            self.frozen = self._copy()
        self.frozen.load_state_dict(state["frozen"])


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class AdaptiveNCE(AdaptiveBregman):
    """L = E_data softplus(-r) + E_m softplus(r), r = E_m(x) - E_theta(x): data against samples of a frozen copy of the model.

    Self-adapting noise-contrastive estimation (AdaNCE): `AdaptiveBregman` with the logistic generator, whose docstring says
    the rest. With interval=1 the gradient is half that of maximum likelihood by `PersistentCD`.
    Source: thesis, algorithm 3.1 and (3.5).
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        sampler: Any,
        buffer: Buffer,
        *,
        interval: int = 1,
        **options: Any,
    ) -> None:
        if "generator" in options:
            raise TypeError("generator: AdaptiveNCE is the logistic one; use AdaptiveBregman for others")
        super().__init__(energy, sampler, buffer, interval=interval, generator=Logistic(), **options)
