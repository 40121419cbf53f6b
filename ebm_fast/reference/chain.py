"""Whole chains on structured energies in plain PyTorch: the per-step ops composed, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..ops import user_energy
from ..ops.purposes import PURPOSES
from ..ops.rounding import round_gradient, rounded
from .baoab import baoab_
from .guard import guard_
from .langevin import langevin_step_
from .leapfrog import leapfrog_
from .metropolis import metropolis_
from .moments import moments_
from .norm import event_norm
from .proposal import kinetic_energy, propose_

Function = Callable[[Tensor], Tensor]


def energy_function(
    kind: str, dim: int, integers: Sequence[int], parameters: Tensor, precision: str = "float32"
) -> Function:
    """E of a descriptor, (n, dim) -> (n,), in the dtype of its argument; differentiable."""

    def split(like: Tensor, *sizes: int) -> Sequence[Tensor]:
        return parameters.to(like).split(list(sizes))

    def gaussian_diagonal(x: Tensor) -> Tensor:
        mu, a = split(x, dim, dim)
        return 0.5 * (a * (x - mu).square()).sum(1)

    def gaussian_dense(x: Tensor) -> Tensor:
        mu, precision = split(x, dim, dim * dim)
        return 0.5 * ((x - mu) @ precision.view(dim, dim) * (x - mu)).sum(1)

    def mixture(x: Tensor) -> Tensor:
        m = integers[0]
        c, mu, a = split(x, m, m * dim, m * dim)
        return -torch.logsumexp(c - 0.5 * (a.view(m, dim) * (x[:, None] - mu.view(m, dim)).square()).sum(2), 1)

    def gamma(x: Tensor) -> Tensor:
        k, r = split(x, dim, dim)
        inside = (x > 0).all(1)
        terms = r * x - (k - 1) * torch.where(x > 0, x, 1.0).log()
        return torch.where(inside | torch.isnan(x).any(1), terms.sum(1), math.inf)

    def double_well(x: Tensor) -> Tensor:
        h, b = split(x, 1, 1)
        return h * (x.square() - b.square()).square().sum(1)

    def rosenbrock(x: Tensor) -> Tensor:
        a, b = split(x, 1, 1)
        return (x[:, 0] - a).square() + b * (x[:, 1:] - x[:, :-1].square()).square().sum(1)

    def funnel(x: Tensor) -> Tensor:
        v = x[:, 0]
        return v.square() / (2 * parameters.to(x).square()) + 0.5 * (-v).exp() * x[:, 1:].square().sum(1) + 0.5 * (dim - 1) * v

    def ring(x: Tensor) -> Tensor:
        radius, width = split(x, 1, 1)
        return (x.norm(dim=1) - radius).square() / (2 * width.square())

    def phi_four(x: Tensor) -> Tensor:
        m2, coupling = split(x, 1, 1)
        phi = x.view(-1, *integers)
        bonds = sum((phi.roll(-1, axis) - phi).square() for axis in (1, 2))
        return (0.5 * bonds + 0.5 * m2 * phi.square() + coupling * phi.pow(4)).flatten(1).sum(1)

    def logistic_regression(x: Tensor) -> Tensor:
        al, rows = split(x, 1, integers[0] * dim)
        return torch.nn.functional.softplus(-x @ rows.view(-1, dim).T, threshold=50.0).sum(1) + 0.5 * al * x.square().sum(1)

    def eight_schools(x: Tensor) -> Tensor:
        m, s, y, precision = split(x, 1, 1, integers[0], integers[0])
        mu, log_tau, z = x[:, :1], x[:, 1:2], x[:, 2:]
        t = (y - mu - log_tau.exp() * z) * precision
        rest = mu.square() / (2 * m.square()) + torch.log1p((log_tau.exp() / s).square()) - log_tau
        return 0.5 * z.square().sum(1) + 0.5 * t.square().sum(1) + rest[:, 0]

    def mlp(x: Tensor) -> Tensor:
        f, leak, coarse = torch.nn.functional, float(parameters[0]), precision == "bfloat16"
        act: Function = (torch.tanh, f.silu, f.relu, lambda v: f.leaky_relu(v, leak), lambda v: f.softplus(v, threshold=50.0),
                         f.gelu)[integers[0]]  # fmt: skip
        widths = integers[2:]
        at, h = 1, x
        for layer, (into, out) in enumerate(zip((dim, *widths), (*widths, 1))):
            weight, bias = parameters[at : at + into * out].to(x).view(out, into), parameters[at + into * out :][:out].to(x)
            at += (into + 1) * out
            if layer == len(widths):
                h = h @ weight.T + bias
            elif coarse:
                h = act(round_gradient((rounded(h) if layer else h) @ rounded(weight).T + bias))
            else:
                h = act(h @ weight.T + bias)
        return h[:, 0]

    if kind.startswith(user_energy.PREFIX):
        return lambda x: user_energy.registered(kind).plain_energy(x, parameters)
    kinds: dict[str, Function] = {f.__name__: f for f in (
        gaussian_diagonal, gaussian_dense, mixture, gamma, double_well, rosenbrock, funnel, ring, phi_four, logistic_regression,
        eight_schools, mlp,
    )}  # fmt: skip
    return kinds[kind]


def value_and_grad(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, rounded to x's dtype. # (n, dim) -> (n,), (n, dim)"""
    with torch.enable_grad():
        leaf = x.detach().double().requires_grad_(True)
        e = function(leaf)
        (g,) = torch.autograd.grad(e.sum(), leaf)
    return e.detach().to(x.dtype), g.to(x.dtype)


def _at(number: float, at: Tensor | None, t: int) -> Tensor | float:
    if at is None:
        return number
    return at[t] if at.ndim == 2 else at


def chain_(
    x: Tensor, parameters: Tensor, energy: Tensor | None, grad: Tensor | None, momentum: Tensor | None,
    proposal: Tensor | None, scale: Tensor | None, step_size_at: Tensor | None, noise_std_at: Tensor | None,
    beta_at: Tensor | None, persistence_at: Tensor | None, leapfrogs_at: Tensor | None, divergence_step: Tensor | None,
    norm_sum: Tensor | None, samples: Tensor | None, energies: Tensor | None, hamiltonians: Tensor | None,
    counters: Tensor | None, mean: Tensor | None, squares: Tensor | None, rng: Tensor | None, energy_kind: str,
    integers: list[int], transition: str, steps: int, thin: int, count: int, leapfrogs: int, carried: bool, finish: bool,
    flip: bool, noise_first: bool, guard: bool, step_size: float, noise_std: float, beta: float, persistence: float,
    numbers: list[float], seed: int, step: int, chain_offset: int, precision: str,
) -> None:  # fmt: skip
    n = x.shape[0]
    dim = x.numel() // n
    max_error, heavy_ball, prior, grad_clip, grad_clip_norm, step_lo, step_hi, noise_lo, noise_hi, offset = numbers
    native = energy_function(energy_kind, dim, integers, parameters, precision)

    def function(x: Tensor) -> Tensor:
        return native(x) + offset

    y = x.view(n, dim)  # the chain itself: every op below works on it in place
    p = y.new_zeros(n, dim) if momentum is None or proposal is not None else momentum.view(n, dim)
    sigma = None if scale is None else scale.reshape(dim)
    e, g = value_and_grad(function, y)
    xp, counts = torch.empty_like(y), y.new_zeros(n, 5, dtype=torch.float64) if counters is None else counters
    kinetic = y.new_zeros(n, dtype=torch.float64)
    frozen = torch.zeros(n, dtype=torch.bool, device=x.device)
    first = step + (0 if rng is None else int(rng[1]))
    if divergence_step is not None:
        frozen = divergence_step >= 0

    def tensor(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=x.dtype, device=x.device)

    def look(t: int, s: Tensor, c: Tensor) -> None:
        stretch = 1.0 if sigma is None else float(sigma.max())
        guard_(y, g, p, e, divergence_step if guard else None, None, norm_sum, s, c, None, None, 0.0, 0.0, stretch, heavy_ball,
               prior, grad_clip, grad_clip_norm, transition == "baoab", first + t)  # fmt: skip
        if divergence_step is not None:
            frozen.copy_(divergence_step >= 0)

    def langevin(t: int, with_grad: bool, with_noise: bool, s: Tensor, c: Tensor) -> None:
        shrink = None
        if with_grad and grad_clip_norm < math.inf:
            shrink = grad_clip_norm / event_norm(g).clamp(min=grad_clip_norm or 1.0)
        bounds = (step_lo if with_grad else -math.inf, step_hi if with_grad else math.inf,
                  noise_lo if with_noise else -math.inf, noise_hi if with_noise else math.inf)  # fmt: skip
        langevin_step_(
            y, g if with_grad else None, p if momentum is not None else None, None, s, c if with_noise else None, shrink,
            ~frozen, sigma, rng, 0.0, 0.0, heavy_ball, prior, grad_clip, *bounds, PURPOSES["langevin"], seed, step + t,
            chain_offset,
        )  # fmt: skip

    for t in range(steps):
        s, c = tensor(_at(step_size, step_size_at, t)), tensor(_at(noise_std, noise_std_at, t))
        b, persist = tensor(_at(beta, beta_at, t)), tensor(_at(persistence, persistence_at, t))
        if transition == "langevin":
            if noise_first:
                langevin(t, False, True, s, c)
                e, g = value_and_grad(function, y)
            look(t, s, c)
            langevin(t, True, not noise_first, s, c)
            e, g = value_and_grad(function, y)
        elif transition == "random_walk":
            propose_(y, xp, None, None, sigma, None, None, None, s, None, None, rng, 0.0, 0.0, 0.0, 1.0, PURPOSES["proposal"],
                     seed, step + t, chain_offset)  # fmt: skip
            e_new, g_new = value_and_grad(function, xp)
            metropolis_(y, xp, e, e_new, g, g_new, None, None, None, None, None, counts, None, b, rng, 0.0, 1.0, max_error,
                        PURPOSES["accept"], seed, step + t, chain_offset)  # fmt: skip
        elif transition == "hmc":
            c_at, n_at = (persist, (1.0 - persist.double().square()).sqrt().to(persist.dtype)) if flip else (None, None)
            propose_(y, None, p, None, sigma, None, kinetic, None, None, c_at, n_at, rng, 0.0, 0.0, 0.0, 1.0,
                     PURPOSES["momentum"], seed, step + t, chain_offset)  # fmt: skip
            before = p.clone()
            xp.copy_(y)
            leapfrog_(xp, p, g, sigma, b * s / 2, s, 0.0, 0.0)
            for _ in range(1, leapfrogs if leapfrogs_at is None else int(leapfrogs_at[t])):
                leapfrog_(xp, p, value_and_grad(function, xp)[1], sigma, b * s, s, 0.0, 0.0)
            e_new, g_new = value_and_grad(function, xp)
            if proposal is not None and momentum is not None:
                proposal.copy_(xp.view_as(x))
                momentum.copy_(p.view_as(x))
                leapfrog_(xp.clone(), momentum.view(n, dim), g_new, sigma, b * s / 2, tensor(0.0), 0.0, 0.0)
            metropolis_(y, xp, e, e_new, g, g_new, p, before if flip else None, kinetic, sigma, None, counts, b * s / 2, b, rng,
                        0.0, 1.0, max_error, PURPOSES["accept"], seed, step + t, chain_offset)  # fmt: skip
        else:
            look(t, s, c)
            baoab_(y, p, g, sigma, ~frozen, s / 2, s / 2, persist, c, rng, 0.0, 0.0, 0.0, 0.0, 1, PURPOSES["momentum"], seed,
                   step + t, chain_offset)  # fmt: skip
            e, g = value_and_grad(function, y)
            kicked = p.clone()
            leapfrog_(y.clone(), kicked, g, sigma, s / 2, tensor(0.0), 0.0, 0.0)
            p.copy_(torch.where(frozen[:, None], p, kicked))
        if mean is not None and squares is not None:
            moments_(x, mean, squares, None, count + t + 1)
        if (t + 1) % thin == 0:
            row = (t + 1) // thin - 1
            total = e.double() + kinetic_energy(p) if transition == "baoab" else counts[:, 4]
            for out, value in ((samples, x), (energies, e), (hamiltonians, total)):
                if out is not None:
                    out[row].copy_(value)
    if energy is not None:
        energy.copy_(e)
    if grad is not None:
        grad.copy_(g.view_as(grad))
