"""Energies written in Triton as users call them: `sample`, `langevin_`, values and gradients, the check of a gradient.

On a CPU this file runs in Triton's interpreter: see test_interpreted.py.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", minversion="3.3")
from user_energies import banana, gaussian_5, mixture, normal

import ebm_fast as ef


@pytest.fixture(autouse=True)
def _runs(device: str) -> None:
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("runs in the interpreter, see test_interpreted.py")


def plain(x: Tensor, a: Any, b: Any) -> Tensor:
    x = x.reshape(x.shape[0], -1)
    return (x[:, 0] - a).square() + b * (x[:, 1] - x[:, 0].square()).square()


def of_one_row(x, a, b):
    off = x[0] - a
    bend = x[1] - x[0] * x[0]
    return off * off + b * bend * bend, (2.0 * off - 4.0 * b * bend * x[0], 2.0 * b * bend)


@pytest.fixture
def make(device: str) -> Callable[..., ef.energies.FusedEnergy]:
    """The banana in events (1, 2), of a function that is no Triton function yet and knows no triton.language."""

    def made(function: Any = of_one_row, **options: Any) -> ef.energies.FusedEnergy:
        return ef.fused_energy((1, 2), {"a": 1.0, "b": 5.0}, **options)(function).to(device)

    return made


SAMPLERS = {
    "Langevin": ef.Langevin(step_size=0.003),
    "noise first": ef.Langevin(step_size=0.003, order="noise", clamp=(-2.0, 2.0), momentum=0.5),
    "RandomWalk": ef.RandomWalkMetropolis(0.3),
    "MALA": ef.MALA(step_size=0.01),
    "HMC": ef.HMC(step_size=0.1, num_leapfrog=3, leapfrog_jitter=True),
    "GHMC": ef.GHMC(step_size=0.1, friction=1.0),
    "Underdamped": ef.UnderdampedLangevin(step_size=0.1),
    "Replicas": ef.ReplicaExchange(ef.HMC(step_size=0.1, num_leapfrog=2), ef.ReplicaExchange.ladder(2, 0.5)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_the_kernel_by_itself(name, make, device):
    """The chain of the plain energy, step by step, from the same seed."""
    x = normal(6, 1, 2).to(device)
    options = {"num_steps": 4, "thin": 2, "seed": 3, "moments": True, "progress": False}
    run = ef.sample(make(), SAMPLERS[name], x, **options)
    assert run.strategy == "fused"
    same = ef.sample(lambda x: plain(x, 1.0, 5.0), SAMPLERS[name], x, strategy="step", **options)
    for ours, true in ((run.samples, same.samples), (run.stats.energy, same.stats.energy), (run.stats.mean, same.stats.mean)):
        torch.testing.assert_close(ours, true, rtol=1e-5, atol=2e-5)
    if run.stats.acceptance is not None:
        torch.testing.assert_close(run.stats.acceptance, same.stats.acceptance, rtol=1e-5, atol=1e-5)


def test_warm_up_adapts_around_the_kernel(make, device):
    x = normal(6, 1, 2).to(device)
    sampler = ef.HMC(step_size=0.1, num_leapfrog=2, adapt=ef.Adaptation())
    run, same = (ef.sample(energy, sampler, x, num_steps=2, warmup=6, seed=3, strategy=strategy, progress=False)
                 for energy, strategy in ((make(), "fused"), (lambda x: plain(x, 1.0, 5.0), "step")))  # fmt: skip
    torch.testing.assert_close(run.samples, same.samples, rtol=1e-4, atol=1e-4)


def test_langevin_in_place_sees_parameters_as_they_are(make, device):
    energy, x = make(), normal(6, 1, 2).to(device)
    for b in (5.0, 2.0):
        energy.b.fill_(b)
        ours, true = x.clone(), x.clone()
        ef.langevin_(ours, energy, num_steps=3, step_size=0.01, seed=1, strategy="fused")
        ef.langevin_(true, lambda x, b=b: plain(x, 1.0, b), num_steps=3, step_size=0.01, seed=1, strategy="step")
        torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("energy", "words"), [(banana, "rosenbrock"), (gaussian_5, "gaussian_diagonal"), (mixture, "mixture")])
def test_values_and_gradients(energy, words, device):
    from user_energies import TARGETS

    from ebm_fast.reference.chain import energy_function, value_and_grad

    analytic = next(target for _, target, _ in TARGETS.values() if target.kind == words)
    function = energy_function(words, analytic.dim, analytic.integers, analytic.parameters)
    x = normal(45, energy.dim)
    e, g = value_and_grad(function, x)
    energy.to(device)
    try:
        ours = energy.energy_and_grad(x.to(device))
        torch.testing.assert_close(ours[0].cpu(), e, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(ours[1].cpu(), g, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(energy.grad(x.to(device, torch.bfloat16)).cpu(), value_and_grad(function, x.bfloat16())[1],
                                   rtol=0.02, atol=0.02)  # fmt: skip
        leaf = x.to(device).requires_grad_(True)
        (slope,) = torch.autograd.grad(energy(leaf).square().sum(), leaf)
        torch.testing.assert_close(slope.cpu(), 2 * e.unsqueeze(1) * g, rtol=1e-4, atol=1e-4)
        (again,) = torch.autograd.grad(energy(leaf).sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
            torch.autograd.grad(again.sum(), leaf)
    finally:
        energy.to("cpu")


def test_the_plain_form_builds_graphs(make, device):
    energy, x = make(reference=plain, trainable=True), normal(5, 1, 2).to(device)
    energy(x).sum().backward()
    assert energy.b.grad is not None
    assert energy.b.grad > 0
    run = ef.sample(energy, ef.HMC(0.1, 2), x, num_steps=2, seed=3, progress=False)
    assert run.strategy == "fused"
    with ef.use_backend("reference"):
        assert ef.sample(energy, ef.HMC(0.1, 2), x, num_steps=2, seed=3, progress=False).strategy == "step"


def wrong(x, a, b):
    off = x[0] - a
    bend = x[1] - x[0] * x[0]
    return off * off + b * bend * bend, (2.0 * off - 2.0 * b * bend * x[0], 2.0 * b * bend)


def wrong_value(x, a, b):
    e, g = 1.5 * b * x[0] * x[0], (3.0 * b * x[0], 0.0)
    return e, g


def too_short(x, a, b):
    return x[0], (x[0],)


@pytest.mark.parametrize("reference", [None, plain])
def test_a_wrong_gradient_is_found(reference, make, device):
    x = normal(6, 1, 2).to(device)
    make(reference=reference).check(x)
    with pytest.raises(ValueError, match=r"the gradient of wrong is wrong at x = \[\[.*element 0 is .* should be"):
        make(wrong, reference=reference).check(x)
    if reference is not None:
        with pytest.raises(ValueError, match="the energy of wrong_value is wrong"):
            make(wrong_value, reference=reference).check(x)
        make(wrong_value).check(x)  # an energy of its own, whose gradient is right and in part a plain number


def test_what_a_function_must_return(make, device):
    """The compiler's error is of the call that led there, and has the assertion as its cause."""
    with pytest.raises(Exception, match=r"= evaluate\(|one number for each of x") as caught:
        make(too_short).energy_and_grad(normal(2, 1, 2).to(device))
    errors: list[BaseException] = [caught.value]
    while errors[-1].__cause__ is not None:
        errors.append(errors[-1].__cause__)
    assert "one number for each of x" in str(errors[-1])


def test_refusals_say_why(make, device):
    x = normal(4, 1, 2).to(device)
    for change, words in (
        ({"x0": x.double()}, "float32, x has dtype float64"), ({"backend": "cpu"}, "runs on backend 'triton', got 'cpu'"),
        ({"condition": {"y": x}}, "called with a condition"),
        ({"sampler": ef.HMC(0.1, inverse_mass=torch.eye(2, device=device))}, "dense"),
    ):  # fmt: skip
        options = {"sampler": ef.HMC(0.1), "x0": x, **change}
        energy = make(reference=plain)
        with pytest.raises(ValueError, match=f"strategy='fused' cannot run this chain: .*{words}"):
            ef.sample(energy, options.pop("sampler"), options.pop("x0"), num_steps=2, strategy="fused", **options)


def test_the_example_finds_the_exact_mean(capsys):
    """Standard errors from 32 independent chains (Student's t, 31 degrees): 6.1 is exceeded once in 1e6. In the interpreter they
    are 0.03 and 0.15, so that a mean off by 0.3 posterior standard deviations (0.9 and 4.6) would be seen; on a GPU, by 0.01."""
    path = Path(__file__).resolve().parents[2] / "examples" / "fused_energy.py"
    off = runpy.run_path(str(path), run_name="example")["main"]()
    assert off.abs().max() < 6.1
    said = capsys.readouterr().out
    assert said.startswith("strategy fused")
    assert "exact" in said
