"""An energy of one's own in one GPU kernel: the posterior of a bioassay, its chains beside its exact mean.

    python examples/fused_energy.py                      (on a GPU: thousands of chains; on a CPU: the plain form, step by step)
    TRITON_INTERPRET=1 python examples/fused_energy.py   (the kernel in Triton's interpreter: a few chains, slowly)

Five animals each were given four doses; y of them died. With theta = (alpha, beta), P(death at dose d) = sigmoid(alpha + beta d)
and alpha ~ N(0, 2^2), beta ~ N(10, 10^2).

Data: Racine, Grieve, Fluehler and Smith 1986; as in Gelman et al., Bayesian Data Analysis, section 3.7.
"""

from __future__ import annotations

import os
import time

import torch
import triton.language as tl
from torch import Tensor

import ebm_fast as ef

DOSES = torch.tensor([-0.86, -0.30, -0.05, 0.73])  # log g/ml
DEATHS = torch.tensor([0.0, 1.0, 3.0, 5.0])
ANIMALS = 5.0
ROWS = tl.constexpr(4)


def plain(theta: Tensor, doses: Tensor, deaths: Tensor, animals: Tensor) -> Tensor:  # (n, 2) -> (n,)
    """The energy in plain PyTorch: what runs without Triton, and what the kernel is checked against."""
    z = theta[:, :1] + theta[:, 1:] * doses
    likelihood = animals * torch.nn.functional.softplus(z) - deaths * z
    return likelihood.sum(1) + theta[:, 0].square() / 8.0 + (theta[:, 1] - 10.0).square() / 200.0


@ef.fused_energy(dim=2, parameters={"doses": DOSES, "deaths": DEATHS, "animals": ANIMALS}, reference=plain)
def bioassay(theta, doses, deaths, animals):
    """E and its gradient for one chain: theta is a tuple of numbers, arrays come as addresses, numbers as numbers."""
    alpha, beta = theta
    e = alpha * alpha / 8.0 + (beta - 10.0) * (beta - 10.0) / 200.0
    g_alpha, g_beta = alpha / 4.0, (beta - 10.0) / 100.0
    for i in tl.static_range(ROWS):
        d, y = tl.load(doses + i), tl.load(deaths + i)
        z = alpha + beta * d
        tail = tl.exp(-tl.abs(z))  # softplus and sigmoid without overflow
        e += animals * (tl.maximum(z, 0.0) + tl.log(1.0 + tail)) - y * z
        slope = animals * tl.where(z > 0.0, 1.0, tail) / (1.0 + tail) - y
        g_alpha += slope
        g_beta += slope * d
    return e, (g_alpha, g_beta)


def exact_mean() -> Tensor:
    """E[theta] by quadrature on a grid in float64. (2,)"""
    grid = torch.cartesian_prod(torch.linspace(-8, 10, 721).double(), torch.linspace(-10, 70, 1601).double())
    weight = torch.softmax(-plain(grid, DOSES.double(), DEATHS.double(), torch.tensor(ANIMALS).double()), 0)
    return (weight[:, None] * grid).sum(0)


def main() -> Tensor:
    """Samples, prints, and returns how many standard errors the mean is off. (2,)"""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    chains, steps, warmup = (32, 25, 10) if interpreted else (4096, 500, 100)
    energy = bioassay.to(device)
    start = torch.tensor([0.0, 10.0]) + torch.tensor([1.0, 5.0]) * torch.randn(chains, 2, generator=torch.manual_seed(0))
    start = start.to(device)
    if device == "cuda" or interpreted:
        energy.check(start[:100])  # the gradient written by hand, against the plain form's
    sampler = ef.HMC(step_size=0.5, num_leapfrog=3, inverse_mass=torch.tensor([1.0, 25.0], device=device))
    ef.sample(energy, sampler, start, num_steps=1, seed=0, progress=False)  # compiles
    begin = time.perf_counter()
    run = ef.sample(energy, sampler, start, num_steps=steps, warmup=warmup, seed=1, progress=False)
    means = run.samples.mean(0).double().cpu()  # one for each chain: independent, so their spread is the standard error
    seconds = time.perf_counter() - begin
    error = means.std(0) / chains**0.5
    exact = exact_mean()
    print(f"strategy {run.strategy}: {chains} chains, {steps} steps of HMC in {seconds:.3f} s, "
          f"acceptance {run.stats.acceptance.mean():.2f}")  # fmt: skip
    for name, mean, e, truth in zip(("alpha", "beta"), means.mean(0), error, exact):
        print(f"E[{name}] = {mean:.3f} +- {e:.3f}, exact {truth:.3f}")
    return (means.mean(0) - exact) / error


if __name__ == "__main__":
    main()
