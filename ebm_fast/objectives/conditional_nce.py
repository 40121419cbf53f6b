"""Conditional noise-contrastive estimation: each datum against perturbed copies of itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_fast import ops
from ebm_fast.energies.base import positive, tensors
from ebm_fast.objectives.contrastive import Batch, _split
from ebm_fast.objectives.counted import CountedObjective
from ebm_fast.objectives.numerics import softplus, wide


def conditional_nce_loss(
    e_data: Tensor,  # (n,)
    e_noise: Tensor,  # (n, k)
    log_kernel_ratio: Tensor | None = None,  # (n, k)
) -> Tensor:  # ()
    """L = mean softplus(-G), G = E(y) - E(x) + log p_n(y|x) - log p_n(x|y): which of x and y is the datum; log Z cancels.

    `log_kernel_ratio` is the difference of the kernel's two terms, None for a symmetric kernel. Half of Ceylan and Gutmann's
    loss. Raises ValueError for other shapes. Source: Ceylan and Gutmann 2018; thesis (3.2), (2.12).
    """
    if (
        e_data.dim() != 1
        or len(e_data) == 0
        or e_noise.dim() != 2
        or e_noise.shape[0] != len(e_data)
        or not e_noise.numel()
    ):
        raise ValueError(
            "e_data, e_noise: expected (n,) and (n, k) energies, n, k >= 1, got "
            f"{tuple(e_data.shape)} and {tuple(e_noise.shape)}"
        )
    gap = wide(e_noise) - wide(e_data).unsqueeze(1)
    if log_kernel_ratio is not None:
        if log_kernel_ratio.shape != gap.shape:
            raise ValueError(
                f"log_kernel_ratio: expected {tuple(gap.shape)} as e_noise, got {tuple(log_kernel_ratio.shape)}"
            )
        gap = gap + log_kernel_ratio
    return softplus(-gap).mean()


class ConditionalNCE(CountedObjective):
    """L = E softplus(E(x) - E(y)), y = x + std z, z ~ N(0, I): data against their own perturbations; log Z cancels.

    `objective(batch)` returns (loss, metrics); batch is x (n, *event), or (x, y) for an energy E(x, y=labels). `std`: one
    number, or (*event) for one a feature. `num_noise`: perturbations a datum. As std -> 0, (L - log 2) 4 / std^2 tends to the
    implicit score-matching objective E [|grad E|^2 / 2 - laplace E]; the signal drowns in noise when std is far below the
    data's scale, and the task is trivial when it is far above. metrics: energies, `accuracy` (how often E(x) < E(y)).
    Learns the density up to its constant. Other arguments as `CountedObjective`.
    Source: Ceylan and Gutmann 2018; thesis (3.2).
    """

    _settings = ("std",)

    def __init__(
        self,
        energy: Callable[..., Tensor],
        std: float | Tensor,
        *,
        num_noise: int = 1,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
    ) -> None:
        super().__init__(energy, num_noise, seed=seed, chain_offset=chain_offset, check=check)
        self.std = tensors(None, std=std)["std"]
        positive(std=self.std)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        data, y = _split(batch)
        n, k = len(data), self.num_noise
        if self.std.shape not in ((), data.shape[1:]):
            raise ValueError(
                f"std: expected one number or the events' shape {tuple(data.shape[1:])}, got {tuple(self.std.shape)}"
            )
        arithmetic = torch.float64 if data.dtype == torch.float64 else torch.float32
        if self.std.dtype != arithmetic or self.std.device != data.device:
            self.std = self.std.to(data.device, arithmetic)
        states = data.new_empty(n * (1 + k), *data.shape[1:])
        states[:n] = data
        ops.perturb_(
            states[n:],
            data,
            1.0 if self.std.dim() else self.std,
            scale=self.std.contiguous() if self.std.dim() else None,
            seed=self.seed,
            step=self.iteration,
            chain_offset=self.chain_offset * k,
        )
        labels = None if y is None else torch.cat([y, y.repeat_interleave(k, 0)])
        e_data, e_noise = self._energies(states, labels, [n, n * k])
        self._require_finite(batch=data, energy_data=e_data, energy_noise=e_noise)
        e_noise = e_noise.view(n, k)
        loss = conditional_nce_loss(e_data, e_noise)
        right = e_data.detach().unsqueeze(1) < e_noise.detach()
        self.iteration += 1
        return loss, {
            "energy_data": e_data.detach().mean(),
            "energy_noise": e_noise.detach().mean(),
            "accuracy": right.to(loss.dtype).mean(),
        }
