"""Noise from elsewhere: torch.distributions, flows of zuko and normflows, energies with exact draws, any sample and log_prob."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from ..ops.noise import bits_
from .base import NoiseModel


def derived_seed(seed: int, step: int, chain_offset: int = 0, *, purpose: str = "noise_model") -> int:
    """64 bits of the counter-based generator: a seed for draws that have no counter of their own."""
    words = torch.empty(1, 2, dtype=torch.int32, device="cpu")
    bits_(words, seed=seed, step=step, purpose=purpose, chain_offset=chain_offset)
    high, low = (word & 0xFFFFFFFF for word in words[0].tolist())
    return high << 32 | low


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """torch's generators, of the CPU and of the current GPU, start from `seed` inside, and are afterwards as they were."""
    if torch.get_default_device().type == "cuda":  # what is made inside would be the first to use it
        torch.cuda.init()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed reaches every GPU, those not put back too
        if devices:
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def no_autocast() -> Iterator[None]:
    """Draws and densities keep their digits under autocast: both are constants of the losses, and cheap beside an energy."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def one_number_a_state(log_p: Any, x: Tensor, expected: str) -> Tensor:  # (n,)
    """log_p itself; ValueError unless it is (n,) for states x # (n, *event)."""
    if not isinstance(log_p, Tensor) or tuple(log_p.shape) != (len(x),):
        got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
        raise ValueError(f"{expected} ({len(x)},), one number a state, for states {tuple(x.shape)}, got {got}")
    return log_p


class Foreign(NoiseModel):
    """p_n of somebody else's object: torch's `Distribution`, or anything with `sample(n)` and `log_prob(x)`.

    Draws are made with torch's generators seeded by (seed, step, chain_offset), so that a resumed run draws the same; here
    row i does depend on n. A distribution over single numbers with a batch shape counts as one over events of that shape. A
    module that returns a `Distribution` when called (zuko's flows) is asked for it each time; a pair from `sample(n)`
    (normflows') counts as (states, log densities), which are not evaluated again. Its gradients are left alone: draws and
    densities are constants.

    Raises:
        TypeError: no sample or no log_prob.
        ValueError: they return other shapes than (n, *event) and (n,).
    """

    def __init__(self, noise: Any) -> None:
        super().__init__()
        self._makes = isinstance(noise, nn.Module) and not hasattr(noise, "log_prob")
        if not self._makes:
            lacks = [name for name in ("sample", "log_prob") if not callable(getattr(noise, name, None))]
            if lacks or isinstance(noise, type):
                what = f"the class {noise.__name__}" if isinstance(noise, type) else type(noise).__name__
                raise TypeError(
                    "noise: expected an object with sample(n) and log_prob(x), the log of a normalised density; got "
                    + what + (f" without {' and '.join(lacks)}" if lacks else "")
                )  # fmt: skip
        self.noise = noise
        if self._makes:
            self._object()

    def _object(self) -> Any:
        noise = self.noise
        if self._makes:
            try:
                noise = noise()
            except TypeError as error:
                raise TypeError(
                    "noise: expected an object with sample(n) and log_prob(x), the log of a normalised density; got "
                    f"{type(self.noise).__name__} without log_prob, which cannot be called for a distribution either: {error}"
                ) from None
            if not isinstance(noise, Distribution):
                raise TypeError(
                    f"noise: {type(self.noise).__name__} has no log_prob, and returns {type(noise).__name__} when called, "
                    "no torch.distributions.Distribution"
                )
        if isinstance(noise, Distribution) and noise.batch_shape:
            return Independent(noise, len(noise.batch_shape))
        return noise

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        with no_autocast():
            return one_number_a_state(self._object().log_prob(x), x, "noise: expected log_prob to return")

    def sample(
        self, n: int, *, seed: int | None = None, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        return self._drawn(n, None if seed is None else derived_seed(seed, step, chain_offset))[0]

    def _drawn(self, n: int, seed: int | None) -> tuple[Tensor, Tensor | None]:
        """n states, and their log densities where these come along."""
        noise = self._object()
        shape = (n,) if isinstance(noise, Distribution) else n
        with torch.no_grad(), no_autocast(), nullcontext() if seed is None else torch_seeded(seed):
            drawn = noise.sample(shape)
        drawn, log_p = drawn if isinstance(drawn, tuple) and len(drawn) == 2 else (drawn, None)
        if not isinstance(drawn, Tensor) or drawn.ndim == 0 or len(drawn) != n:
            got = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
            raise ValueError(f"noise: expected sample({n}) to return states ({n}, *event), got {got}")
        return drawn, None if log_p is None else one_number_a_state(log_p, drawn, "noise: expected log densities")

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        self.draw_(out, seed=seed, step=step, chain_offset=chain_offset)
        return out

    def draw_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor | None:  # (n, *event) -> (n,)
        drawn, log_p = self._drawn(len(out), derived_seed(seed, step, chain_offset))
        if drawn.shape != out.shape or drawn.dtype != out.dtype or drawn.device != out.device:
            raise ValueError(
                f"noise: expected draws like the batch, {out.dtype} {tuple(out.shape)} on {out.device}, got {drawn.dtype} "
                f"{tuple(drawn.shape)} on {drawn.device}"
            )
        out.copy_(drawn)
        return log_p

    def extra_repr(self) -> str:
        return "" if isinstance(self.noise, nn.Module) else repr(self.noise)


class Exact(NoiseModel):
    """log p_n(x) = -E(x) - log Z of an energy with exact draws and a known log Z, such as `energies.Ring`.

    Raises:
        NotImplementedError: the energy has no exact sampler or no closed form of log Z.
    """

    def __init__(self, energy: Any) -> None:
        super().__init__()
        energy.sample(0, seed=0), energy.log_z  # each refuses where it is not known
        self.event_shape = tuple(energy.event_shape)
        self.energy = energy

    def _like(self) -> Tensor:
        return next(t for t in (*self.energy.buffers(), *self.energy.parameters()) if t.is_floating_point())

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        dtype = self._check(x, "x")
        return -self.energy(x) - self.energy.log_z.to(dtype)

    def sample_(
        self, out: Tensor, *, seed: int, step: int = 0, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        self._check(out, "out")
        return out.copy_(
            self.energy.sample(len(out), seed=derived_seed(seed, step), chain_offset=chain_offset)
        )


def as_noise(noise: Any) -> NoiseModel:
    """A noise model of ours as it is; an analytic energy as `Exact`; anything else as `Foreign`."""
    if isinstance(noise, NoiseModel):
        return noise
    # A look at the class: the property itself may refuse to answer.
    is_energy = (
        isinstance(noise, nn.Module) and hasattr(type(noise), "log_z") and not hasattr(noise, "log_prob")
    )
    return Exact(noise) if is_energy else Foreign(noise)
