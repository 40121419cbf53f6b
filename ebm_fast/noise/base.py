"""What the noise models share: counter-based draws, shapes, checks of the data that they are fitted to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..energies.base import dimension
from ..ops import checks
from ..ops.noise import bits_, fresh_seed


class NoiseModel(nn.Module):
    """p_n(x), normalised: `log_prob(x)` and draws that are a function of (seed, step, chain_offset + row) alone.

    `sample_(out, seed=, step=, chain_offset=)` fills out # (n, *event); `sample(n)` makes a new tensor in the model's own
    dtype. Parameters are buffers: `.to(device)`, `.double()` and `state_dict()` work as for any module. log_prob is computed
    in the wider of the dtypes of x, of the buffers, and float32.

    Raises:
        ValueError: x or out is not of the event's shape, or lies on another device.
    """

    event_shape: tuple[int, ...]

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        """log p_n(x)."""
        raise NotImplementedError

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        """Fill `out` with draws; row i is the same whatever n is. Returns it."""
        raise NotImplementedError

    def draw_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor | None:  # (n, *event) -> (n,)
        """Fill `out` as `sample_` does; returns log p_n of the draws where drawing tells it, None where it does not."""
        self.sample_(out, seed=seed, step=step, chain_offset=chain_offset)
        return None

    def sample(
        self, n: int, *, seed: int | None = None, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        """n draws; `seed=None` draws a seed from torch's generator."""
        like = self._like()
        out = torch.empty(dimension(n, "n", low=0), *self.event_shape, dtype=like.dtype, device=like.device)
        seed = fresh_seed() if seed is None else seed
        checks.counter(seed, step, chain_offset, None, out)
        return self.sample_(out, seed=seed, step=step, chain_offset=chain_offset)

    def forward(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        """log p_n(x)."""
        return self.log_prob(x)

    def _like(self) -> Tensor:
        """A buffer, for its dtype and device."""
        return next(self.buffers())

    def _check(self, x: Tensor, name: str) -> torch.dtype:
        """The dtype of the arithmetic on x."""
        like = self._like()
        if (
            not isinstance(x, Tensor)
            or not x.is_floating_point()
            or tuple(x.shape[1:]) != self.event_shape
            or x.ndim == 0
        ):
            wanted = ", ".join(("n", *map(str, self.event_shape)))
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"{name}: expected floating-point states ({wanted}) of this {type(self).__name__} noise, got {got}"
            )
        if x.device != like.device:
            raise ValueError(f"{name}: expected states on {like.device}, as the noise model is, got {x.device}; "
                             "move one with .to(device)")  # fmt: skip
        return torch.promote_types(torch.promote_types(x.dtype, like.dtype), torch.float32)

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"


def choice_words(n: int, device: torch.device, *, seed: int, step: int, chain_offset: int) -> Tensor:  # (n,)
    """Uniform integers 0 ... 2^32 - 1, int64, for the choice of a component."""
    words = torch.empty(n, 1, dtype=torch.int32, device=device)
    bits_(words, seed=seed, step=step, purpose="noise_choice", chain_offset=chain_offset)
    return words.squeeze(1).long() & 0xFFFFFFFF


def fitting_data(data: Tensor, least: int = 2) -> Tensor:  # (n, *event)
    """Data to fit to, detached; ValueError unless they are `least` or more finite floating-point states."""
    if not isinstance(data, Tensor) or not data.is_floating_point() or data.ndim < 2 or not data[:1].numel():
        got = f"{data.dtype} {tuple(data.shape)}" if isinstance(data, Tensor) else type(data).__name__
        raise ValueError(f"data: expected floating-point states (n, *event) with n >= 1, got {got}")
    if len(data) < least:
        raise ValueError(f"data: expected at least {least} states to fit to, got {len(data)}")
    if not bool(data.isfinite().all()):
        raise ValueError("data: expected finite numbers, got NaN or infinity")
    return data.detach()


def floored(spread: Tensor, floor: float | None, what: str) -> Tensor:  # (*event)
    """max(spread, floor); without a floor, ValueError naming the features that do not vary."""
    if floor is not None:
        return spread.clamp_min(checks.number(floor, "floor", low=math.ulp(0.0)))
    still = (spread <= 0.0).flatten().nonzero().flatten().tolist()
    if still:
        some = ", ".join(map(str, still[:8])) + (", ..." if len(still) > 8 else "")
        raise ValueError(
            f"data: {len(still)} of {spread.numel()} features have {what} 0 (flat index {some}), where no density fits; "
            f"drop them, add noise to the data, or give floor= (the least {what})"
        )
    return spread
