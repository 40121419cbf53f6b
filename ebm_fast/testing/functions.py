"""Test functions: what of a state is compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TestFunctions = Mapping[str, Callable[..., Tensor]]

MOST_ELEMENTS = 64  # beyond that, runs of eight neighbours from all over the event
_RUN = 8
LAGS = (1, 2, 4)  # neighbours, and elements that hold the same word of two blocks of random numbers


def as_functions(functions: Any, name: str = "functions") -> dict[str, Callable[..., Tensor]]:
    """A mapping from names to functions, of a mapping, a sequence or a single function."""
    if isinstance(functions, Mapping):
        made = dict(functions)
    elif callable(functions):
        made = {getattr(functions, "__name__", "f"): functions}
    elif isinstance(functions, Sequence) and not isinstance(functions, str):
        made = {f"f[{k}]": f for k, f in enumerate(functions)}
    else:
        raise TypeError(f"{name} must be a function or a dict of functions, got {type(functions).__name__}")
    if not made:
        raise ValueError(f"{name} is empty")
    for key, f in made.items():
        if not callable(f):
            raise TypeError(f"{name}[{key!r}] must be a function, got {type(f).__name__}")
    return made


def evaluate(functions: Mapping[str, Callable[..., Tensor]], *arguments: Tensor) -> tuple[list[str], Tensor]:
    """Names and values (n, m) float64 of functions that return (n,) or (n, k)."""
    n = arguments[0].shape[0]
    names: list[str] = []
    columns = []
    for name, f in functions.items():
        with torch.no_grad():
            value = f(*arguments)
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != n:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"functions[{name!r}] must return (n,) or (n, k) numbers for n = {n} states, got {got}")
        flat = value.detach().double().reshape(n, -1)
        names += [name] if flat.shape[1] == 1 else [f"{name}[{k}]" for k in range(flat.shape[1])]
        columns.append(flat)
    return names, torch.cat(columns, 1)


def chosen_elements(dim: int) -> list[int]:
    """All elements of a small event; of a large one runs of neighbours spread over it."""
    if dim <= MOST_ELEMENTS:
        return list(range(dim))
    runs = MOST_ELEMENTS // _RUN
    starts = [round(k * (dim - _RUN) / (runs - 1)) for k in range(runs)]
    return sorted({start + k for start in starts for k in range(_RUN)})


class Scores:
    """z_i = Phi^-1(F_i(x_i)), F_i the distribution function of element i in a sample that serves for nothing else.

    Whatever the target's tails, z is nearly normal and |z| < 4, so that means of its powers are normal to far in the tails
    and a test at 1e-6 is honest. F_i is then a fixed function: its own error costs no validity.

    Args:
        calibration: (c, *event).
        energy: further function (n, *event) -> (n,), scored likewise.
        labels: names of all elements; None for x[0], x[1], ...
    """

    def __init__(
        self, calibration: Tensor, energy: Callable[[Tensor], Tensor] | None = None, labels: Sequence[str] | None = None
    ) -> None:
        flat = calibration.reshape(calibration.shape[0], -1)
        self.elements = chosen_elements(flat.shape[1])
        self.labels = [f"x[{k}]" if labels is None else labels[k] for k in self.elements]
        self.energy = energy
        self.ordered = self._columns(calibration).sort(1).values

    def _columns(self, x: Tensor) -> Tensor:
        """The elements that are looked at, and the energy. (m, n) float64"""
        columns = x.reshape(x.shape[0], -1)[:, self.elements].double()
        if self.energy is not None:
            with torch.no_grad():
                e = self.energy(x)
            if not isinstance(e, Tensor) or e.numel() != x.shape[0]:
                raise ValueError(f"energy must return ({x.shape[0]},) numbers for {x.shape[0]} states")
            columns = torch.cat([columns, e.detach().double().reshape(-1, 1)], 1)
        return columns.T.contiguous()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores of the elements (n, k), and of the energy (n, 1) or None."""
        columns = self._columns(x)
        rank = torch.searchsorted(self.ordered, columns)
        found = self.ordered.gather(1, rank.clamp(max=self.ordered.shape[1] - 1))
        # most of a test's time: the other side is asked for where numbers repeat
        rank = rank + (torch.searchsorted(self.ordered, columns, right=True) if bool((found == columns).any()) else rank)
        z = torch.special.ndtri((0.5 * rank.double() + 0.5) / (self.ordered.shape[1] + 1.0)).T
        return (z, None) if self.energy is None else (z[:, :-1], z[:, -1:])

    def pairs(self) -> dict[int, list[tuple[int, int]]]:
        """For each lag the places (a, b) of elements that far apart."""
        place = {element: k for k, element in enumerate(self.elements)}
        return {lag: [(k, place[e + lag]) for e, k in place.items() if e + lag in place] for lag in LAGS}

    def features(self, x: Tensor) -> tuple[list[str], Tensor]:
        """Elements, their squares, products with neighbours and with the element four on, sums of those, the energy. (n, m)"""
        z, e = self(x)
        names = self.labels + [f"{s}^2" for s in self.labels]
        parts = [z, z.square()]
        if len(self.elements) > 1:
            names.append("sum of squares")
            parts.append(z.square().sum(1, keepdim=True))
        for lag, pairs in self.pairs().items():
            if not pairs:
                continue
            product = z[:, [a for a, _ in pairs]] * z[:, [b for _, b in pairs]]
            names += [f"{self.labels[a]} {self.labels[b]}" for a, b in pairs]
            parts.append(product)
            if len(pairs) > 1:
                names.append(f"sum of products of elements {lag} apart")
                parts.append(product.sum(1, keepdim=True))
        if e is not None:
            names += ["energy", "energy^2"]
            parts += [e, e.square()]
        return names, torch.cat(parts, 1)

    def antisymmetric(self, x: Tensor, y: Tensor) -> tuple[list[str], Tensor]:
        """a(x) b(y) - b(x) a(y) for pairs of functions that a current through the state space shows in. (n, m)"""
        (u, e), (v, g) = self(x), self(y)
        labels = self.labels
        names: list[str] = []
        parts = []

        def add(a: Tensor, b: Tensor, c: Tensor, d: Tensor, said: list[str]) -> None:
            names.extend(said)
            parts.append(a * d - b * c)

        one = torch.ones_like(u)
        add(u, one, v, one, [f"{s}, 1" for s in labels])
        add(u.square(), one, v.square(), one, [f"{s}^2, 1" for s in labels])
        add(u.square(), u, v.square(), v, [f"{s}^2, {s}" for s in labels])
        add(u.abs(), u, v.abs(), v, [f"|{s}|, {s}" for s in labels])
        add(u**3, u, v**3, v, [f"{s}^3, {s}" for s in labels])
        for pairs in self.pairs().values():
            if pairs:
                a, b = [i for i, _ in pairs], [j for _, j in pairs]
                add(u[:, a], u[:, b], v[:, a], v[:, b], [f"{labels[i]}, {labels[j]}" for i, j in pairs])
        if e is not None and g is not None:
            add(e, torch.ones_like(e), g, torch.ones_like(g), ["energy, 1"])
            add(e.square(), e, g.square(), g, ["energy^2, energy"])
            add(e.expand_as(u), u, g.expand_as(v), v, [f"energy, {s}" for s in labels])
        return names, torch.cat(parts, 1)


def directions(count: int, dim: int, seed: int) -> Tensor:
    """Unit vectors. (count, dim) float64"""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=math.ulp(1.0))
