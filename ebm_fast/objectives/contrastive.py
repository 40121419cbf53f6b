"""Maximum likelihood by contrast with samples: CD-k, persistent CD, short-run MLE, and the terms of improved CD."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ebm_fast import engine, ops
from ebm_fast.engine.run import STRATEGIES, check_alone, check_count
from ebm_fast.objectives.finite import FiniteCheck
from ebm_fast.objectives.improved import differentiable_last_step, frozen_energy, nearest_neighbour_entropy
from ebm_fast.objectives.initial import Init, InitialStates
from ebm_fast.objectives.numerics import wide
from ebm_fast.objectives.penalty import squared_gradient_norm, valued_without_grad
from ebm_fast.objectives.saved import Saved
from ebm_fast.ops import checks
from ebm_fast.samplers import Langevin

Batch = Tensor | Sequence[Tensor]


class Buffer(Protocol):
    """What `PersistentCD` asks of a replay buffer; `training.ReplayBuffer` is one."""

    num_classes: int | None
    samples: Tensor  # (size, *event)

    def draw(self, n: int, y: Tensor | None = None, *, out: Tensor | None = None) -> Any: ...
    def write(self, slots: Tensor, x: Tensor) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def contrastive_divergence_loss(
    e_data: Tensor,  # (n,)
    e_model: Tensor,  # (m,)
    *,
    energy_l2: float = 0.0,
) -> Tensor:  # ()
    """L = mean E(x_data) - mean E(x_model) + energy_l2 (mean E(x_data)^2 + mean E(x_model)^2).

    With x_model held constant, the gradient of the first two terms is that of the mean negative log-likelihood, for
    p(x) ~ exp(-E(x)) and x_model drawn from it. Raises ValueError unless both are vectors of energies, n, m >= 1.
    Sources: Hinton 2002 (CD); Du and Mordatch 2019 (the square).
    """
    for name, energies in (("e_data", e_data), ("e_model", e_model)):
        if energies.dim() != 1 or len(energies) == 0:
            raise ValueError(
                f"{name}: expected one energy a state, (n,) with n >= 1, got {tuple(energies.shape)}"
            )
    e_data, e_model = wide(e_data), wide(e_model)
    loss = e_data.mean() - e_model.mean()
    if energy_l2:
        loss = loss + energy_l2 * (e_data.square().mean() + e_model.square().mean())
    return loss


def bare(energy: Any) -> Any:
    """The module within a DistributedDataParallel, whose own forward belongs to the loss alone; anything else as it is."""
    return energy.module if isinstance(energy, nn.parallel.DistributedDataParallel) else energy


class ContrastiveDivergence(Saved):
    """L = E_data E(x) - E_{p^K} E(x): chains start at the data and take K steps of the sampler (CD-K).

    `objective(batch)` returns (loss, metrics); batch is x (n, *event) or (x,), or (x, y) for an energy E(x, y=labels). The
    loss is an ordinary scalar; metrics are detached scalars on the device: energy_data, energy_samples, their gap
    (samples minus data), grad_norm (mean ||grad_x E|| along the chain, of samplers that use gradients), and the added
    terms where there are any.
    Parameters collect no gradient while sampling. In iteration t the chains use steps t K ... t K + K - 1 of one seed.

    `energy_l2`: weight of E^2 on data and samples. `gradient_penalty`: weight of ||grad_x E||^2 there, E differentiable
    twice (`squared_gradient_norm`). `data_noise`: standard deviation of Gaussian noise added to the data. `kl_weight`:
    weight of E_frozen(x_K(theta)), the KL term that CD drops, differentiated through the last Langevin step, E with the
    sampler's prior p |x|^2 / 2 if it has one;
    `entropy_weight`: weight of minus the mean log nearest-neighbour distance of the same samples (both: Du, Li,
    Tenenbaum, Mordatch 2021; they need a module as energy and Langevin without momentum or schedule).
    A non-finite batch, chain or energy raises FloatingPointError naming it; on CUDA this comes an iteration or so
    late, because nothing waits for the device, unless `check=True`. `finish_checks()` waits for what is under way.
    `seed`: 64 bits; None draws one from torch's generator. `chain_offset`: global index of the batch's first chain;
    chains of other indices have other noise. Source: Hinton 2002. Raises TypeError or ValueError naming the argument.
    """

    _settings: ClassVar[tuple[str, ...]] = (
        "sampler", "num_steps", "energy_l2", "gradient_penalty", "kl_weight", "entropy_weight", "data_noise",
    )  # fmt: skip

    def __init__(
        self,
        energy: Callable[..., Tensor],
        sampler: Any,
        *,
        num_steps: int,
        energy_l2: float = 0.0,
        gradient_penalty: float = 0.0,
        kl_weight: float = 0.0,
        entropy_weight: float = 0.0,
        data_noise: float = 0.0,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
        strategy: str = "auto",
        backend: str | None = None,
    ) -> None:
        if not callable(energy) or isinstance(energy, type):
            raise TypeError(f"energy: expected a callable (n, *event) -> (n,), got {energy!r}")
        check_count(num_steps, "num_steps", 1)
        seed = ops.fresh_seed() if seed is None else seed
        checks.counter(seed, 0, chain_offset, None, torch.empty(1, device="meta"))
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
        weights = {
            "energy_l2": energy_l2,
            "gradient_penalty": gradient_penalty,
            "kl_weight": kl_weight,
            "entropy_weight": entropy_weight,
            "data_noise": data_noise,
        }
        for name, weight in weights.items():
            checks.number(weight, name, low=0.0)
        self.improved = kl_weight > 0.0 or entropy_weight > 0.0
        if self.improved and not isinstance(energy, nn.Module):
            raise TypeError(
                f"energy: kl_weight and entropy_weight need a torch module, got {type(energy).__name__}"
            )
        plain = isinstance(sampler, Langevin) and sampler.momentum == 0.0 and not sampler.has_schedule()
        if self.improved and not plain:
            raise TypeError(
                f"sampler: kl_weight and entropy_weight need Langevin without momentum or schedule, got {sampler}"
            )
        check_alone(sampler)
        self.energy, self.sampler, self.num_steps = energy, sampler, num_steps
        self.energy_l2, self.gradient_penalty = energy_l2, gradient_penalty
        self.kl_weight, self.entropy_weight = kl_weight, entropy_weight
        self.data_noise, self.seed, self.chain_offset = data_noise, seed, chain_offset
        self.strategy, self.backend = strategy, backend
        self.iteration = 0
        self._require_finite = FiniteCheck(check)

    @valued_without_grad
    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        data, y = _split(batch)
        n = len(data)
        # One tensor for both halves, in which the chains run where they lie: one pass over it takes fewer, larger kernels.
        states = data.new_empty(2 * n, *data.shape[1:])
        data, start = self._noisy(states[:n], data), states[n:]
        condition = {} if y is None else {"y": y}
        self._start(start, data, y)
        # The last step that is differentiated keeps its starting state for the backward pass.
        samples, last, strength = self._sample(start.clone() if self.improved else start, condition)
        if self.improved:
            start.copy_(samples)
        both = {name: torch.cat([value, value]) for name, value in condition.items()}
        if self.gradient_penalty:
            states = states.detach().requires_grad_()
        energies = self.energy(states, **both)
        if tuple(energies.shape) != (2 * n,):
            raise ValueError(f"energy: expected one energy a state, ({2 * n},), got {tuple(energies.shape)}")
        e_data, e_model = wide(energies).split(n)
        self._require_finite(batch=data, samples=start, energy_data=e_data, energy_samples=e_model)
        self._keep(start)

        loss, added = self._contrast(e_data, e_model, states, both)
        e_data, e_model = e_data.detach().mean(), e_model.detach().mean()
        metrics = {
            "energy_data": e_data,
            "energy_samples": e_model,
            "gap": e_model - e_data,
            **added,
        }
        if strength is not None:
            metrics["grad_norm"] = strength.mean()
        if self.gradient_penalty:
            at_data, at_samples = squared_gradient_norm(energies, states).split(n)
            penalty = at_data.mean() + at_samples.mean()
            loss, metrics["gradient_penalty"] = loss + self.gradient_penalty * penalty, penalty.detach()
        if self.kl_weight:
            kl = frozen_energy(bare(self.energy), last, condition)
            if self.sampler.prior_precision:  # a part of the model's energy, as the chains see it
                kl = kl + 0.5 * self.sampler.prior_precision * wide(last).flatten(1).square().sum(1)
            kl = kl.mean()
            loss, metrics["kl"] = loss + self.kl_weight * kl, kl.detach()
        if self.entropy_weight:
            entropy = nearest_neighbour_entropy(last)
            loss, metrics["entropy"] = loss - self.entropy_weight * entropy, entropy.detach()
        self.iteration += 1
        return loss, metrics

    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser is to train: the parameters of the energy, where that is a module."""
        return self.energy.parameters() if isinstance(self.energy, nn.Module) else iter(())

    def _contrast(
        self,
        e_data: Tensor,  # (n,)
        e_model: Tensor,  # (n,)
        states: Tensor,  # (2n, *event), data first
        condition: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of energies of data and samples, and metrics of its own."""
        return contrastive_divergence_loss(e_data, e_model, energy_l2=self.energy_l2), {}

    def _chain_energy(self) -> Callable[..., Tensor]:
        """The energy that the chains run on."""
        return bare(self.energy)

    def _sample(self, x: Tensor, condition: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The ends of the chains, the same as a differentiable function of the parameters, gradient strengths if there are
        gradients."""
        first, count = self.iteration * self.num_steps, self.num_steps - self.improved
        strength: Tensor | None = torch.zeros(len(x), device=x.device)
        if count:
            strength = engine.run_(
                self._chain_energy(),
                self.sampler,
                x,
                num_steps=count,
                seed=self.seed,
                step=first,
                chain_offset=self.chain_offset,
                condition=condition,
                strategy=self.strategy,
                backend=self.backend,
                grad_norm=True,
            )
        if not self.improved:
            return x, x, strength
        last, gradient = differentiable_last_step(
            bare(self.energy), self.sampler, x, condition, self.seed, first + count, self.chain_offset
        )
        assert strength is not None  # Langevin has gradients
        strength = (strength * count + ops.event_norm(gradient)) / self.num_steps
        return last.detach(), last, strength

    def _noisy(self, out: Tensor, data: Tensor) -> Tensor:
        """The data, with their noise, in `out`."""
        if not self.data_noise:
            return out.copy_(data)
        counter: dict[str, Any] = {"seed": self.seed, "step": self.iteration, "chain_offset": self.chain_offset}
        return ops.perturb_(out, data, self.data_noise, **counter)

    def _start(self, out: Tensor, data: Tensor, y: Tensor | None) -> None:
        """Writes the starting states (n, *event)."""
        out.copy_(data)

    def _keep(self, samples: Tensor) -> None:
        """Called with the ends of the chains; on CUDA it is not known yet whether they are finite."""

    def finish_checks(self) -> None:
        """Wait for the finiteness checks still under way on CUDA; FloatingPointError where one fails."""
        self._require_finite.finish()


class PersistentCD(ContrastiveDivergence):
    """L = E_data E(x) - E_buffer E(x): chains continue from a replay buffer and are written back to their slots.

    `buffer` is a `training.ReplayBuffer` on the model's device; with labels in the batch, and a buffer with classes,
    chain j continues a chain of class y[j]. The buffer's own `chain_offset` governs its states, and it keeps the old
    state where a chain has ended in one that is not finite. Otherwise as `ContrastiveDivergence`.
    Sources: Tieleman 2008; Du and Mordatch 2019 (rejuvenation).
    """

    def __init__(self, energy: Callable[..., Tensor], sampler: Any, buffer: Buffer, **options: Any) -> None:
        super().__init__(energy, sampler, **options)
        if not all(hasattr(buffer, name) for name in ("samples", "num_classes", "draw", "write")) or isinstance(buffer, type):
            raise TypeError(f"buffer: expected a ReplayBuffer, or an object with its draw and write, got {buffer!r}")
        self.buffer = buffer

    def _start(self, out: Tensor, data: Tensor, y: Tensor | None) -> None:
        if y is None and self.buffer.num_classes is not None:
            raise ValueError("batch: expected (x, y), because the buffer has classes; got x alone")
        kept = self.buffer.samples
        if kept.shape[1:] != data.shape[1:] or kept.dtype != data.dtype or kept.device != data.device:
            raise ValueError(
                f"batch: expected states like the buffer's, {kept.dtype} {(len(data), *kept.shape[1:])} on "
                f"{kept.device}, got {data.dtype} {tuple(data.shape)} on {data.device}"
            )
        self._slots = self.buffer.draw(len(data), y, out=out).slots

    def _keep(self, samples: Tensor) -> None:
        self.buffer.write(self._slots, samples)

    def state_dict(self) -> dict[str, Any]:
        """As the base class, and the buffer."""
        return {**super().state_dict(), "buffer": self.buffer.state_dict()}

    def _check_state(self, state: dict[str, Any]) -> None:
        super()._check_state(state)
        checks.entries(state, "buffer")

    def _load(self, state: dict[str, Any]) -> None:
        self.buffer.load_state_dict(state["buffer"])
        super()._load(state)


class ShortRunMLE(ContrastiveDivergence):
    """L = E_data E(x) - E_{q^K} E(x): every chain starts from noise and takes K steps, far from convergence.

    `init`: as in `ReplayBuffer`; the learned object is the K-step sampler rather than a density.
    Otherwise as `ContrastiveDivergence`. Source: Nijkamp, Hill, Zhu, Wu 2019.
    """

    _settings = ("init",)

    def __init__(
        self, energy: Callable[..., Tensor], sampler: Any, init: Init = ("uniform", -1.0, 1.0), **options: Any
    ) -> None:
        super().__init__(energy, sampler, **options)
        self.init = init
        self._initial: InitialStates | None = None

    def _start(self, out: Tensor, data: Tensor, y: Tensor | None) -> None:
        initial = self._initial
        if initial is None or initial.event_shape != data.shape[1:] or initial.device != data.device:
            initial = InitialStates(self.init, data.shape[1:], device=data.device, dtype=data.dtype)
            self._initial = initial
        out.copy_(initial(len(data), self.seed, self.iteration, self.chain_offset))


def _split(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """States and labels of x, (x,) or (x, y), lists as well as tuples: what loaders of one or two tensors yield."""
    parts = batch if isinstance(batch, (list, tuple)) else (batch,)
    data, y = (*parts, None)[:2] if parts else (None, None)
    if not 1 <= len(parts) <= 2 or not isinstance(data, Tensor) or not isinstance(y, Tensor | None):
        kinds = ", ".join(type(part).__name__ for part in parts)
        got = f"a {type(batch).__name__} of {len(parts)} ({kinds})" if parts is batch else type(batch).__name__
        raise ValueError(f"batch: expected x or (x, y), tensors of states and labels, got {got}")
    if not data.is_floating_point() or data.dim() < 2 or len(data) == 0:
        raise ValueError(
            "batch: expected floating-point states (n, *event) with n >= 1, alone or with labels, got "
            f"{data.dtype} {tuple(data.shape)}"
        )
    if y is not None and (y.dim() == 0 or len(y) != len(data)):
        got = "a single number" if y.dim() == 0 else f"{len(y)}"
        raise ValueError(f"batch: expected a label for each of {len(data)} states, got {got}")
    return data.detach().contiguous(), y
