"""torchebm's samplers by name, constructor and `sample()`: `from ebm_fast.compat.torchebm import LangevinDynamics`.

torchebm itself is not needed. Names, defaults and shapes are those of torchebm 0.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import ChainState, sample
from ..engine.run import check_count
from ..ops import checks, fresh_seed, normal_
from ..samplers import HMC, Langevin

Energy = Callable[..., Tensor]
_BLOCK = 1 << 24  # numbers that are recorded at a time where only their statistics are kept


class OwnGradient:
    """An energy whose gradient is the model's own `gradient(x[, model_kwargs=])`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Tensor, **condition: Any) -> Tensor:  # (n, *event) -> (n,)
        return self.model(x, **condition)

    def grad(self, x: Tensor, **condition: Any) -> Tensor:  # (n, *event) -> (n, *event)
        return self.model.gradient(x, model_kwargs=condition) if condition else self.model.gradient(x)

    def energy_and_grad(self, x: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        return self(x, **condition), self.grad(x, **condition)


def energy_of(model: Any) -> Energy:
    """The model itself where autograd gives its gradient (or it is an energy of ours), else one with its own `gradient`."""
    if not callable(model):
        raise TypeError(f"model must be callable, (n, *event) -> (n,), got {type(model).__name__}")
    own = getattr(type(model), "gradient", None)
    by_autograd = own is None or (own.__module__.startswith("torchebm.") and own.__qualname__ == "BaseModel.gradient")
    if hasattr(model, "energy_and_grad") or (by_autograd and not getattr(model, "force_fp32_gradient", False)):
        return model
    return OwnGradient(model)


class _Sampler:
    """Model, device and dtype: those of the model's parameters where it has some, as in torchebm."""

    diagnostics: tuple[str, ...] = ("mean", "var", "energy")

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device | str | None) -> None:
        self.model, self.energy = model, energy_of(model)
        first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        self.dtype = dtype if first is None else first.dtype
        self.device = torch.device(device or "cpu") if first is None else first.device
        self.schedulers: dict[str, Any] = {}

    def _parameter(self, name: str, value: Any) -> None:
        """A positive number, or a scheduler: anything with `get_value`, `step` and `reset`, such as torchebm's."""
        if not all(callable(getattr(value, method, None)) for method in ("get_value", "step", "reset")):
            if not checks.number(value, name) > 0:
                raise ValueError(f"{name} must be positive, got {value}")
            value = float(value)
        self.schedulers[name] = value

    def _values(self, name: str, n_steps: int) -> list[float]:
        """Of each of the next steps; a scheduler is moved past them."""
        source = self.schedulers[name]
        if isinstance(source, float):
            return [source] * n_steps
        found = []
        for _ in range(n_steps):
            found.append(float(source.get_value()))
            source.step()
        return found

    def _kernel(self, n_steps: int, event: torch.Size) -> Any:
        """Our sampler for the next n_steps steps."""
        raise NotImplementedError

    def _start(self, x: Tensor | None, dim: Any, n_samples: int, seed: int) -> Tensor:
        if x is not None:
            if not isinstance(x, Tensor):
                raise TypeError(f"x must be a tensor (n, *event), got {type(x).__name__}")
            if x.ndim < 2:
                raise ValueError(f"x must have shape (n, *event), such as (n, d), got {tuple(x.shape)}")
            return x.to(self.device, self.dtype)
        if dim is None:
            raise ValueError("dim must be given, an int or a shape, where x is None")
        shape = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
        if not shape or any(type(size) is not int or size < 1 for size in shape):
            raise ValueError(f"dim must be an int of at least 1 or a shape of such, got {dim!r}")
        return normal_(torch.empty(n_samples, *shape, dtype=self.dtype, device=self.device), seed=seed, purpose="init")

    @torch.no_grad()
    def sample(
        self,
        x: Tensor | None = None,  # (n, *event)
        dim: int | tuple[int, ...] | None = None,
        n_steps: int = 100,
        n_samples: int = 1,
        thin: int = 1,
        return_trajectory: bool = False,
        return_diagnostics: bool = False,
        reset_schedulers: bool = True,
        *,
        y: Tensor | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The state after n_steps steps (n, *event), or with `return_trajectory` every thin-th one (n, n_steps // thin, *event).

        Args:
            x: initial state, not changed; None draws n_samples of N(0, I) of shape `dim`.
            return_diagnostics: also return a dict of "mean", "var" (n_steps // thin, *event) over the chains, "energy" and, of
                HMC, "acceptance_rate" (n_steps // thin,).
            reset_schedulers: begin every scheduler anew; with False they go on from call to call.
            y, model_kwargs: conditions, handed to the model by name.
            generator: torch's generator that the run's one seed is drawn from; the global one by default.

        Raises:
            TypeError, ValueError: a bad argument, or a model of the wrong shape.
        """
        n_steps, thin = check_count(n_steps, "n_steps"), check_count(thin, "thin", 1)
        n_samples = check_count(n_samples, "n_samples", 1)
        if y is not None:
            if model_kwargs and "y" in model_kwargs:
                raise ValueError("y was given twice, as y= and in model_kwargs")
            model_kwargs = {**(model_kwargs or {}), "y": y}
        condition = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in (model_kwargs or {}).items()}
        if reset_schedulers:
            for scheduler in self.schedulers.values():
                scheduler.reset() if not isinstance(scheduler, float) else None
        seed = fresh_seed(generator)
        x = self._start(x, dim, n_samples, seed)
        kernel = self._kernel(n_steps, x.shape[1:])

        state: ChainState | None = None

        def go(steps: int, **recorded: Any) -> Any:
            nonlocal state
            start: dict[str, Any] = {"x0": x, "seed": seed} if state is None else {"resume": state}
            run = sample(self.energy, kernel, num_steps=steps, condition=condition, on_divergence="ignore", progress=False,
                         **start, **recorded)  # fmt: skip
            state = run.state
            return run

        rows = n_steps // thin
        n, event = x.shape[0], x.shape[1:]
        trajectory = x.new_empty(n, rows, *event) if return_trajectory else None
        shapes = {"mean": (rows, *event), "var": (rows, *event)}
        told = {name: x.new_empty(shapes.get(name, (rows,))) for name in self.diagnostics} if return_diagnostics else {}
        # Whether a proposal was accepted shows in the state before it, so that every step is looked at.
        every = 1 if "acceptance_rate" in told else thin
        block = max(1, _BLOCK // max(1, x.numel() * (thin // every)))
        before, done = x.unsqueeze(0), 0
        while (trajectory is not None or told) and done < rows:
            count = min(block, rows - done)
            run = go(count * thin, thin=every, record_energy="energy" in told)
            here, kept = slice(done, done + count), slice(thin // every - 1, None, thin // every)
            states = run.samples[kept]
            if trajectory is not None:
                trajectory[:, here] = states.transpose(0, 1)
            if "mean" in told:
                told["mean"][here] = states.mean(1)
                told["var"][here] = states.var(1, unbiased=False).clamp_(1e-10, 1e10) if n > 1 else 0.0
            if "energy" in told:
                told["energy"][here] = run.stats.energy[kept].mean(1)
            if "acceptance_rate" in told:
                moved = (run.samples != torch.cat([before, run.samples[:-1]])).flatten(2).any(2)
                told["acceptance_rate"][here] = moved[kept].to(x.dtype).mean(1)
                before = run.samples[-1:]
            done += count
        left = n_steps - (state.age if state is not None else 0)
        if trajectory is None or left:
            final = go(left, record=False).final
        output = trajectory if trajectory is not None else final
        return (output, told) if return_diagnostics else output

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.schedulers.items())
        return f"{type(self).__name__}(model={type(self.model).__name__}, {settings})"


def _only(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, known))}, got {value!r}; for others use torchebm's own class")


def _constant(values: list[float]) -> float | tuple[float, ...]:
    """A schedule that never moves is a number."""
    return values[0] if len(set(values)) == 1 else tuple(values) or 1.0


class LangevinDynamics(_Sampler):
    """x <- x - step_size grad E(x) + noise_scale sqrt(2 step_size) z, then clamp.

    Args:
        model: energy (n, *event) -> (n,): a module of torchebm's, of ours, or any callable.
        step_size, noise_scale: positive numbers, or schedulers.
        decay: 0; torchebm takes others and does not use them.
        clamp: (low, high) bounds on the state after every step.
        dtype, device: of the state, where the model has no parameters.
        integrator: None or "euler_maruyama".

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.
    """

    def __init__(
        self,
        model: Any,
        step_size: Any = 1e-3,
        noise_scale: Any = 1.0,
        decay: float = 0.0,
        clamp: tuple[float, float] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        integrator: str | None = None,
    ) -> None:
        super().__init__(model, dtype, device)
        self._parameter("step_size", step_size)
        self._parameter("noise_scale", noise_scale)
        _only("decay", decay, (0.0,))
        _only("integrator", integrator, (None, "euler_maruyama"))
        if clamp is not None:
            checks.bounds(clamp, "clamp")
        self.clamp = clamp

    def _kernel(self, n_steps: int, event: torch.Size) -> Langevin:
        steps, scales = self._values("step_size", n_steps), self._values("noise_scale", n_steps)
        noise = [scale * math.sqrt(2.0 * step) for step, scale in zip(steps, scales)]
        return Langevin(_constant(steps), noise_std=_constant(noise), clamp=self.clamp)


class GradientDescentSampler(_Sampler):
    """x <- x - step_size grad E(x).

    Arguments and errors as `LangevinDynamics`; the diagnostics are the energy alone.
    """

    diagnostics = ("energy",)

    def __init__(
        self,
        model: Any,
        step_size: Any = 1e-3,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(model, dtype, device)
        self._parameter("step_size", step_size)

    def _kernel(self, n_steps: int, event: torch.Size) -> Langevin:
        return Langevin(_constant(self._values("step_size", n_steps)), noise_std=0.0)


class HamiltonianMonteCarlo(_Sampler):
    """n_leapfrog_steps leapfrog steps on E(x) + p M^-1 p / 2 from p ~ N(0, M), accepted with probability min(1, exp(H - H')).

    A proposal that is not finite is rejected; torchebm replaces its numbers instead.

    Args:
        model, dtype, device: as in `LangevinDynamics`. Without x and dim, events have the shape of `model.mean`.
        step_size: a positive number or a scheduler.
        n_leapfrog_steps: at least 1.
        mass: M: None for 1, a number, or a tensor (the last dimension of events,).
        integrator: None or "leapfrog".

    Raises:
        TypeError, ValueError: an argument is of a wrong kind or range.
    """

    diagnostics = ("mean", "var", "energy", "acceptance_rate")

    def __init__(
        self,
        model: Any,
        step_size: Any = 1e-3,
        n_leapfrog_steps: int = 10,
        mass: float | Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        integrator: str | None = None,
    ) -> None:
        super().__init__(model, dtype, device)
        self._parameter("step_size", step_size)
        _only("integrator", integrator, (None, "leapfrog"))
        self.n_leapfrog_steps = check_count(n_leapfrog_steps, "n_leapfrog_steps", 1)
        if mass is not None:
            mass = mass if isinstance(mass, Tensor) else torch.tensor(checks.number(mass, "mass"))
            mass = mass.to(self.device, self.dtype)
            if not bool((mass > 0).all()):
                raise ValueError(f"mass must be positive, got {mass.min().item()}")
        self.mass = mass

    def _start(self, x: Tensor | None, dim: Any, n_samples: int, seed: int) -> Tensor:
        mean = getattr(self.model, "mean", None)
        if x is None and dim is None and isinstance(mean, Tensor):
            dim = tuple(mean.shape)
        return super()._start(x, dim, n_samples, seed)

    def _kernel(self, n_steps: int, event: torch.Size) -> HMC:
        inverse = None
        if self.mass is not None:
            if self.mass.shape not in ((), (1,), event[-1:], event):
                raise ValueError(f"mass must be a number or have the shape ({event[-1]},), got {tuple(self.mass.shape)}")
            inverse = self.mass.reciprocal().expand(event).contiguous()
        return HMC(_constant(self._values("step_size", n_steps)), num_leapfrog=self.n_leapfrog_steps, inverse_mass=inverse)
