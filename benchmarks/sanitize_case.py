"""A small case of every kernel of a device, each compared with the reference: the program that compute-sanitizer watches."""

from __future__ import annotations

import argparse

import torch

import ebm_fast as ef

DTYPES = {torch.float32: 2e-6, torch.float64: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}
SHAPES = [(3, 16), (5, 7), (2, 1030), (257, 1)]  # blocks whole and cut, several tiles, one element a chain


def chains(device: str) -> int:
    """Whole chains: states in registers and in shared memory, matrix products, and what a run can record."""
    energies = ef.energies
    torch.manual_seed(0)
    targets = [
        energies.GaussianMixture(torch.randn(5, 2), 0.8), energies.Rosenbrock(2, 1.0, 5.0), energies.Funnel(40),
        energies.Gaussian(torch.zeros(30), covariance=torch.eye(30) + 0.5), energies.PhiFour((6, 7), 0.5, 0.3),
        energies.LogisticRegression(torch.randn(90, 6), (torch.rand(90) < 0.5).float(), 1.0),
        energies.MLPEnergy(3, (24, 17), "silu"),
    ]  # fmt: skip
    samplers = [ef.Langevin(0.002), ef.RandomWalkMetropolis(0.1), ef.HMC(0.02, 3), ef.UnderdampedLangevin(0.02)]
    for energy in targets:
        energy, x = energy.to(device), torch.randn(37, *energy.event_shape).to(device)
        for sampler in samplers:
            options = {"num_steps": 6, "thin": 2, "seed": 5, "moments": True}
            ours, truth = (ef.sample(energy, sampler, x, strategy=s, **options) for s in ("fused", "reference"))
            torch.testing.assert_close(ours.samples, truth.samples, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours.stats.mean, truth.stats.mean, rtol=1e-4, atol=1e-4)
    return len(targets) * len(samplers)


def main(device: str) -> int:
    cases = 0
    for shape in SHAPES:
        for name, dtype in (("bits_", torch.int32), ("uniform_", torch.float32), ("rademacher_", torch.float32)):
            ours = getattr(ef.ops, name)(torch.empty(shape, dtype=dtype, device=device), seed=5, step=2**33)
            assert torch.equal(ours.cpu(), getattr(ef.ops, name)(torch.empty(shape, dtype=dtype), seed=5, step=2**33))
            cases += 1
        for dtype, tolerance in DTYPES.items():
            x, grad = (ef.ops.normal_(torch.empty(shape, dtype=dtype), seed=s).to(device) for s in (1, 2))
            per_chain = torch.linspace(0.01, 0.1, shape[0], device=device)
            for options in (
                {"step_size": 0.1, "noise_std": 0.05},
                {"step_size": 0.1, "clamp": (-1.0, 1.0), "clamp_after": "both", "grad_clip": 0.5, "prior_precision": 0.1},
                {"step_size": per_chain, "noise_std": per_chain, "grad_clip_norm": 1.0},
            ):
                ours, truth = x.clone(), x.clone()
                ef.ops.langevin_step_(ours, grad, seed=7, **options)
                ef.ops.langevin_step_(truth, grad, seed=7, backend="reference", **options)
                torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance)
                cases += 1
            torch.testing.assert_close(ef.ops.event_norm(x), ef.ops.event_norm(x, backend="reference"), rtol=1e-6, atol=0)
            cases += 1
    cases += chains(device)
    print(f"{cases} cases agree with the reference on {device}, backend {ef.ops.backend.pick(None, torch.device(device))}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    raise SystemExit(main(parser.parse_args().device))
