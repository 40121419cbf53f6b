"""Energies made of other things: log densities, classifiers, tempered energies, sums, mixtures."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import checks
from .base import Summable

Energy = Callable[..., Tensor]


def _check(energy: Any, name: str) -> None:
    if not callable(energy) or isinstance(energy, type):
        raise TypeError(f"{name} must be an energy, a callable (n, *event) -> (n,), got {energy!r}")


def _rows(value: Tensor, x: Tensor) -> Tensor:
    """(n,) -> (n, 1, ..., 1) with x's number of dimensions."""
    return value.reshape(-1, *(1,) * (x.ndim - 1))


class Combined(Summable, nn.Module):
    """An energy over parts. Each keyword of a condition goes to the parts whose signature takes it.

    `energy_and_grad` and `grad` exist where every part has the former, and call theirs; elsewhere autograd does the whole.
    """

    def __init__(self, parts: Sequence[Energy]) -> None:
        super().__init__()
        self._parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self._functions = [None if isinstance(part, nn.Module) else part for part in parts]

    @property
    def parts(self) -> list[Energy]:
        """The energies, in the order given."""
        modules = iter(self._parts)
        return [next(modules) if function is None else function for function in self._functions]  # type: ignore[misc]

    @property
    def energy_and_grad(self) -> Callable[..., tuple[Tensor, Tensor]]:
        if not all(hasattr(part, "energy_and_grad") for part in self.parts):
            raise AttributeError("energy_and_grad: a part of this energy has none")
        return self._both

    @property
    def grad(self) -> Callable[..., Tensor]:
        self.energy_and_grad  # noqa: B018, an AttributeError where a part has none
        return self._gradient

    def _both(self, x: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _gradient(self, x: Tensor, **condition: Any) -> Tensor:
        return self._both(x, **condition)[1]

    def _shared(self, condition: Mapping[str, Any]) -> list[tuple[Energy, dict[str, Any]]]:
        """Each part with its share of the condition."""
        parts = self.parts
        if not condition:
            return [(part, {}) for part in parts]
        shares: list[tuple[Energy, dict[str, Any]]] = []
        taken: set[str] = set()
        for part in parts:
            signature = inspect.signature(part.forward if isinstance(part, nn.Module) else part).parameters.values()
            any_name = any(p.kind is p.VAR_KEYWORD for p in signature)
            names = {p.name for p in signature if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
            share = {name: value for name, value in condition.items() if any_name or name in names}
            taken |= share.keys()
            shares.append((part, share))
        if condition.keys() - taken:
            raise TypeError(f"no part of this energy takes the condition {', '.join(sorted(condition.keys() - taken))}")
        return shares


def _gradients(parts: list[tuple[Energy, dict[str, Any]]], x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [
            part.grad(x, **share) if hasattr(part, "grad") else part.energy_and_grad(x, **share)[1]  # type: ignore[attr-defined]
            for part, share in parts
        ]


def _evaluate(parts: list[tuple[Energy, dict[str, Any]]], x: Tensor) -> list[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        return [part.energy_and_grad(x, **share) for part, share in parts]  # type: ignore[attr-defined]


class LogProbEnergy(Summable, nn.Module):
    """E(x) = -log p(x)."""

    def __init__(self, log_prob: Callable[..., Tensor]) -> None:
        super().__init__()
        self.log_prob = log_prob

    def forward(self, x: Tensor, **condition: Any) -> Tensor:  # (n, *event) -> (n,)
        return -self.log_prob(x, **condition)


def from_log_prob(log_prob: Any) -> LogProbEnergy:
    """E(x) = -f(x), f(x) = log p(x) + constant.

    Args:
        log_prob: callable (n, *event) -> (n,), a module (whose parameters the energy then has), or an object with a method
            `log_prob`, such as a torch distribution. Keyword arguments are passed on.

    Raises:
        TypeError: no such thing.
    """
    if not isinstance(log_prob, nn.Module) and callable(getattr(log_prob, "log_prob", None)):
        log_prob = log_prob.log_prob
    if not callable(log_prob) or isinstance(log_prob, type):
        raise TypeError(f"log_prob must be callable, (n, *event) -> (n,), or have a method log_prob, got {log_prob!r}")
    return LogProbEnergy(log_prob)


class ClassifierEnergy(Summable, nn.Module):
    """E(x) = -log sum_c exp f(x)_c, E(x, y) = -f(x)_y."""

    def __init__(self, classifier: Callable[..., Tensor]) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, y: Tensor | None = None, **condition: Any) -> Tensor:  # (n, *event), (n,) -> (n,)
        logits = self.classifier(x, **condition)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != x.shape[0]:
            got = str(tuple(logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"classifier must return logits of shape ({x.shape[0]}, classes), got {got}")
        if y is None:
            return -torch.logsumexp(logits, 1)
        if not isinstance(y, Tensor) or y.dtype is not torch.int64 or y.shape != x.shape[:1]:
            got = f"{tuple(y.shape)}, {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"y must be labels of shape ({x.shape[0]},), torch.int64; got {got}")
        return -logits.gather(1, y.unsqueeze(1)).squeeze(1)


def from_classifier(classifier: Callable[..., Tensor]) -> ClassifierEnergy:
    """E(x) = -log sum_c exp f(x)_c of a classifier's logits f; with labels, E(x, y) = -f(x)_y, so that p(x) = sum_y p(x, y).

    Args:
        classifier: callable or module (n, *event) -> (n, classes). The energy takes `y=` (n,) int64 and passes other keywords on.

    Raises:
        TypeError: not callable.
        ValueError: logits or labels of another shape, when the energy is called.

    Source: Grathwohl et al. 2020 (JEM), eqs. (5) and (6).
    """
    _check(classifier, "classifier")
    return ClassifierEnergy(classifier)


class Tempered(Combined):
    """beta E(x)."""

    beta: Tensor

    def __init__(self, energy: Energy, beta: Tensor) -> None:
        super().__init__([energy])
        self.register_buffer("beta", beta)

    def forward(self, x: Tensor, **condition: Any) -> Tensor:  # (n, *event) -> (n,)
        e = self.parts[0](x, **condition)
        return e * self.beta.to(e.dtype)

    def _both(self, x: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        ((e, g),) = _evaluate([(self.parts[0], condition)], x)
        return e * self.beta.to(e.dtype), self._scaled(g)

    def _gradient(self, x: Tensor, **condition: Any) -> Tensor:
        return self._scaled(*_gradients([(self.parts[0], condition)], x))

    def _scaled(self, g: Tensor) -> Tensor:
        return g * (_rows(self.beta, g) if self.beta.ndim else self.beta).to(g.dtype)


def tempered(energy: Energy, beta: float | Tensor) -> Tempered:
    """E_beta(x) = beta E(x), so that exp(-E_beta) = exp(-E)^beta.

    Args:
        beta: inverse temperature, a finite number of at least 0, or such a tensor () or (n,), one for each chain. It is kept
            as the buffer `beta`, which may be changed in place.

    Raises:
        TypeError, ValueError: not an energy, or a beta out of range.
    """
    _check(energy, "energy")
    if isinstance(beta, Tensor):
        if beta.ndim > 1 or not beta.is_floating_point():
            raise ValueError(f"beta must be a number or a floating tensor () or (n,), got {tuple(beta.shape)}, {beta.dtype}")
        if not bool((torch.isfinite(beta) & (beta >= 0)).all()):
            raise ValueError("beta must be finite and at least 0")
        return Tempered(energy, beta.detach().clone())
    device = next((t.device for t in _tensors_of(energy)), None)
    return Tempered(energy, torch.tensor(checks.number(beta, "beta", low=0.0), dtype=torch.float64, device=device))


def _tensors_of(energy: Energy) -> list[Tensor]:
    return [*energy.parameters(), *energy.buffers()] if isinstance(energy, nn.Module) else []


class Sum(Combined):
    """sum_i E_i(x)."""

    def forward(self, x: Tensor, **condition: Any) -> Tensor:  # (n, *event) -> (n,)
        (part, share), *others = self._shared(condition)
        total = part(x, **share)
        for other, its_share in others:
            total = total + other(x, **its_share)
        return total

    def _both(self, x: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        (e, g), *others = _evaluate(self._shared(condition), x)
        for more_e, more_g in others:
            e, g = e + more_e, g + more_g
        return e, g

    def _gradient(self, x: Tensor, **condition: Any) -> Tensor:
        first, *others = _gradients(self._shared(condition), x)
        return sum(others, start=first)


def sum_of(*energies: Energy) -> Sum:
    """E(x) = E_1(x) + E_2(x) + ..., a product of densities; `E_1 + E_2` for energies of this package.

    A keyword of a condition goes to every energy whose signature takes it; one that none takes is a TypeError.

    Raises:
        TypeError, ValueError: something that is not an energy, or none at all.
    """
    if not energies:
        raise ValueError("energies: sum_of needs at least one energy")
    flat: list[Energy] = []
    for i, energy in enumerate(energies):
        _check(energy, f"energies[{i}]")
        flat.extend(energy.parts if isinstance(energy, Sum) else (energy,))
    return Sum(flat)


class Mixture(Combined):
    """-log sum_m w_m exp(-E_m(x))."""

    log_weights: Tensor

    def __init__(self, energies: Sequence[Energy], log_weights: Tensor) -> None:
        super().__init__(energies)
        self.register_buffer("log_weights", log_weights)

    def forward(self, x: Tensor, **condition: Any) -> Tensor:  # (n, *event) -> (n,)
        e = torch.stack([part(x, **share) for part, share in self._shared(condition)])
        return -torch.logsumexp(self.log_weights.to(e.dtype).unsqueeze(1) - e, 0)

    def _both(self, x: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        pairs = _evaluate(self._shared(condition), x)
        logs = self.log_weights.to(pairs[0][0].dtype).unsqueeze(1) - torch.stack([e for e, _ in pairs])
        share = torch.softmax(logs, 0)
        g = torch.zeros_like(pairs[0][1])
        for weight, (_, gradient) in zip(share, pairs, strict=True):
            # where a component has no weight its gradient may be infinite
            g += torch.where(_rows(weight, g) > 0, _rows(weight, g) * gradient, 0.0)
        return -torch.logsumexp(logs, 0), g.to(pairs[0][1].dtype)


def mixture_of(energies: Sequence[Energy], weights: Any = None, *, normalised: bool = False) -> Mixture:
    """E(x) = -log sum_m w_m exp(-E_m(x)), or with `normalised` -log sum_m w_m exp(-E_m(x)) / Z_m, a mixture of densities.

    Without `normalised` the energies enter as they are, so that a component's probability is in proportion to w_m Z_m.

    Args:
        weights: (M,), above 0, divided by their sum; equal by default.
        normalised: takes `log_z` of each energy, as it is now.

    Raises:
        TypeError, ValueError: something that is not an energy, a bad weight, or `normalised` with an energy without log_z.
        NotImplementedError: `normalised` with an energy whose log Z has no closed form.
    """
    energies = list(energies)
    if not energies:
        raise ValueError("energies: mixture_of needs at least one energy")
    for i, energy in enumerate(energies):
        _check(energy, f"energies[{i}]")
    m = len(energies)
    device = next((t.device for energy in energies for t in _tensors_of(energy)), None)
    w = torch.as_tensor([1.0] * m if weights is None else weights, dtype=torch.float64, device=device).detach()
    if w.shape != (m,) or not bool((torch.isfinite(w) & (w > 0)).all()):
        raise ValueError(f"weights must be {m} numbers above 0, one for each energy; got {w.tolist()}")
    log_weights = w.log() - math.log(w.sum().item())
    if normalised:
        for i, energy in enumerate(energies):
            if not hasattr(energy, "log_z"):
                raise ValueError(f"energies[{i}] has no log_z, which normalised=True needs")
        log_weights = log_weights - torch.stack([energy.log_z.detach() for energy in energies])  # type: ignore[attr-defined]
    return Mixture(energies, log_weights)
