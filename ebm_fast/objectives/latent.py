"""Maximum likelihood of latent-variable models by Fisher's identity, and of energy-based priors on the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ebm_fast import engine
from ebm_fast.engine.run import STRATEGIES, check_alone, check_count
from ebm_fast.models.latent import JointEnergy
from ebm_fast.objectives.contrastive import Batch, _split, contrastive_divergence_loss
from ebm_fast.objectives.counted import CountedObjective
from ebm_fast.objectives.initial import Init, InitialStates
from ebm_fast.objectives.numerics import wide
from ebm_fast.ops import checks, fresh_seed


def latent_ebm_loss(
    e_posterior: Tensor,  # (n,)
    e_prior: Tensor,  # (m,)
    log_likelihood: Tensor,  # (n,)
) -> Tensor:  # ()
    """L = mean E(z+) - mean E(z-) - mean log p(x | z+), z+ ~ p(z | x), z- ~ p(z) ~ e^-E(z).

    With the samples held constant its gradient is that of the mean of -log p(x): Fisher's identity, and the prior's normaliser by
    its own samples. Raises ValueError unless all are vectors, n, m >= 1.
    Source: Pang, Han, Nijkamp, Zhu, Wu 2020; lecture notes on latent-variable models (StatML 2024), (20).
    """
    if log_likelihood.shape != e_posterior.shape:
        raise ValueError(
            f"log_likelihood: expected one number a posterior sample, {tuple(e_posterior.shape)}, "
            f"got {tuple(log_likelihood.shape)}"
        )
    return contrastive_divergence_loss(e_posterior, e_prior) - log_likelihood.mean()


class _LatentObjective(CountedObjective):
    """Chains of latents: where they start, which of the engine's steps they take."""

    _settings: ClassVar[tuple[str, ...]] = ("sampler", "num_chains", "latent_shape", "init")

    def __init__(
        self,
        energy: Callable[..., Tensor],
        sampler: Any,
        latent_shape: int | Sequence[int],
        *,
        num_chains: int,
        init: Init,
        seed: int | None,
        chain_offset: int,
        check: bool,
        strategy: str,
        backend: str | None,
    ) -> None:
        check_count(num_chains, "num_chains", 1)
        super().__init__(energy, num_chains, seed=seed, chain_offset=chain_offset, check=check)
        check_alone(sampler)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
        sizes = tuple(latent_shape) if isinstance(latent_shape, (tuple, list)) else (latent_shape,)
        if not sizes or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"latent_shape: expected ints of at least 1, got {latent_shape!r}")
        self.sampler, self.num_chains, self.latent_shape, self.init = sampler, num_chains, sizes, init
        self.strategy, self.backend = strategy, backend
        self._initial = InitialStates(init, sizes)

    def _chains(
        self, energy: Callable[..., Tensor], sampler: Any, num_steps: int, n: int, like: Tensor, condition: dict[str, Any], *,
        step: int, start: int, seed: int | None = None, chain_offset: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Ends (n, *latent) of n chains after the steps step ... step + num_steps - 1, and their mean gradient norms (n,).

        `start`: which draw of starting states; `like`: a tensor of the latents' dtype and device.
        """
        initial = self._initial
        if initial.device != like.device or initial.dtype != like.dtype:
            initial = InitialStates(self.init, self.latent_shape, device=like.device, dtype=like.dtype)
            self._initial = initial
        seed = self.seed if seed is None else seed
        offset = self.chain_offset * self.num_chains if chain_offset is None else chain_offset
        z = initial(n, seed, start, offset)
        strength = engine.run_(
            energy, sampler, z, num_steps, seed=seed, step=step, chain_offset=offset, condition=condition,
            strategy=self.strategy, backend=self.backend, grad_norm=True,
        )  # fmt: skip
        return z, strength

    def _rows(self, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        """The condition of the posterior chains: each datum num_chains times."""
        condition = {"x": x} if y is None else {"x": x, "y": y}
        if self.num_chains == 1:
            return condition
        return {name: value.repeat_interleave(self.num_chains, 0) for name, value in condition.items()}


class LatentMLE(_LatentObjective):
    """L = E_data E_{p(z|x)} E(z, x), E = -log p(x, z): its gradient is that of -log p(x), by Fisher's identity
    grad log p(x) = E_{p(z|x)} grad log p(x, z).

    `objective(batch)` returns (loss, metrics); batch is x (n, *event), or (x, y) for E(z, x, y). The posterior's samples are the
    ends of `num_chains` chains a datum, held constant; chains start from `init` and take `num_steps` steps of `sampler` on
    the energy z -> E(z, x=x). Parameters collect no gradient while sampling. Metrics: energy, grad_norm (of samplers that
    report it).

    Args:
        energy: E(z, x=...) -> (n,), differentiable in z; -log p(x, z) up to a constant that no parameter moves
            (`models.JointEnergy` of a normalised prior and a generator). For a prior with a normaliser see `LatentEBM`.
        sampler: of the posterior; Langevin for short runs, MALA or HMC where the bias of a step counts.
        latent_shape: of z, an int for vectors.
        num_steps: of a chain. In iteration t the chains use steps t K ... t K + K - 1 of one seed.
        num_chains: chains a datum; more of them lower the gradient's variance, not its bias.
        init: as of `ReplayBuffer`.
        seed, chain_offset, check, strategy, backend: as of `ContrastiveDivergence`.

    The value of the loss is no likelihood. Raises TypeError or ValueError naming the argument, FloatingPointError for a batch,
    latents or energies that are not finite.
    Source: Fisher's identity, in lecture notes on latent-variable models (StatML 2024), (14); Han, Lu, Zhu, Wu 2017; De Bortoli,
    Durmus, Pereyra, Vidal 2021 (SOUL).
    """

    _settings = ("num_steps",)

    def __init__(
        self,
        energy: Callable[..., Tensor],
        sampler: Any,
        latent_shape: int | Sequence[int],
        *,
        num_steps: int,
        num_chains: int = 1,
        init: Init = ("normal", 1.0),
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
        strategy: str = "auto",
        backend: str | None = None,
    ) -> None:
        super().__init__(
            energy, sampler, latent_shape, num_chains=num_chains, init=init, seed=seed, chain_offset=chain_offset, check=check,
            strategy=strategy, backend=backend,
        )  # fmt: skip
        self.num_steps = check_count(num_steps, "num_steps", 1)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = _split(batch)
        condition = self._rows(x, y)
        z, strength = self._chains(
            self.energy, self.sampler, self.num_steps, len(x) * self.num_chains, x, condition,
            step=self.iteration * self.num_steps, start=self.iteration,
        )  # fmt: skip
        energies = _vector(self.energy(z, **condition), len(z), "energy")
        self._require_finite(batch=x, latents=z, energy=energies)
        self.iteration += 1
        return energies.mean(), {"energy": energies.detach().mean(), **_norms(grad_norm=strength)}


class LatentEBM(_LatentObjective):
    """L = E_data E_{p(z|x)} [E(z) - log p(x|z)] - E_{p(z)} E(z): maximum likelihood of p(x) = int p(z) p(x|z) dz with an
    energy-based prior p(z) ~ e^-E(z), such as E = |z|^2/2 - U(z), p(z) ~ e^{U(z)} N(z; 0, I).

    Two short chains make the samples, which are held constant: one on the prior's energy, one on the posterior's,
    E(z) - log p(x|z). The gradient is that of -log p(x): the prior gets E_post grad E - E_prior grad E, the generator
    -E_post grad log p(x|z). `objective(batch)` returns (loss, metrics). Metrics: energy_posterior, energy_prior, gap (prior minus
    posterior), log_likelihood (mean log p(x | z+)), and grad_norm_posterior, grad_norm_prior of samplers that report them.

    Args:
        prior: energy (n, *latent) -> (n,), such as `models.LatentPrior`.
        generator: an object with `log_prob(x, z) -> (n,)`, such as `models.GaussianGenerator`.
        sampler: of both chains, or of the prior's alone where `posterior_sampler` is given.
        num_steps: of both chains, or (prior, posterior). Iteration t uses as many steps of one seed as both have together, the
            posterior's first, so that they share no noise.
        latent_shape: of z; None takes `prior.event_shape`.
        num_chains: chains a datum, of either kind.
        init: where chains start, as of `ReplayBuffer`; ("normal", 1.0) is the Gaussian part of the prior.
        seed, chain_offset, check, strategy, backend: as of `ContrastiveDivergence`.

    Raises TypeError or ValueError naming the argument, FloatingPointError for what is not finite.
    Source: Pang, Han, Nijkamp, Zhu, Wu 2020; lecture notes on latent-variable models (StatML 2024), (15)-(20).
    """

    _settings = ("prior_steps", "posterior_steps", "posterior_sampler")

    def __init__(
        self,
        prior: Callable[..., Tensor],
        generator: Any,
        sampler: Any,
        *,
        num_steps: int | tuple[int, int] = 20,
        posterior_sampler: Any = None,
        latent_shape: int | Sequence[int] | None = None,
        num_chains: int = 1,
        init: Init = ("normal", 1.0),
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
        strategy: str = "auto",
        backend: str | None = None,
    ) -> None:
        joint = JointEnergy(prior, generator)
        shape = getattr(prior, "event_shape", None) if latent_shape is None else latent_shape
        if shape is None:
            raise ValueError("latent_shape: expected the shape of a latent, because the prior has no event_shape; got None")
        super().__init__(
            joint, sampler, shape, num_chains=num_chains, init=init, seed=seed, chain_offset=chain_offset, check=check,
            strategy=strategy, backend=backend,
        )  # fmt: skip
        counts = num_steps if isinstance(num_steps, (tuple, list)) else (num_steps, num_steps)
        if len(counts) != 2:
            raise ValueError(f"num_steps: expected an int or (prior, posterior), got {num_steps!r}")
        self.prior_steps, self.posterior_steps = (check_count(count, "num_steps", 1) for count in counts)
        self.posterior_sampler = sampler if posterior_sampler is None else posterior_sampler
        check_alone(self.posterior_sampler, "posterior_sampler")
        self.prior, self.generator = prior, generator

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = _split(batch)
        if y is not None:
            raise ValueError("batch: expected x alone, because prior and generator take no labels; got (x, y)")
        n, condition, t = len(x) * self.num_chains, self._rows(x, None), self.iteration
        first = t * (self.posterior_steps + self.prior_steps)
        posterior, norms = self._chains(
            self.energy, self.posterior_sampler, self.posterior_steps, n, x, condition, step=first, start=2 * t
        )
        sampled, prior_norms = self._chains(
            self.prior, self.sampler, self.prior_steps, n, x, {}, step=first + self.posterior_steps, start=2 * t + 1
        )
        energies = _vector(self.prior(torch.cat([posterior, sampled])), 2 * n, "prior")
        e_posterior, e_prior = energies.split(n)
        likelihood = _vector(self.generator.log_prob(condition["x"], posterior), n, "generator")
        self._require_finite(
            batch=x, latents_posterior=posterior, latents_prior=sampled, energy_posterior=e_posterior, energy_prior=e_prior,
            log_likelihood=likelihood,
        )  # fmt: skip
        loss = latent_ebm_loss(e_posterior, e_prior, likelihood)
        above, below = e_posterior.detach().mean(), e_prior.detach().mean()
        self.iteration += 1
        return loss, {
            "energy_posterior": above,
            "energy_prior": below,
            "gap": below - above,
            "log_likelihood": likelihood.detach().mean(),
            **_norms(grad_norm_posterior=norms, grad_norm_prior=prior_norms),
        }

    def prior_parameters(self) -> Iterator[nn.Parameter]:
        """The prior's parameters, for an optimiser or learning rate of their own."""
        return self.prior.parameters() if isinstance(self.prior, nn.Module) else iter(())

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """The generator's parameters."""
        return self.generator.parameters() if isinstance(self.generator, nn.Module) else iter(())

    def sample(
        self, n: int, *, num_steps: int | None = None, seed: int | None = None, chain_offset: int = 0
    ) -> Tensor:  # (n, *event)
        """Means of p(x | z) at the ends of n chains on the prior.

        num_steps: None takes that of training. seed: None draws one from torch's generator. Row i is the same whatever n is.
        The generator must be callable, z -> mean of x. Raises TypeError or ValueError naming the argument.
        """
        check_count(n, "n", 1)
        steps = self.prior_steps if num_steps is None else check_count(num_steps, "num_steps", 1)
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        seed = fresh_seed() if seed is None else seed
        checks.counter(seed, 0, chain_offset, None, torch.empty(n, device="meta"))
        z, _ = self._chains(self.prior, self.sampler, steps, n, like, {}, step=0, start=0, seed=seed, chain_offset=chain_offset)
        with torch.no_grad():
            return self.generator(z)


def _vector(values: Any, n: int, name: str) -> Tensor:  # (n,)
    """One number a state, in float32 or wider."""
    if not isinstance(values, Tensor) or tuple(values.shape) != (n,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name}: expected one number a state, ({n},), got {got}")
    return wide(values)


def _norms(**strengths: Tensor | None) -> dict[str, Tensor]:
    return {name: norms.mean() for name, norms in strengths.items() if norms is not None}
