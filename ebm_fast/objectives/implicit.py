"""Implicit encoders: the gradient of an entropy without a density, by a learned score; the VAE that needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast import ops
from ebm_fast.engine.run import check_count
from ebm_fast.models.latent import LOG_2PI
from ebm_fast.objectives.contrastive import Batch, _split
from ebm_fast.objectives.counted import CountedObjective
from ebm_fast.objectives.denoising import denoising_score_matching_loss
from ebm_fast.objectives.improved import frozen_energy
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.saved import require_fits
from ebm_fast.objectives.score_matching import implicit_score_matching_loss
from ebm_fast.objectives.scores import Model, ScoreFunction, inner
from ebm_fast.objectives.sliced import draw_projections, sliced_score_matching_loss
from ebm_fast.ops import checks

METHODS = ("sliced", "implicit", "denoising")
SCORE_TURN = 1 << 55  # added to the steps of the score's turns, half of the range of a counter's step


def entropy_surrogate(
    z: Tensor,  # (n, *latent)
    score: Tensor,  # (n, *latent)
) -> Tensor:  # ()
    """S = -mean_i <s(z_i), z_i>, s a constant: grad S = -E[s(z) . dz/dphi] = grad H(q), for z = g_phi(eps), s = grad log q.

    The entropy's gradient without its density. The value is not the entropy: it is the number of elements of z where s is the
    exact score of q, whatever q is (Stein's identity). No gradient flows into the score.
    Raises ValueError for shapes that differ. Source: Li and Turner 2018; Song, Garg, Shi, Ermon 2019.
    """
    if score.shape != z.shape or z.dim() < 2 or len(z) == 0:
        raise ValueError(
            f"z, score: expected one shape (n, *latent) with n >= 1, got {tuple(z.shape)} and {tuple(score.shape)}"
        )
    return -inner(score.detach()[None], z[None]).mean()


class ImplicitVAE(CountedObjective):
    """L = -E_data E_eps [log p(x|z) + log p(z)] - S, z = g(x, eps): minus the evidence lower bound, its entropy term H(q(z|x))
    replaced by the surrogate S = -<s(z, x), z> of the same gradient, s a learned score of q(z|x).

    Two players. `objective(batch)` is the loss of encoder and decoder (`parameters()`); `objective.score_loss(batch)` that of
    the score (`score_parameters()`): score matching on pairs (x, z) that the encoder makes. Neither has a gradient in the
    other's parameters. Call the score's once or a few times for each call of the first: a score that lags behind q is a wrong
    gradient. Each counts its own iterations, and no two calls share random numbers.

    Args:
        encoder: g(x, eps) -> z, (n, *event), (n, *noise) -> (n, *latent), such as `models.ImplicitEncoder`.
        decoder: an object with `log_prob(x, z) -> (n,)`, such as `models.GaussianGenerator`.
        score: s(z, x=x) -> (n, *latent), such as `models.ConditionalScore`, or an energy E(z, x=x) -> (n,) of score -grad E.
        noise_shape: of eps ~ N(0, I), an int for vectors.
        prior: energy E(z) -> (n,) of p(z) ~ e^-E, fixed here (its parameters get no gradient); None is N(0, I).
        num_samples: latents a datum.
        entropy_weight: of S; 1 is the bound, 0 lets the encoder collapse to a point.
        method: of the score's loss: "sliced" (variance-reduced, `num_projections` directions), "implicit" (exact trace, for few
            latents) or "denoising" (with `sigma`: the score of q blurred by it).
        seed, chain_offset, check: as of `ContrastiveDivergence`.

    Metrics: log_likelihood, log_prior, stein (S by the number of elements of z: 1 for an exact score), score_norm; of the score's
    loss: score_matching. Raises TypeError or ValueError naming the argument, FloatingPointError for what is not finite.
    Source: Song, Garg, Shi, Ermon 2019 (implicit VAE); lecture on deep generative modelling (Crete, HY-673), lecture 12.
    """

    _settings = ("noise_shape", "num_samples", "entropy_weight", "method", "num_projections", "sigma")

    def __init__(
        self,
        encoder: Callable[..., Tensor],
        decoder: Any,
        score: Model,
        noise_shape: int | Sequence[int],
        *,
        prior: Callable[..., Tensor] | None = None,
        num_samples: int = 1,
        entropy_weight: float = 1.0,
        method: str = "sliced",
        num_projections: int = 1,
        sigma: float | None = None,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
    ) -> None:
        if not callable(encoder) or isinstance(encoder, type):
            raise TypeError(f"encoder: expected a callable (x, eps) -> z, got {encoder!r}")
        if not callable(getattr(decoder, "log_prob", None)) or isinstance(decoder, type):
            raise TypeError(f"decoder: expected an object with log_prob(x, z) -> (n,), got {decoder!r}")
        if not callable(score) or isinstance(score, type):
            raise TypeError(f"score: expected a score network (z, x=x) -> (n, *latent) or an energy, got {score!r}")
        if prior is not None and (not callable(prior) or isinstance(prior, type)):
            raise TypeError(f"prior: expected an energy (n, *latent) -> (n,) or None, got {prior!r}")
        sizes = (noise_shape,) if isinstance(noise_shape, int) else tuple(noise_shape)
        if not sizes or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"noise_shape: expected ints of at least 1, got {noise_shape!r}")
        check_count(num_samples, "num_samples", 1)
        check_count(num_projections, "num_projections", 1)
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if (sigma is not None) != (method == "denoising"):
            raise ValueError(f"sigma: belongs to method='denoising', and is needed there; got {sigma} for method={method!r}")
        if sigma is not None and not checks.number(sigma, "sigma", low=0.0) > 0.0:
            raise ValueError(f"sigma must be above 0, got {sigma}")
        super().__init__(encoder, num_samples, seed=seed, chain_offset=chain_offset, check=check)
        self.encoder, self.decoder, self.score, self.prior = encoder, decoder, ScoreFunction(score), prior
        self.noise_shape, self.num_samples = sizes, num_samples
        self.entropy_weight = checks.number(entropy_weight, "entropy_weight", low=0.0)
        self.method, self.num_projections, self.sigma = method, num_projections, sigma
        self.score_iteration = 0

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = self._data(batch)
        rows, z = self._encode(x, self.iteration)
        likelihood = self._vector(self.decoder.log_prob(rows, z), z, "decoder")
        log_prior = self._log_prior(z)
        with torch.no_grad():
            s = self.score(z.detach(), {"x": rows})
        if s.shape != z.shape:
            raise ValueError(f"score: expected scores {tuple(z.shape)} of z, got {tuple(s.shape)}")
        surrogate = entropy_surrogate(z, s)
        self._require_finite(batch=x, latents=z, log_likelihood=likelihood, log_prior=log_prior, score=s)
        loss = -(likelihood + log_prior).mean() - self.entropy_weight * surrogate
        self.iteration += 1
        return loss, {
            "log_likelihood": likelihood.detach().mean(),
            "log_prior": log_prior.detach().mean(),
            "stein": surrogate.detach() / z[0].numel(),
            "score_norm": torch.linalg.vector_norm(wide(s).flatten(1), dim=1).mean(),
        }

    def score_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Score matching of s(z, x) to q(z | x), on latents that the encoder makes of the batch; and metrics."""
        x = self._data(batch)
        step = SCORE_TURN + self.score_iteration
        with torch.no_grad():
            rows, z = self._encode(x, step)
        condition = {"x": rows}
        counter: dict[str, Any] = {
            "seed": self.seed, "step": step, "chain_offset": self.chain_offset * self.num_samples,
        }  # fmt: skip
        model = self.score.model
        if self.method == "implicit":
            loss = implicit_score_matching_loss(model, z, condition)
        elif self.method == "denoising":
            assert self.sigma is not None
            noise = ops.normal_(torch.empty_like(z), purpose="data_noise", **counter)
            loss = denoising_score_matching_loss(model, z, noise, self.sigma, condition)
        else:
            v = draw_projections(z, self.num_projections, "rademacher", purpose="projection", **counter)
            loss = sliced_score_matching_loss(model, z, v, condition, variance_reduced=True)
        self._require_finite(batch=x, latents=z, score_matching=loss.detach())
        self.score_iteration += 1
        return loss, {"score_matching": loss.detach()}

    def _data(self, batch: Batch) -> Tensor:
        x, y = _split(batch)
        if y is not None:
            raise ValueError("batch: expected x alone, because encoder and decoder take no labels; got (x, y)")
        return x

    def _encode(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Each datum num_samples times, and a latent for each."""
        m = self.num_samples
        rows = x if m == 1 else x.repeat_interleave(m, 0)
        noise = torch.empty(len(rows), *self.noise_shape, dtype=x.dtype, device=x.device)
        ops.normal_(noise, seed=self.seed, step=step, purpose="encoder_noise", chain_offset=self.chain_offset * m)
        z = self.encoder(rows, noise)
        if not isinstance(z, Tensor) or z.dim() < 2 or len(z) != len(rows):
            got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"encoder: expected latents ({len(rows)}, *latent), got {got}")
        return rows, z if torch.is_grad_enabled() else z.contiguous()

    def _log_prior(self, z: Tensor) -> Tensor:  # (n,)
        if self.prior is None:
            return -0.5 * (wide(z).flatten(1).square().sum(1) + z[0].numel() * LOG_2PI)
        frozen = isinstance(self.prior, nn.Module)
        return -self._vector(frozen_energy(self.prior, z, {}) if frozen else self.prior(z), z, "prior")

    @staticmethod
    def _vector(values: Any, z: Tensor, name: str) -> Tensor:  # (n,)
        if not isinstance(values, Tensor) or values.shape != z.shape[:1]:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name}: expected one number a latent, ({len(z)},), got {got}")
        return wide(values)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the first optimiser is to train: encoder and decoder, where they are modules."""
        seen: set[int] = set()
        for part in (self.encoder, self.decoder):
            for p in part.parameters() if isinstance(part, nn.Module) else ():
                if id(p) not in seen:
                    seen.add(id(p))
                    yield p

    def score_parameters(self) -> Iterator[nn.Parameter]:
        """What the score's optimiser is to train."""
        return self.score.model.parameters() if isinstance(self.score.model, nn.Module) else iter(())

    def state_dict(self) -> dict[str, Any]:
        """Seed, both iterations, and the score network."""
        model = self.score.model
        score = {k: t.detach().clone() for k, t in model.state_dict().items()} if isinstance(model, nn.Module) else {}
        return {**super().state_dict(), "score_iteration": self.score_iteration, "score": score}

    def _check_state(self, state: dict[str, Any]) -> None:
        super()._check_state(state)
        checks.entries(state, "score_iteration", "score")
        if isinstance(self.score.model, nn.Module):
            require_fits(self.score.model, state["score"], "the score network")

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.score_iteration = int(state["score_iteration"])
        if isinstance(self.score.model, nn.Module):
            self.score.model.load_state_dict(state["score"])
