"""The second player of a game with an energy: differentiable samples, with a density or without one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from ebm_fast import ops
from ebm_fast.energies.base import LOG_2PI, dimension, positive, tensors
from ebm_fast.noise.foreign import derived_seed, one_number_a_state, torch_seeded


class Draw(NamedTuple):
    """n samples of a player, and the normalised density that they are samples of, where there is one."""

    x: Tensor  # (n, *event), differentiable in the player's parameters
    log_prob: (
        Callable[[Tensor], Tensor] | None
    )  # (m, *event) -> (m,), differentiable in x and in the parameters
    log_q: Tensor | None = None  # (n,), log_prob(x), where drawing has told it

    def density(self) -> Tensor:  # (n,)
        """log q of its own samples, evaluated only where drawing has not told it; a draw without a density has none."""
        assert self.log_prob is not None
        return self.log_prob(self.x) if self.log_q is None else self.log_q


class Player(nn.Module):
    """q_phi(x): `draw(n, seed=, step=, chain_offset=)` makes reparametrised samples, a function of those numbers alone.

    `has_density`: whether a draw knows the density of its samples. `exact`: whether that is q_phi itself, the same in
    every draw; `Generator` knows the law of a draw given its latents, another one each time.
    """

    has_density = True
    exact = True

    def draw(self, n: int, *, seed: int, step: int = 0, chain_offset: int = 0) -> Draw:
        """n samples."""
        raise NotImplementedError

    def draw_with_density(self, n: int, *, seed: int, step: int = 0, chain_offset: int = 0) -> Draw:
        """The same samples, of which their own density alone will be asked for: with `log_q` where one pass gives both."""
        return self.draw(n, seed=seed, step=step, chain_offset=chain_offset)


class DiagonalGaussian(Player):
    """q(x) = N(x; mean, diag(std^2)), x = mean + std z; `mean` and `log_std` are trained.

    `mean` # (*event); `std`: one number or (*event), the standard deviations to start from. Row i of a draw is the same
    whatever n is. Raises TypeError or ValueError for shapes that do not fit, or a std that is not positive.
    """

    def __init__(self, mean: Any, std: Any = 1.0, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        made = tensors(dtype, mean=mean, std=std)
        if not made["mean"].ndim or not made["mean"].numel():
            raise ValueError(
                f"mean must have the event's shape, of one dimension or more, got {tuple(made['mean'].shape)}"
            )
        if made["std"].shape not in ((), made["mean"].shape):
            raise ValueError(
                f"std must be one number or have the mean's shape {tuple(made['mean'].shape)}, got {tuple(made['std'].shape)}"
            )
        positive(std=made["std"])
        self.mean = nn.Parameter(made["mean"])
        self.log_std = nn.Parameter(made["std"].log().expand(made["mean"].shape).clone())

    def draw(self, n: int, *, seed: int, step: int = 0, chain_offset: int = 0) -> Draw:
        z = _normal(self.mean, (n, *self.mean.shape), "generator_latent", seed, step, chain_offset)
        return Draw(self.mean + self.log_std.exp() * z, self.log_prob)

    def log_prob(self, x: Tensor) -> Tensor:  # (n, *event) -> (n,)
        """log q(x)."""
        z = (x - self.mean) * (-self.log_std).exp()
        return -0.5 * z.square().flatten(1).sum(1) - self.log_std.sum() - 0.5 * LOG_2PI * self.mean.numel()


class Generator(Player):
    """x = G(z) + std e, with z ~ N(0, I) and e ~ N(0, I): a network from latents to states, and noise on top.

    Args:
        net: G, (n, *latent_shape) -> (n, *event).
        latent_shape: of z; an int k means (k,).
        std: one number or (*event); None leaves the noise out, and with it every density.
        learn_std: whether log std is trained too.

    The density of a generator is an integral over z. But given the latents z_1 ... z_n of a draw, its rows are samples, one of
    each component, of the mixture 1/n sum_k N(G(z_k), diag(std^2)), and that density is known: `draw.log_prob` is it. A
    classifier of data against a draw has therefore no bias, whatever n is. The mixture's entropy lies below that of q, by
    no more than the information that x holds on z, and is at most the noise's plus log n. It costs n distances a state.

    Raises:
        TypeError, ValueError: net is no module; a shape or std that does not fit.
    Source: thesis, section 3.1 (noisy neural samplers).
    """

    exact = False
    log_std: Tensor
    _like: Tensor

    def __init__(
        self,
        net: nn.Module,
        latent_shape: int | tuple[int, ...],
        *,
        std: Any = None,
        learn_std: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"net: expected a torch module, latents -> states, got {type(net).__name__}")
        shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
        if not shape:
            raise ValueError("latent_shape: expected one dimension or more, got ()")
        self.net, self.latent_shape = net, tuple(dimension(size, "latent_shape") for size in shape)
        like = next((p for p in net.parameters() if p.is_floating_point()), None)
        self.register_buffer(
            "_like", torch.empty(0) if like is None else like.detach().new_empty(0), persistent=False
        )
        self.has_density = std is not None
        if std is None:
            if learn_std:
                raise ValueError("learn_std: there is no std to learn; give the one to start from")
            return
        made = tensors(self._like.dtype, std=std)["std"].to(self._like.device)
        positive(std=made)
        if learn_std:
            self.log_std = nn.Parameter(made.log())
        else:
            self.register_buffer("log_std", made.log())

    def draw(self, n: int, *, seed: int, step: int = 0, chain_offset: int = 0) -> Draw:
        z = _normal(self._like, (n, *self.latent_shape), "generator_latent", seed, step, chain_offset)
        centres = self.net(z)
        if not isinstance(centres, Tensor) or centres.ndim < 2 or len(centres) != n:
            got = tuple(centres.shape) if isinstance(centres, Tensor) else type(centres).__name__
            raise ValueError(f"net: expected states ({n}, *event) for latents {tuple(z.shape)}, got {got}")
        centres = centres.to(z.dtype)  # under autocast a network returns other states than it is given
        if not self.has_density:
            return Draw(centres, None)
        if self.log_std.shape not in ((), centres.shape[1:]):
            raise ValueError(
                f"std must be one number or have the event's shape {tuple(centres.shape[1:])}, got {tuple(self.log_std.shape)}"
            )
        e = _normal(centres, tuple(centres.shape), "generator_noise", seed, step, chain_offset)
        log_std = self.log_std.expand(centres.shape[1:])

        def log_prob(x: Tensor) -> Tensor:
            precision = (-log_std).exp()
            rows, means = (x * precision).flatten(1), (centres * precision).flatten(1)
            # From differences: the products of |a|^2 - 2 a.b + |b|^2 would cancel.
            squared = torch.cdist(rows, means, compute_mode="donot_use_mm_for_euclid_dist").square()
            constant = log_std.sum() + 0.5 * LOG_2PI * rows.shape[1] + math.log(n)
            return torch.logsumexp(-0.5 * squared, 1) - constant

        return Draw(centres + log_std.exp() * e, log_prob)

    def extra_repr(self) -> str:
        return f"latent_shape={self.latent_shape}"


class Flow(Player):
    """q of somebody else's flow: a module with `rsample(n)` or `sample(n)`, and `log_prob(x)`; or one that returns a
    reparametrised torch `Distribution` when called, as zuko's flows do.

    A pair from `sample(n)` (normflows') counts as (states, log densities); where the samples' own density is all that is
    wanted, `rsample_and_log_prob` (zuko's) gives both in one pass. Draws are made with torch's generators seeded by (seed,
    step, chain_offset), so that a resumed run draws the same; here row i does depend on n.

    Raises:
        TypeError: no module, no samples or no density.
        ValueError: they return other shapes than (n, *event) and (n,).
    """

    def __init__(self, flow: Any) -> None:
        super().__init__()
        if not isinstance(flow, nn.Module):
            raise TypeError(
                "generator: expected a torch module that makes samples (a flow, or one of ebm_fast.objectives.players), "
                f"whose parameters can be trained, got {type(flow).__name__}"
            )
        self.flow = flow
        self._samples = next(
            (name for name in ("rsample", "sample") if callable(getattr(flow, name, None))), None
        )
        self._makes = self._samples is None and not hasattr(flow, "log_prob")
        if self._makes:
            self._distribution()
        elif self._samples is None or not callable(getattr(flow, "log_prob", None)):
            lacks = "sample(n)" if self._samples is None else "log_prob(x), the log of a normalised density"
            raise TypeError(f"generator: {type(flow).__name__} lacks {lacks}")

    def _distribution(self) -> Distribution:
        try:
            made = self.flow()
        except TypeError as error:
            raise TypeError(
                f"generator: {type(self.flow).__name__} has no log_prob, and cannot be called for a distribution ({error}); "
                "wrap a network from latents to states in ebm_fast.objectives.players.Generator"
            ) from None
        if not isinstance(made, Distribution) or not made.has_rsample:
            got = repr(made) if isinstance(made, Distribution) else type(made).__name__
            raise TypeError(
                f"generator: expected a distribution with rsample from {type(self.flow).__name__}, got {got}"
            )
        return Independent(made, len(made.batch_shape)) if made.batch_shape else made

    def draw(self, n: int, *, seed: int, step: int = 0, chain_offset: int = 0) -> Draw:
        return self._draw(n, False, derived_seed(seed, step, chain_offset, purpose="generator_latent"))

    def draw_with_density(self, n: int, *, seed: int, step: int = 0, chain_offset: int = 0) -> Draw:
        return self._draw(n, True, derived_seed(seed, step, chain_offset, purpose="generator_latent"))

    def _draw(self, n: int, density: bool, seed: int) -> Draw:
        made: Any = self._distribution() if self._makes else self.flow
        both = getattr(made, "rsample_and_log_prob", None) if self._makes and density else None
        sample = both or (made.rsample if self._makes else getattr(made, str(self._samples)))
        with torch_seeded(seed):
            x = sample((n,) if self._makes else n)
        x, log_q = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
        if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != n:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"generator: expected {n} states ({n}, *event), got {got}")

        def log_prob(x: Tensor) -> Tensor:
            return one_number_a_state(made.log_prob(x), x, "generator: expected log_prob to return")

        return Draw(x, log_prob, log_q if log_q is None else one_number_a_state(log_q, x, "generator: expected log densities"))


def as_player(generator: Any) -> Player:
    """A player of ours as it is; anything else as `Flow`."""
    return generator if isinstance(generator, Player) else Flow(generator)


def _normal(
    like: Tensor, shape: tuple[int, ...], purpose: str, seed: int, step: int, chain_offset: int
) -> Tensor:
    out = torch.empty(shape, dtype=like.dtype, device=like.device)
    return ops.normal_(out, seed=seed, step=step, purpose=purpose, chain_offset=chain_offset)
