"""P2 and P3: K Langevin steps on a mixture and on an MLP in one native call, beside the loop that scripts write (`usual`), that
loop without its mistakes and on our own layout of the energy (`eager`), compiled, in a CUDA graph (on a GPU), and one jitted
JAX scan; and HMC on a dense Gaussian.

The floors of the mixture and the MLP are those of ceilings.py, measured in the same rounds; the multiplications of the MLP and
the dense Gaussian are also told as a fraction of what torch's sgemm reaches beside them.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import ceilings
import harness
import pytest
import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.ops.backend import why_not

STEP_SIZE, NOISE_STD = 0.01, 0.1
E = ef.energies
COMPONENTS, GEMM = 8, 512
LONGEST = 0.1  # seconds of a peer's call
Maker = Callable[[int], Callable[[], object]]  # steps -> a call of so many


def mixture(dim: int = 2) -> Any:
    means = 3.0 * torch.randn(COMPONENTS, dim, generator=torch.Generator().manual_seed(0))
    return E.GaussianMixture(means, 1.0, torch.full((COMPONENTS,), 1 / COMPONENTS))


def network(precision: str = "float32", dim: int = 2, width: int = 128) -> Any:
    torch.manual_seed(0)
    return E.MLPEnergy(dim, (width, width), "tanh", precision=precision).requires_grad_(False)


def network_flops(dim: int = 2, width: int = 128) -> float:
    """Of a gradient: two products a layer, forwards and backwards."""
    return 4.0 * (dim * width + width * width + width)


def usual(energy: Any) -> Callable[[Tensor, int], Tensor]:
    """The loop that scripts write: the energy as its formula says, gradients that nobody asked for, new tensors at each step."""
    if isinstance(energy, E.MLPEnergy):
        layers: list[torch.nn.Module] = []
        for linear in energy.layers:
            layers += [torch.nn.Linear(linear.in_features, linear.out_features), torch.nn.Tanh()]
        net = torch.nn.Sequential(*layers[:-1]).to(energy.layers[0].weight.device)
        value: Callable[[Tensor], Tensor] = net
    else:
        n = 8 * energy.dim
        c, mu, a = energy.descriptor().parameters.split([8, n, n])
        mu, a = mu.reshape(8, -1), a.reshape(8, -1)

        def value(x: Tensor) -> Tensor:
            return -torch.logsumexp(c - 0.5 * (a * (x[:, None] - mu) ** 2).sum(2), dim=1)

    def loop(start: Tensor, steps: int) -> Tensor:
        x = start.clone()
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            value(x).sum().backward()
            x = x - STEP_SIZE * x.grad + NOISE_STD * torch.randn_like(x)
        return x.detach()

    return loop


def mended(energy: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """The usual loop without its mistakes: parameters frozen, the gradient of x alone, one buffer for the noise."""
    x, noise = start.clone(), torch.empty_like(start)
    for _ in range(steps):
        x.requires_grad_(True)
        (grad,) = torch.autograd.grad(energy(x).sum(), x)
        x = x.detach().add_(grad, alpha=-STEP_SIZE).add_(noise.normal_(), alpha=NOISE_STD)
    return x


def fastest_compiled(energy: Any, start: Tensor) -> Callable[[Tensor], Tensor]:
    """torch.compile with kernels for all threads, or for one where a step is faster so: on a CPU that is often the case, since
    threads wait for each other at the end of each small kernel."""
    torch._dynamo.reset()  # or the ninth shape of a process would quietly run in eager mode
    every = torch.compile(energy, dynamic=False)
    if start.is_cuda or torch.get_num_threads() == 1:
        return every
    found = {}
    for compiled in (every, torch.compile(energy, dynamic=False, options={"cpp.threads": 1})):
        step = functools.partial(mended, compiled, start, 1)
        step()
        found[min(harness.timer("cpu")(step, 1)[0] for _ in range(3))] = compiled
    return found[min(found)]


def jax_chain(energy: Any, start: Tensor, steps: int, precision: str = "float32") -> Callable[[], object]:
    """The same chain as one jitted scan. JAX rounds float32 products to tf32 on a GPU unless told otherwise; torch does not."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the memory too
    import jax
    import jax.numpy as jnp

    if isinstance(energy, E.MLPEnergy):
        layers = [(jnp.asarray(p.weight.cpu().numpy()), jnp.asarray(p.bias.cpu().numpy())) for p in energy.layers]

        def value(x):
            for w, b in layers[:-1]:
                x = jnp.tanh(x @ w.T + b)
            return (x @ layers[-1][0].T + layers[-1][1]).sum()
    else:
        d, n = energy.descriptor(), 8 * energy.dim
        c, mu, a = (jnp.asarray(p.cpu().numpy()) for p in d.parameters.split([8, n, n]))
        mu, a = mu.reshape(8, -1), a.reshape(8, -1)

        def value(x):
            return -jax.nn.logsumexp(c - 0.5 * (a * (x[:, None] - mu) ** 2).sum(2), axis=1).sum()

    slope = jax.grad(value)

    def step(carry, _):
        x, key = carry
        key, now = jax.random.split(key)
        return (x - STEP_SIZE * slope(x) + NOISE_STD * jax.random.normal(now, x.shape), key), None

    run = jax.jit(lambda x, key: jax.lax.scan(step, (x, key), None, length=steps)[0])
    state = [jnp.asarray(start.cpu().numpy()), jax.random.key(0)]

    def call() -> None:
        with jax.default_matmul_precision(precision):
            state[:] = run(*state)
        jax.block_until_ready(state[0])

    return call


def torchebm_chain(energy: Any, start: Tensor, steps: int) -> Callable[[], object]:
    """The same chain by torchebm's sampler."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return energy(x)

    # Its noise is noise_scale sqrt(2 step_size). A model without parameters of its own brings states to the device it was made
    # with, which is the CPU unless told; so does a sampler.
    place = {"device": start.device}
    sampler = LangevinDynamics(Model(**place), step_size=STEP_SIZE, noise_scale=NOISE_STD / (2 * STEP_SIZE) ** 0.5, **place)
    end = sampler.sample(x=start, n_steps=1)
    if end.device != start.device:
        raise RuntimeError(f"torchebm moved the states to {end.device}")
    return lambda: sampler.sample(x=start, n_steps=steps)


def check(energy: Any, start: Tensor) -> None:
    """The chain that is timed is the specification's. Roundings grow between the modes of a mixture, and in bfloat16 a sum in
    another order may round to the next number: a few chains in a hundred may be further away. Tf32 is specified as float32."""
    bound = 1e-3 if getattr(energy, "precision", "float32") == "tf32" else 1e-4
    options = {"num_steps": 20, "step_size": STEP_SIZE, "noise_std": NOISE_STD, "seed": 1}
    truth = ef.langevin_(start.clone(), energy, strategy="reference", **options)
    ours = ef.langevin_(start.clone(), energy, strategy="fused", **options)
    error = ((ours - truth).abs() / (1 + truth.abs())).amax(1)
    assert torch.quantile(error, 0.95) < bound, f"95 % of the chains are off by up to {torch.quantile(error, 0.95):.2g}"
    assert error.max() < 2e-2, f"a chain is off by {error.max():.2g}"


def needs_code(device: str) -> None:
    if why_not(device):
        pytest.skip(why_not(device))


def contestants(energy: Any, chains: int, plain: Any = None, device: str = "cpu") -> dict[str, Maker]:
    """The chain on `energy` by us, and by everybody else on `plain`, the same energy in float32."""
    plain = energy if plain is None else plain
    start = torch.randn(chains, energy.dim, generator=torch.Generator().manual_seed(1)).to(device)
    check(energy, start[:500])
    x = start.clone()
    options: dict[str, Any] = {"step_size": STEP_SIZE, "noise_std": NOISE_STD, "seed": 1}
    compiled, script = fastest_compiled(plain, start), usual(plain)
    makers: dict[str, Maker] = {
        "ebm_fast": lambda steps: lambda: ef.langevin_(x, energy, num_steps=steps, strategy="fused", **options),
        "usual": lambda steps: lambda: script(start, steps),
        "eager": lambda steps: lambda: mended(plain, start, steps),
        "compiled": lambda steps: lambda: mended(compiled, start, steps),
        "step": lambda steps: lambda: ef.langevin_(x, energy, num_steps=steps, strategy="step", **options),
    }
    if device == "cuda":
        makers["graph"] = lambda steps: harness.graphed(lambda: mended(plain, start, steps))
    if importlib.util.find_spec("jax"):
        products = "float32" if getattr(energy, "precision", "float32") == "float32" else "tensorfloat32"
        makers["jax"] = lambda steps: jax_chain(plain, start, steps, products)
    if importlib.util.find_spec("torchebm"):
        makers["torchebm"] = lambda steps: torchebm_chain(plain, start, steps)
    return makers


def shorten(make: Maker, steps: int) -> int:
    """Steps to time a peer by, whose step costs the same in a long call as in a short one: at most about LONGEST seconds."""
    call = make(1)
    call()  # which compiles
    one = harness.timer("cpu")(call, 1)[0]
    if one < harness.LONG:
        one = min(one, harness.timer("cpu")(call, 1)[0])
    return max(1, min(steps, int(LONGEST / one)))


def compete(
    makers: dict[str, Maker], steps: int, others: dict[str, Callable[[], object]], seconds: float, device: str,
    fewest: int = harness.FEWEST,
) -> tuple[harness.Result, dict[str, Callable[[], object]]]:  # fmt: skip
    """A race of `steps` steps, in which peers on a CPU may run fewer, their time stretched accordingly."""
    whole = {name: name.startswith("ebm_fast") or device != "cpu" for name in makers}
    counts = {name: steps if whole[name] else shorten(make, steps) for name, make in makers.items()}
    calls = {name: make(counts[name]) for name, make in makers.items()} | others
    result = harness.race(calls, seconds=seconds, device=device, fewest=fewest)
    return result.scaled({name: steps / count for name, count in counts.items()}), calls


def on_a_gpu(energy: Any, ns: float, width: int) -> dict[str, Any]:
    """`ns` a chain and step beside what the GPU can do."""
    import ceilings_gpu

    if not width:
        floor = ceilings_gpu.mixture_floor(COMPONENTS)
        return {"ceiling_ns": floor, "fraction_of_ceiling": floor / ns, "ceilings_ns": ceilings_gpu.nanoseconds()}
    tflop_s, rates = network_flops(energy.dim, width) / ns / 1e3, ceilings_gpu.rates()
    # float32 is three products of tf32
    ceiling = rates["tf32_tflop_s"] / 3 if energy.precision == "float32" else rates[f"{energy.precision}_tflop_s"]
    return {"tflop_s": tflop_s, "fraction_of_matmul": tflop_s / ceiling, "rates": rates}


def race(case: str, energy: Any, chains: int, steps: int, width: int, device: str, seconds: float, record: Any,
         plain: Any = None) -> None:  # fmt: skip
    """Of a mixture, or an MLP of `width`."""
    needs_code(device)
    energy, plain = energy.to(device), None if plain is None else plain.to(device)
    a = torch.randn(GEMM, GEMM, device=device)
    others: dict[str, Callable[[], object]] = {"sgemm": lambda: torch.mm(a, a)}
    if device == "cpu":
        others |= ceilings.calls(energy.dim)
    else:
        steps = max(20, min(100, 10**7 // chains))  # one launch costs a step or two of few chains
    result, calls = compete(contestants(energy, chains, plain, device), steps, others, seconds, device)
    per = {name: result.median(name) / chains / steps * 1e9 for name in calls if name not in others}
    work: dict[str, Any] = {}
    if device == "cuda":
        work = on_a_gpu(energy, per["ebm_fast"], width)
    else:
        ns = ceilings.nanoseconds(result)
        floor = ceilings.network_floor(ns, energy.dim, width) if width else ceilings.mixture_floor(ns, COMPONENTS, energy.dim)
        work = {"ceiling_ns": floor, "fraction_of_ceiling": floor / per["ebm_fast"]}
    if width and device == "cpu":
        rate = {"sgemm_gflop_s": 2 * GEMM**3 / result.median("sgemm") / 1e9}
        work |= rate | {"gflop_s": network_flops(energy.dim, width) / per["ebm_fast"]}
    for name in others:  # they are told in `work`, and no peers
        del result.times[name], calls[name]
    record("chain", case, result, calls, ns_per_chain_step=per, **work)


@pytest.mark.parametrize("chains", [100, 10_000, 1_000_000], ids=["1e2", "1e4", "1e6"])
def test_mixture(chains, device, seconds, record):
    """P2: at 10^4 chains 30x the usual loop, 20x JAX."""
    steps = max(10, min(100, 10**6 // chains))
    race(f"P2 mixture M=8 d=2, {chains} chains", mixture(), chains, steps, 0, device, seconds, record)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("chains", [64, 4096])
def test_network(chains, precision, device, seconds, record):
    """P3: 2x eager and not slower than JAX at 4096 chains, 6x and 2x at 64; with products of bfloat16 3.5x eager (in float32)."""
    if device == "cpu" and precision == "tf32":
        pytest.skip("a CPU computes it in float32")
    case, steps = f"P3 MLP 2-128-128-1 {precision}, {chains} chains", 50 if chains == 64 else 5
    race(case, network(precision), chains, steps, 128, device, seconds, record, plain=network())


@pytest.mark.parametrize(("dim", "width"), [(2, 64), (64, 64), (64, 256)])
@pytest.mark.parametrize("chains", [64, 4096])
def test_network_of_size(chains, dim, width, device, seconds, record):
    """P3 at the ends of its range, float32."""
    case = f"P3 MLP {dim}-{width}-{width}-1 float32, {chains} chains"
    steps = 50 if chains == 64 else 5
    race(case, network(dim=dim, width=width), chains, steps, width, device, seconds, record)


def test_dense_gaussian(device, seconds, record):
    """HMC, L = 10, 256 chains, d = 100, a proposal: BlackJAX took 1.73 ms."""
    needs_code(device)
    d, n, leapfrogs, proposals = 100, 256, 10, 5
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(0))
    energy = E.Gaussian(torch.zeros(d), covariance=root @ root.T / d + torch.eye(d)).to(device)
    x0, sampler = torch.randn(n, d, generator=torch.Generator().manual_seed(1)).to(device), ef.HMC(0.2, leapfrogs)
    runs = [ef.sample(energy, sampler, x0, num_steps=10, seed=1, strategy=s).final for s in ("fused", "reference")]
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-4)
    a = torch.randn(GEMM, GEMM, device=device)
    options: dict[str, Any] = {"num_steps": proposals, "seed": 1, "record": False, "record_energy": False}
    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": lambda: ef.sample(energy, sampler, x0, strategy="fused", **options),
        "step": lambda: ef.sample(energy, sampler, x0, strategy="step", **options),
        "sgemm": lambda: torch.mm(a, a),
    }
    result = harness.race(calls, seconds=seconds, device=device)
    gradient = 2.0 * d * d * n * leapfrogs * proposals
    record(
        "chain", f"HMC L={leapfrogs} dense Gaussian d={d}, {n} chains, {proposals} proposals", result, calls,
        ms_per_proposal=result.median("ebm_fast") / proposals * 1e3, gflop_s=gradient / result.median("ebm_fast") / 1e9,
        sgemm_gflop_s=2 * GEMM**3 / result.median("sgemm") / 1e9,
    )  # fmt: skip


def long_event(kind: str, dim: int) -> Any:
    generator = torch.Generator().manual_seed(0)
    if kind == "phi-four":
        return E.PhiFour((dim // 64, 64), 0.5, 0.3)
    return E.Gaussian(torch.randn(dim, generator=generator), variance=0.5 + torch.randn(dim, generator=generator).square())


@pytest.mark.parametrize("sampler", [ef.Langevin(0.001), ef.HMC(0.01, 4)], ids=["langevin", "hmc"])
@pytest.mark.parametrize("chains", [1, 4, 16, 256])
@pytest.mark.parametrize(("kind", "dim"), [("phi-four", 4096), ("gaussian", 1024), ("gaussian", 10_000), ("gaussian", 100_000)])
def test_long_events(kind, dim, chains, sampler, device, seconds, record):
    """Few chains of many numbers: not slower than steps, 4x eager."""
    needs_code(device)
    if chains * dim > 3e6:
        pytest.skip("too long")
    energy = long_event(kind, dim).to(device)
    start = torch.randn(chains, *energy.event_shape, generator=torch.Generator().manual_seed(1)).to(device)
    runs = [ef.sample(energy, sampler, start, num_steps=5, seed=1, strategy=s).final for s in ("fused", "reference")]
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-4)
    options: dict[str, Any] = {"num_steps": max(20, min(1000, 10**7 // (chains * dim))), "seed": 1, "record": False}
    options["record_energy"] = False
    calls: dict[str, Callable[[], object]] = {
        "ebm_fast": lambda: ef.sample(energy, sampler, start, strategy="fused", **options),
        "step": lambda: ef.sample(energy, sampler, start, strategy="step", **options),
    }
    if isinstance(sampler, ef.Langevin):
        calls["eager"] = lambda: mended(energy, start, options["num_steps"])
    result = harness.race(calls, seconds=seconds, device=device)
    per = {name: result.median(name) / chains / dim / options["num_steps"] * 1e9 for name in calls}
    case = f"{type(sampler).__name__}, {kind} d={dim}, {chains} chains"
    record("chain", case, result, calls, ns_per_number_step=per)
