"""chain_: whole chains on structured energies equal the ops composed step by step, on every ISA and however they are cut."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast.ops import chain_
from ebm_fast.ops.backend import native, why_not

pytestmark = pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")
N, K = 37, 50


@pytest.fixture(params=["avx512", "avx2", "baseline"])  # avx512_bf16 is avx512 but for bfloat16 products
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    module = native()
    assert module is not None
    if request.param not in module.available_isas():
        pytest.skip(f"{request.param} is missing here")
    before = module.current_isa()
    module.force_isa(request.param)
    yield request.param
    module.force_isa(before)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def descriptor(
    kind: str, dim: int, integers: tuple[int, ...], *parts: Any, offset: float = 0.0, precision: str = "float32"
) -> SimpleNamespace:
    parameters = torch.cat([torch.as_tensor(p, dtype=torch.float32).reshape(-1) for p in parts])
    return SimpleNamespace(kind=kind, dim=dim, integers=integers, parameters=parameters, offset=offset,
                           precision=precision)  # fmt: skip


def spd(d: int) -> Tensor:
    a = normal(d, d, seed=5)
    return a @ a.T / d + torch.eye(d)


def mlp(dim: int, widths: tuple[int, ...]) -> Tensor:
    """Weights and biases whose energy bends: deep and with a bowl in no direction, so chains stay short."""
    sizes = zip((dim, *widths), (*widths, 1))
    return torch.cat([1.2 * normal(out * (into + 1), seed=into) / into**0.5 for into, out in sizes])


WIDTHS = {"tanh": (9, 13), "silu": (17,), "relu": (12, 7, 6), "leaky": (8, 8), "softplus": (5, 6, 7, 8), "gelu": (13, 6)}


# (descriptor, leapfrog step); events of sizes that are no multiple of anything
TARGETS = {
    "gaussian_diagonal": (descriptor("gaussian_diagonal", 7, (), normal(7), normal(7, seed=1).exp()), 0.2),
    "gaussian_dense": (descriptor("gaussian_dense", 13, (), normal(13), spd(13)), 0.2),
    "mixture": (descriptor("mixture", 3, (5,), normal(5), 2 * normal(5, 3), normal(5, 3, seed=1).exp()), 0.1),
    "mixture_wide": (descriptor("mixture", 5, (9,), normal(9), normal(9, 5), normal(9, 5, seed=1).exp()), 0.1),
    "gamma": (descriptor("gamma", 3, (), 2 + normal(3).exp(), normal(3, seed=1).exp()), 0.05),
    "double_well": (descriptor("double_well", 3, (), 1.0, 1.1), 0.1),
    "rosenbrock": (descriptor("rosenbrock", 3, (), 1.0, 5.0), 0.05),
    "funnel": (descriptor("funnel", 5, (), 3.0), 0.1),
    "ring": (descriptor("ring", 2, (), 2.0, 0.5), 0.1),
    "phi_four": (descriptor("phi_four", 12, (4, 3), -0.5, 0.3), 0.1),
    "logistic_regression": (descriptor("logistic_regression", 5, (20,), 1.0, normal(20, 5)), 0.2),
    **{
        f"mlp_{act}": (descriptor("mlp", 3, (k, len(widths), *widths), 0.1, mlp(3, widths)), 0.2)
        for k, (act, widths) in enumerate(WIDTHS.items())
    },
    "mlp_bfloat16": (descriptor("mlp", 3, (1, 2, 9, 13), 0.1, mlp(3, (9, 13)), precision="bfloat16"), 0.2),
    "eight_schools": (descriptor("eight_schools", 10, (8,), 5.0, 5.0, 10 * normal(8), 1 / (10 + normal(8))), 0.1),
}
MOVES: dict[str, dict[str, Any]] = {
    "langevin": {"transition": "langevin", "noise_std": 0.05},
    "random_walk": {"transition": "random_walk"},
    "mala": {"transition": "hmc", "leapfrogs": 1},
    "hmc": {"transition": "hmc", "leapfrogs": 4, "max_error": 1000.0},
    "ghmc": {"transition": "hmc", "leapfrogs": 2, "flip": True, "persistence": 0.7},
    "baoab": {"transition": "baoab", "persistence": 0.8, "noise_std": 0.6},
}


def start(target: SimpleNamespace, n: int = N) -> Tensor:
    x = normal(n, target.dim, seed=3)
    return x.exp() + 0.5 if target.kind == "gamma" else x


def run(target: SimpleNamespace, x: Tensor, backend: str = "cpu", steps: int = K, **options: Any) -> SimpleNamespace:
    """A recorded run from x, which stays; everything that it wrote."""
    n, kept = x.shape[0], steps // options.get("thin", 1)
    out: dict[str, Any] = {
        "samples": torch.full((kept, *x.shape), math.nan), "energies": torch.full((kept, n), math.nan),
        "counters": torch.zeros(n, 5, dtype=torch.float64),
    }  # fmt: skip
    if options["transition"] in ("langevin", "baoab"):
        out["divergence_step"] = torch.full((n,), -1)
        out["norm_sum"] = torch.zeros(n, dtype=torch.float64)
    else:
        out["hamiltonians"] = torch.full((kept, n), math.nan, dtype=torch.float64)
    if options["transition"] == "baoab" or options.get("flip") or options.get("heavy_ball"):
        out["momentum"] = normal(*x.shape, seed=9)
    elif options["transition"] == "hmc" and options.get("leapfrogs", 1) != 1:
        out["momentum"], out["proposal"] = torch.full_like(x, math.nan), torch.full_like(x, math.nan)
    out.update(options)
    x = x.clone()
    chain_(x, target, steps=steps, backend=backend, **out)
    return SimpleNamespace(**out, x=x)


def assert_same_chain(a: SimpleNamespace, b: SimpleNamespace, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` relative to 1 + |x|; a decision may differ where its two sides agree to rounding: here none does."""
    assert torch.equal(a.counters[:, 1:3], b.counters[:, 1:3])
    assert ((a.samples - b.samples).abs() / (1 + b.samples.abs())).max().item() <= tolerance
    assert ((a.energies - b.energies).abs() / (1 + b.energies.abs())).max().item() <= 3 * tolerance
    for name in ("hamiltonians", "counters", "norm_sum", "momentum", "proposal"):
        if hasattr(a, name):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=3e-5, atol=1e-4)


def step_of(move: str, size: float) -> float:
    return {"langevin": size * size / 2, "random_walk": 3 * size, "ghmc": size / 2}.get(move, size)


@functools.cache
def pair(name: str, move: str, backend: str) -> SimpleNamespace:
    target, size = TARGETS[name]
    options = {**MOVES[move], "step_size": step_of(move, size), "seed": 2**63 + 5, "step": 2**32 - 20, "chain_offset": 11}
    return run(target, start(target), backend, **options)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", [name for name in TARGETS if name != "mlp_bfloat16"])
def test_every_pair_is_the_chain_of_the_reference(name, move, isa):
    fused = pair.__wrapped__(name, move, "cpu")
    assert_same_chain(fused, pair(name, move, "reference"))
    if move == "random_walk":  # there are both decisions to compare
        assert 0.05 < fused.counters[:, 1].mean() / K < 0.98


LANGEVIN: dict[str, dict[str, Any]] = {
    "clip": {"grad_clip": 0.7}, "clip_norm": {"grad_clip_norm": 0.5}, "clip_norm_0": {"grad_clip_norm": 0.0},
    "clamp_step": {"step_bounds": (-0.4, 0.6)}, "clamp_noise": {"noise_bounds": (-0.4, math.inf)},
    "both": {"step_bounds": (-0.4, 0.6), "noise_bounds": (-0.3, 0.5)}, "heavy_ball": {"heavy_ball": 0.8},
    "prior": {"prior_precision": 0.5}, "scale": {"scale": 0.5 + normal(13, seed=4).abs()}, "quiet": {"noise_std": 0.0},
    "per_chain": {"step_size": 0.01 + 0.02 * normal(N, seed=6).abs(), "noise_std": normal(N, seed=7).abs()},
    "schedule": {"step_size": 0.02 * normal(K, 1, seed=6).abs(), "noise_std": normal(K, N, seed=7).abs()},
}  # fmt: skip


@pytest.mark.parametrize("noise_first", [False, True])
@pytest.mark.parametrize("form", LANGEVIN)
def test_every_form_of_langevin(form, noise_first):
    target = TARGETS["gaussian_dense"][0]
    options = {"transition": "langevin", "step_size": 0.03, "noise_std": 0.2, "seed": 1, "noise_first": noise_first,
               **LANGEVIN[form]}  # fmt: skip
    plain = run(target, start(target), **{**options, "norm_sum": None, "divergence_step": None})
    guarded = run(target, start(target), **options)
    assert torch.equal(plain.samples, guarded.samples)
    reference = run(target, start(target), "reference", **options)
    assert_same_chain(guarded, reference)
    bare = run(target, start(target), transition="langevin", step_size=0.03, noise_std=0.2, seed=1)
    assert not torch.allclose(guarded.samples, bare.samples, atol=1e-3)


@pytest.mark.parametrize("move", ["random_walk", "hmc", "ghmc", "baoab"])
def test_coefficients_of_chains_and_steps(move):
    target, size = TARGETS["gaussian_dense"]
    base = {**MOVES[move], "seed": 4, "scale": 0.5 + normal(13, seed=4).abs(), "step_size": size}
    variants: list[dict[str, Any]] = [
        {"step_size": size * (0.5 + torch.rand(N, generator=torch.Generator().manual_seed(1)))},
        {"step_size": size * (0.5 + torch.rand(K, 1, generator=torch.Generator().manual_seed(1)))},
        {"beta": torch.linspace(0.2, 2.0, N)}, {"beta": torch.linspace(0.2, 2.0, K)[:, None]},
    ]  # fmt: skip
    if move == "hmc":
        variants.append({"leapfrogs": [1 + k % 5 for k in range(K)]})
    if move == "baoab":
        variants = [*variants[:2], {"persistence": torch.linspace(0.1, 0.9, N), "noise_std": torch.linspace(0.1, 2.0, N)}]
    seen = [run(target, start(target), **base).samples]
    for variant in variants:
        options = {**base, **variant}
        fused = run(target, start(target), **options)
        assert_same_chain(fused, run(target, start(target), "reference", **options))
        assert not any(torch.equal(fused.samples, other) for other in seen)
        seen.append(fused.samples)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", ["gaussian_dense", "mixture", "rosenbrock", "mlp_relu", "mlp_bfloat16"])
def test_a_chain_is_the_same_however_it_is_cut(name, move):
    """Bitwise: threads, batch, order of calls, carried energies, thinning."""
    target, size = TARGETS[name]
    options = {**MOVES[move], "step_size": step_of(move, size), "seed": 3}
    x0, carries = start(target, 150), move in ("ghmc", "baoab")
    threads = torch.get_num_threads()
    whole = run(target, x0, **options)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        again = run(target, x0, **options)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.samples, whole.samples)
    for first, last in ((0, 1), (17, 60), (149, 150)):
        part = {**options, "chain_offset": first}
        if carries:
            part["momentum"] = normal(150, target.dim, seed=9)[first:last].clone()
        piece = run(target, x0[first:last], **part)
        assert torch.equal(piece.samples, whole.samples[:, first:last])
        for end in ("momentum", "proposal") if move == "hmc" else ():
            assert torch.equal(getattr(piece, end), getattr(whole, end)[first:last])
    for carry in (False, True):
        x, energy, grad = x0.clone(), torch.empty(150), torch.empty_like(x0)
        parts = []
        rest = {k: v for k, v in options.items() if k != "seed"}
        if carries:
            rest["momentum"] = normal(150, target.dim, seed=9)
        for step, steps in ((0, 1), (1, 29), (30, 20)):
            parts.append(torch.empty(steps, *x.shape))
            chain_(x, target, steps=steps, step=step, seed=3, samples=parts[-1], energy=energy if carry else None,
                   grad=grad if carry else None, carried=carry and step > 0, backend="cpu", **rest)  # fmt: skip
        assert torch.equal(torch.cat(parts), whole.samples)
    thinned = run(target, x0, **{**options, "thin": 7})
    assert torch.equal(thinned.samples, whole.samples[6::7])
    assert torch.equal(thinned.energies, whole.energies[6::7])


def test_event_shapes_and_the_counter_on_the_device():
    target, size = TARGETS["phi_four"]
    options = {**MOVES["hmc"], "step_size": size}
    flat = run(target, start(target), seed=7, step=9, **options)
    x = start(target).view(N, 4, 3)
    chain_(x, target, steps=K, rng=torch.tensor([7, 4]), step=5, backend="cpu", **options)
    assert torch.equal(x.view(N, 12), flat.x)


def test_streaming_moments_are_those_of_the_samples():
    target, size = TARGETS["gaussian_dense"]
    mean, squares = torch.zeros(N, 13), torch.zeros(N, 13)
    options = {**MOVES["hmc"], "step_size": size, "seed": 3, "mean": mean, "squares": squares}
    first = run(target, start(target), **options)
    second = run(target, first.x, **{**options, "step": K, "count": K, "thin": 1})
    both = torch.cat((first.samples, second.samples)).double()
    torch.testing.assert_close(mean.double(), both.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squares.double() / (2 * K - 1), both.var(0), rtol=1e-4, atol=1e-5)


def test_an_offset_is_part_of_every_energy():
    target, size = TARGETS["gaussian_diagonal"]
    shifted = SimpleNamespace(**{**vars(target), "offset": 3.5})
    options = {**MOVES["hmc"], "step_size": size, "seed": 3, "beta": 0.5}
    a, b = run(target, start(target), **options), run(shifted, start(target), **options)
    torch.testing.assert_close(b.energies, a.energies + 3.5)
    torch.testing.assert_close(b.hamiltonians, a.hamiltonians + 1.75, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("move", ["langevin", "baoab"])
def test_chains_that_cannot_go_on_are_frozen_at_the_step_of_the_reference(move, isa):
    """A double well with a step far beyond stability: x grows like x^3 until it leaves the range; others stay."""
    target = descriptor("double_well", 3, (), 1.0, 1.0)
    x0 = start(target)
    x0[::3] *= 30.0
    options = {**MOVES[move], "step_size": 0.02 if move == "langevin" else 0.14, "noise_std": 0.1, "seed": 3}
    fused, reference = run(target, x0, **options), run(target, x0, "reference", **options)
    assert torch.equal(fused.divergence_step, reference.divergence_step)
    lost = fused.divergence_step >= 0
    assert lost[::3].any()
    assert not lost.all()
    assert torch.isfinite(fused.x).all()
    assert torch.equal(fused.samples[-1][lost], fused.samples[-2][lost])
    assert not torch.equal(fused.samples[-1][~lost], fused.samples[-2][~lost])
    resumed = run(target, fused.x, **{**options, "step": K, "divergence_step": fused.divergence_step.clone()})
    assert torch.equal(resumed.x[lost], fused.x[lost])


def test_proposals_that_are_not_finite_are_rejected_and_counted(isa):
    target = TARGETS["gamma"][0]
    options = {**MOVES["random_walk"], "step_size": 2.0, "seed": 3}
    fused = run(target, start(target), **options)
    assert_same_chain(fused, run(target, start(target), "reference", **options))
    assert (fused.samples > 0).all()
    assert fused.counters[:, 2].sum() > 100
    wild = run(descriptor("double_well", 3, (), 1.0, 1.0), start(target), **{**MOVES["hmc"], "step_size": 1e12, "seed": 3})
    assert torch.equal(wild.counters[:, 2], torch.full((N,), float(K), dtype=torch.float64))
    assert torch.isfinite(wild.samples).all()


FUNCTIONS = {
    "exp": (0, torch.exp, 2.0), "log": (1, torch.log, 2.0), "sin": (2, torch.sin, 2.0), "cos": (3, torch.cos, 2.0),
    "tanh": (4, torch.tanh, 2.0), "softplus": (5, lambda v: torch.logaddexp(v, torch.zeros_like(v)), 2.0),
    "sigmoid": (6, torch.sigmoid, 2.5),
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_vector_functions_over_the_whole_range_of_float32(function, isa):
    """Every 8191-th float there is, and dense where the functions bend, against float64; units in the last place."""
    index, truth, bound = FUNCTIONS[function]
    bits = torch.arange(-(2**31), 2**31, 8191).to(torch.int32).view(torch.float32)
    turns = torch.arange(1, 500_001, dtype=torch.float64) * (math.pi / 2)
    dense = [torch.linspace(-s, s, 300_000) for s in (0.1, 3.0, 120.0, 2.0**20)]
    x = torch.cat([bits[~bits.isnan()], turns.float(), *dense, torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])])
    y = torch.full_like(x, 7.0)
    module = native()
    assert module is not None
    module.math_cpu(index, x.data_ptr(), y.data_ptr(), x.numel())
    exact = truth(x.double())
    rounded = exact.float()
    ulp = (torch.nextafter(rounded.abs(), torch.tensor(math.inf)) - rounded.abs()).double()
    normal = torch.isfinite(rounded)
    error = ((y.double() - exact).abs() / ulp)[normal]
    assert error.max() <= bound, f"{error.max():.2f} ulp at {x[normal][error.argmax()]:.9g}"
    other = ~normal
    assert torch.equal(y[other].isnan(), rounded[other].isnan())
    assert torch.equal(y[other].nan_to_num(0.0, 1.0, -1.0), rounded[other].nan_to_num(0.0, 1.0, -1.0))


def test_powers_of_two_as_weights(isa):
    """exp2_weight: 2^x on [-125, 0] to 2 units in the last place, no less than 2^-125 below, NaN stays."""
    x = torch.cat([torch.linspace(-125.0, 0.0, 400_001), torch.tensor([-126.0, -1e30, -math.inf, math.nan])])
    y = torch.empty_like(x)
    module = native()
    assert module is not None
    module.math_cpu(7, x.data_ptr(), y.data_ptr(), x.numel())
    exact = torch.exp2(x[:-4].double())
    assert ((y[:-4].double() - exact).abs() / exact).max().item() <= 2 * 2.0**-23
    assert y[-4:-1].tolist() == [2.0**-125] * 3
    assert y[-1].isnan()


def test_the_stationary_law_of_a_long_run():
    """Dense Gaussian, 4000 chains from the exact law, 200 HMC proposals: variances along the axes of P within 4.9 standard errors
    (1e-6 two-sided; sd of a variance sqrt(2 / 4000) = 2.2 %), so that an error of 15 % is seen with probability 0.97 an axis."""
    target = TARGETS["gaussian_dense"][0]
    mean, precision = target.parameters[:13].double(), target.parameters[13:].view(13, 13).double()
    values, vectors = torch.linalg.eigh(precision)
    x0 = (mean + normal(4000, 13, seed=8).double() / values.sqrt() @ vectors.T).float()
    end = run(target, x0, steps=200, transition="hmc", leapfrogs=3, step_size=0.5, seed=11, thin=200)
    assert 0.6 < end.counters[:, 1].mean() / 200 < 0.98
    z = (end.x.double() - mean) @ vectors * values.sqrt()
    assert (z.mean(0).abs() * math.sqrt(4000)).max() < 5.4  # 13 axes share the 1e-6
    assert ((z.square().mean(0) - 1).abs() / math.sqrt(2 / 4000)).max() < 5.4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"transition": "nuts"}, ValueError, "transition must be one of"),
        ({"steps": -1}, ValueError, "steps must be"),
        ({"step_size": -0.1}, ValueError, "step_size"),
        ({"step_size": torch.ones(5)}, ValueError, r"step_size must be .* got \(5,\)"),
        ({"leapfrogs": [1, 2]}, ValueError, "one per step, got 2"),
        ({"leapfrogs": True}, TypeError, "leapfrogs must be an int or ints"),
        ({"leapfrogs": [1.7] * 10}, TypeError, "leapfrogs must be an int or ints"),
        ({"step_bounds": (1.0, -1.0)}, ValueError, "step_bounds must be a pair"),
        ({"leapfrogs": 0}, ValueError, "leapfrogs must be at least 1"),
        ({"flip": True}, ValueError, "momentum must be given"),
        ({"momentum": torch.zeros(4, 2)}, ValueError, "momentum is not carried"),
        ({"proposal": torch.zeros(4, 2)}, ValueError, "momentum must be given"),
        ({"proposal": torch.zeros(4, 2), "transition": "baoab"}, ValueError, "proposal is where a trajectory"),
        ({"proposal": torch.zeros(4, 3), "momentum": torch.zeros(4, 2)}, ValueError, "proposal must be a contiguous tensor"),
        ({"carried": True}, ValueError, "carried=True needs energy and grad"),
        ({"samples": torch.empty(3, 4, 2)}, ValueError, r"samples must be .*\(10, 4, 2\)"),
        ({"mean": torch.zeros(4, 2)}, ValueError, "mean and squares go together"),
        ({"grad_clip": 1.0, "grad_clip_norm": 1.0}, ValueError, "not both"),
        ({"x": torch.zeros(4, 3)}, ValueError, "x must have events of 2 numbers .* got 3"),
        ({"x": torch.zeros(4, 2, dtype=torch.float64)}, TypeError, "x must have dtype float32"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    target = descriptor("ring", 2, (), 1.0, 1.0)
    arguments = {"x": torch.zeros(4, 2), "transition": "hmc", "steps": 10, "step_size": 0.1, **change}
    with pytest.raises(error, match=words):
        chain_(arguments.pop("x"), target, arguments.pop("transition"), **arguments)


def test_written_tensors_have_their_memory_to_themselves():
    """Nothing is run, and x is as before."""
    target, memory = descriptor("ring", 2, (), 1.0, 1.0), torch.ones(6, 4, 2)
    x, options = memory[0], {"steps": 5, "seed": 0}
    at, scale = torch.full((4,), 0.1), torch.ones(2)
    for what, match in (
        ({"samples": memory[:5]}, "samples overlaps x"), ({"grad": x}, "grad overlaps x"),
        ({"step_size": at, "energy": at}, "step_size_at overlaps energy"),
        ({"scale": scale, "mean": memory[1], "squares": memory[1]}, "squares overlaps mean"),
        ({"scale": memory[2, 0], "mean": memory[1], "squares": memory[2]}, "scale overlaps squares"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            chain_(x, target, "hmc", **options | {"step_size": 0.1} | what)
        assert bool((memory == 1).all())
    chain_(x, target, "hmc", step_size=at, scale=scale, samples=memory[1:], **options)
    assert torch.equal(memory[5], x)


def test_descriptors_that_do_not_fit_are_refused():
    x = torch.zeros(4, 2)
    for kind, integers, size, words in (
        ("nonsense", (), 2, "kind must be one of"), ("ring", (), 3, r"\(2,\)"), ("mixture", (), 5, "integers do not fit"),
        ("phi_four", (3, 4), 2, "do not fit"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            chain_(x, descriptor(kind, 2, integers, torch.zeros(size)), "hmc", steps=1, step_size=0.1)


def test_a_backend_without_whole_chains_says_so(monkeypatch):
    import ebm_fast.ops.chain as module

    monkeypatch.setattr(module, "pick", lambda backend, device: "triton")
    target, x = descriptor("ring", 2, (), 1.0, 1.0), torch.ones(4, 2)
    with pytest.raises(ef.ops.BackendError, match="backend 'triton' has no whole chains"):
        chain_(x.clone(), target, "hmc", steps=2, step_size=0.1, seed=1, backend="triton")
    plain = chain_(x.clone(), target, "hmc", steps=2, step_size=0.1, seed=1)
    monkeypatch.undo()
    assert torch.equal(plain, chain_(x.clone(), target, "hmc", steps=2, step_size=0.1, seed=1, backend="reference"))


def test_versions_move_and_nothing_happens_without_steps():
    target = descriptor("ring", 2, (), 1.0, 1.0)
    x = torch.ones(4, 2)
    before = x._version
    chain_(x, target, "hmc", steps=0, step_size=0.1, seed=1)
    assert torch.equal(x, torch.ones(4, 2))
    chain_(x, target, "hmc", steps=1, step_size=0.1, seed=1)
    assert x._version > before
    empty = torch.zeros(0, 2)
    assert chain_(empty, target, "hmc", steps=3, step_size=0.1, seed=1) is empty
    assert ef.ops.chain_ is chain_


@pytest.mark.parametrize(
    ("kind", "dim", "integers"), [("logistic_regression", 1, (-1,)), ("phi_four", 6, (-2, -3)), ("mixture", 1, (0,))]
)
def test_sizes_are_positive(kind, dim, integers):
    bad = SimpleNamespace(kind=kind, dim=dim, integers=integers, parameters=torch.zeros(2))
    with pytest.raises(ValueError, match="must be positive ints"):
        ef.ops.chain_(torch.zeros(4, dim), bad, "random_walk", steps=1, step_size=0.1)
