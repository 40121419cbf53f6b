"""Whole chains by the CUDA sources, on a GPU or on the CPU thread by thread: the chains of the CPU and of the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from chain_emulation import SHARED_BYTES, ChainOnCpu
from ops.test_chain import (
    LANGEVIN,
    MOVES,
    TARGETS,
    assert_same_chain,
    descriptor,
    mlp,
    normal,
    run,
    spd,
    start,
    step_of,
)
from torch import Tensor

import ebm_fast as ef
import ebm_fast.ops.chain as chain_op
from ebm_fast.engine import fused
from ebm_fast.ops.backend import implementation, why_not

pytestmark = pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")
N, K = 9, 20
Fast = Callable[..., SimpleNamespace]


def through_gpu(x: Tensor, *args: Any) -> None:
    """The CUDA op on copies of CPU tensors, which are then what it left."""
    moved = [(a, a.cuda()) if isinstance(a, Tensor) else (a, a) for a in (x, *args)]
    implementation("chain_", "cuda")(*(b for _, b in moved))
    for a, b in moved:
        if isinstance(a, Tensor):
            a.copy_(b)


@pytest.fixture(scope="module", params=["cuda_on_cpu", "cuda"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "cuda":
        if why_not("cuda"):
            pytest.skip(why_not("cuda"))
        return through_gpu
    toolkit = request.getfixturevalue("cuda_toolkit")
    return ChainOnCpu(tmp_path_factory.mktemp("chain_on_cpu"), toolkit / "include")


@pytest.fixture
def fast(runner: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fast]:
    """`run` of test_chain.py by the CUDA sources. Launches take at most 1000 steps, or as many as the test says."""

    def call(target: SimpleNamespace, x: Tensor, **options: Any) -> SimpleNamespace:
        with monkeypatch.context() as patch:
            patch.setattr(chain_op, "_runner", lambda x, backend, kind: runner)
            return run(target, x, **{"steps": K, **options})

    yield call
    limit(runner, 0)
    if isinstance(runner, ChainOnCpu):
        runner.shared_bytes, runner.processors.value = SHARED_BYTES, 1


def limit(runner: Any, most: int) -> None:
    if isinstance(runner, ChainOnCpu):
        runner.most_steps = most
    else:
        import ebm_fast._C as native

        native.force_chain_steps(most)


def on_cpu(target: SimpleNamespace, x: Tensor, **options: Any) -> SimpleNamespace:
    return run(target, x, **{"steps": K, **options})


def assert_same_bits(a: SimpleNamespace, b: SimpleNamespace, wide: float = 0.0) -> None:
    """wide: tolerance of what is in float64, whose sums may be in another order."""
    for name, value in vars(b).items():
        if isinstance(value, Tensor):
            bound = wide if value.dtype == torch.float64 else 0.0
            torch.testing.assert_close(getattr(a, name), value, rtol=bound, atol=bound, msg=lambda m, n=name: f"{n}: {m}")


# Events that one thread keeps in registers, and such that 4, 8, 32 and 256 threads share.
SIZES: dict[str, tuple[SimpleNamespace, float]] = {
    "diagonal 1": (descriptor("gaussian_diagonal", 1, (), 0.3, 2.0), 0.3),
    "diagonal 2": (descriptor("gaussian_diagonal", 2, (), normal(2), normal(2, seed=1).exp()), 0.2),
    "diagonal 27": (descriptor("gaussian_diagonal", 27, (), normal(27), normal(27, seed=1).exp()), 0.1),
    "diagonal 50": (descriptor("gaussian_diagonal", 50, (), normal(50), normal(50, seed=1).exp()), 0.05),
    "diagonal 5001": (descriptor("gaussian_diagonal", 5001, (), normal(5001), normal(5001, seed=1).exp()), 0.01),
    "gamma 1": (descriptor("gamma", 1, (), 3.0, 1.5), 0.1),
    "gamma 30": (descriptor("gamma", 30, (), 2 + normal(30).exp(), normal(30, seed=1).exp()), 0.02),
    "double well 1": (descriptor("double_well", 1, (), 1.0, 1.1), 0.1),
    "double well 2": (descriptor("double_well", 2, (), 1.0, 1.1), 0.1),
    "double well 70": (descriptor("double_well", 70, (), 1.0, 1.1), 0.03),
    "mixture 1": (descriptor("mixture", 1, (7,), normal(7), 2 * normal(7, 1), normal(7, 1, seed=1).exp()), 0.1),
    "mixture 2": (descriptor("mixture", 2, (8,), normal(8), 2 * normal(8, 2), normal(8, 2, seed=1).exp()), 0.1),
    "mixture 27": (descriptor("mixture", 27, (11,), normal(11), normal(11, 27), normal(11, 27, seed=1).exp()), 0.05),
    "rosenbrock 2": (descriptor("rosenbrock", 2, (), 1.0, 5.0), 0.05),
    "rosenbrock 45": (descriptor("rosenbrock", 45, (), 1.0, 5.0), 0.01),
    "funnel 2": (descriptor("funnel", 2, (), 3.0), 0.1),
    "funnel 90": (descriptor("funnel", 90, (), 3.0), 0.02),
    "ring 1": (descriptor("ring", 1, (), 2.0, 0.5), 0.1),
    "ring 27": (descriptor("ring", 27, (), 5.0, 0.5), 0.05),
    "phi four 63": (descriptor("phi_four", 63, (7, 9), -0.5, 0.3), 0.05),
    "phi four 300": (descriptor("phi_four", 300, (12, 25), -0.5, 0.3), 0.03),
    "eight schools 32": (descriptor("eight_schools", 32, (30,), 5.0, 5.0, 10 * normal(30), 1 / (10 + normal(30))), 0.05),
    "dense 2": (descriptor("gaussian_dense", 2, (), normal(2), spd(2)), 0.2),
    "dense 300": (descriptor("gaussian_dense", 300, (), normal(300), spd(300)), 0.03),
    "logistic 30": (descriptor("logistic_regression", 30, (150,), 1.0, normal(150, 30)), 0.03),
    "mlp 270": (descriptor("mlp", 270, (1, 2, 19, 40), 0.1, mlp(270, (19, 40))), 0.05),
}
SHARED = ("diagonal 27", "diagonal 5001", "mixture 27", "rosenbrock 45", "phi four 63", "dense 2", "logistic 30")
BASE = {"seed": 2**63 + 5, "step": 2**32 - 12, "chain_offset": 11}


def options_of(move: str, size: float) -> dict[str, Any]:
    return {**BASE, **MOVES[move], "step_size": step_of(move, size)}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", [name for name in TARGETS if name != "mlp_bfloat16"])  # see tensor cores below
def test_every_pair_is_the_chain_of_the_reference(name, move, fast, runner):
    target, size = TARGETS[name]
    mine, x = fast(target, start(target, N), **options_of(move, size)), start(target, N)
    assert_same_chain(mine, run(target, x, "reference", steps=K, **options_of(move, size)))
    # A CUDA thread and a lane of the CPU compute the same bits, but for sums in slices and for products on tensor cores.
    if runner is not through_gpu and target.kind not in ("logistic_regression", "mlp"):
        assert_same_bits(mine, on_cpu(target, x, **options_of(move, size)), 1e-13)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", SIZES)
def test_events_of_every_size(name, move, fast):
    """Sums over a team's threads are in an order of their own."""
    target, size = SIZES[name]
    n = 2 if target.dim > 1000 else N
    options = options_of(move, size) | {"steps": 5 if target.dim > 100 else K}
    assert_same_chain(fast(target, start(target, n), **options), on_cpu(target, start(target, n), **options))


@pytest.mark.parametrize("noise_first", [False, True])
@pytest.mark.parametrize("form", LANGEVIN)
def test_every_form_of_langevin(form, noise_first, fast):
    for target, cut in ((TARGETS["gaussian_dense"][0], 13), (SIZES["mixture 2"][0], 2)):
        options = {"transition": "langevin", "step_size": 0.03, "noise_std": 0.2, "seed": 1, "noise_first": noise_first,
                   **LANGEVIN[form]}  # fmt: skip
        for name, value in options.items():
            if isinstance(value, Tensor):
                options[name] = value[:cut].contiguous() if name == "scale" else value[..., :N][:K].contiguous()
        assert_same_chain(fast(target, start(target, N), **options), on_cpu(target, start(target, N), **options))


@pytest.mark.parametrize("move", ["random_walk", "hmc", "ghmc", "baoab"])
def test_coefficients_of_chains_and_steps(move, fast):
    target, size = SIZES["rosenbrock 45"]
    options = {**options_of(move, size), "scale": 0.5 + normal(45, seed=4).abs(), "beta": torch.linspace(0.2, 2.0, N),
               "step_size": size * (0.5 + torch.rand(K, 1, generator=torch.Generator().manual_seed(1)))}  # fmt: skip
    if move == "hmc":
        options["leapfrogs"] = [1 + k % 5 for k in range(K)]
    if move == "baoab":
        options |= {"persistence": torch.linspace(0.1, 0.9, N), "noise_std": torch.linspace(0.1, 2.0, N)}
    assert_same_chain(fast(target, start(target, N), **options), on_cpu(target, start(target, N), **options))


def everything(target: SimpleNamespace, n: int) -> dict[str, Tensor]:
    """What a call can be asked to keep, beyond what `run` does."""
    return {"mean": torch.zeros(n, target.dim), "squares": torch.zeros(n, target.dim)}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", SHARED)
def test_launches_batches_and_memory_change_no_bit(name, move, fast, runner):
    target, size = SIZES[name]
    n = 2 if target.dim > 1000 else N
    options, x = options_of(move, size) | {"thin": 3, "count": 5, "steps": 11}, start(target, n)
    whole = fast(target, x, **options, **everything(target, n))
    limit(runner, 4)  # which is no multiple of `thin`
    assert_same_bits(fast(target, x, **options, **everything(target, n)), whole)
    energy, grad = torch.full((n,), math.nan), torch.full_like(x, math.nan)
    carried = fast(target, x, **options, **everything(target, n), energy=energy, grad=grad)
    del carried.energy, carried.grad
    assert_same_bits(carried, whole)
    limit(runner, 0)
    if isinstance(runner, ChainOnCpu):
        before = runner.spaces[-1]
        runner.shared_bytes = 2048  # too little: arrays lie in the workspace
        assert_same_bits(fast(target, x, **options, **everything(target, n)), whole)
        assert runner.spaces[-1] > before or target.dim > 1000
        runner.shared_bytes = SHARED_BYTES
    if n == 2:
        return
    part = {**options, "chain_offset": BASE["chain_offset"] + 3}
    if hasattr(whole, "momentum"):
        part["momentum"] = normal(n, target.dim, seed=9)[3:5].clone()
    assert torch.equal(fast(target, x[3:5], **part).samples, whole.samples[:, 3:5])


MATRICES: dict[str, tuple[SimpleNamespace, float]] = {
    "dense 30": (descriptor("gaussian_dense", 30, (), normal(30), spd(30)), 0.05),
    "logistic 5": (descriptor("logistic_regression", 5, (290,), 1.0, normal(290, 5)), 0.03),
    "logistic 20": (descriptor("logistic_regression", 20, (265,), 1.0, normal(265, 20)), 0.03),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_in_shared_memory_changes_no_bit(name, move, fast, runner):
    """Nor does the chains' memory, from less than a block's arrays to all that is wanted, nor the number of chains in a block:
    with many processors it is few, and most threads help."""
    target, size = MATRICES[name]
    options, x = options_of(move, size) | {"steps": 5}, start(target, N)
    whole = fast(target, x, **options)
    assert_same_chain(whole, on_cpu(target, x, **options))
    if not isinstance(runner, ChainOnCpu):
        return
    for processors, kilobytes, near in ((1, 100, True), (132, 100, True), (1, 18, False), (132, 3, False), (1, 2, False)):
        runner.shared_bytes, before, runner.processors.value = kilobytes * 1024, runner.near_threads.value, processors
        assert_same_bits(fast(target, x, **options), whole)
        assert (runner.near_threads.value > before) is near


def few_components(count: int) -> SimpleNamespace:
    return descriptor("mixture", 2, (count,), normal(count), 2 * normal(count, 2), normal(count, 2, seed=1).exp())


def with_idle_components(target: SimpleNamespace, count: int) -> SimpleNamespace:
    """The same mixture of `count` components, the new ones of weight 0: more than the code for a few takes."""
    have = target.integers[0]
    c, mu, a = target.parameters.split([have, 2 * have, 2 * have])
    more = count - have
    return descriptor("mixture", 2, (count,), c, torch.full((more,), -math.inf), mu, torch.zeros(2 * more), a,
                      torch.ones(2 * more))  # fmt: skip


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_few_components_are_the_chain_of_many(count, move, fast, runner):
    """To the last bit: the number of components that the compiler knew, and those that fill it up, change nothing."""
    target, options = few_components(count), options_of(move, 0.2)
    few = fast(target, start(target, N), **options)
    many = fast(with_idle_components(target, 9), start(target, N), **options)
    assert_same_bits(few, many)
    other = fast(few_components(count + 1), start(target, N), **options)
    assert not torch.equal(few.x, other.x)
    if runner is not through_gpu:
        assert_same_bits(few, on_cpu(target, start(target, N), **options), 1e-13)


NOTHING = dict.fromkeys(("samples", "energies", "counters", "divergence_step", "norm_sum"))  # is kept


IN_REGISTERS = ("diagonal 1", "diagonal 2", "double well 1", "double well 2", "rosenbrock 2", "funnel 2", "ring", "mixture 2",
                "eight_schools")  # fmt: skip


IN_TEAMS = ("diagonal 27", "dense 2", "logistic 30", "mlp_tanh")


@pytest.mark.parametrize("name", [*IN_REGISTERS, "mixture 2 of 9", *IN_TEAMS])
def test_langevin_that_keeps_nothing_but_its_last_state(name, fast, runner):
    """The loop without options takes the steps of the one that has them, however they are cut into launches."""
    more = {name: TARGETS[name] for name in ("ring", "eight_schools", "mlp_tanh")} | {"mixture 2 of 9": (few_components(9), 0.1)}
    target, size = {**SIZES, **more}[name]
    n, emulated = 21 if name in IN_TEAMS else 150, isinstance(runner, ChainOnCpu)  # the last thread block has threads to spare
    x, options = start(target, n), {**options_of("langevin", size), "noise_std": 0.2}
    before = runner.bare_launches.value if emulated else 0
    full = fast(target, x, **options).x
    assert not emulated or runner.bare_launches.value == before
    assert torch.equal(fast(target, x, **options, **NOTHING).x, full)
    assert not emulated or runner.bare_launches.value == before + 1
    limit(runner, 7)
    assert torch.equal(fast(target, x, **options, **NOTHING).x, full)
    limit(runner, 0)
    late = {**options, "steps": 1, "rng": torch.tensor([BASE["seed"] - 2**64, BASE["step"] + K - 1])}
    late |= {"seed": 0, "step": 0}
    early = fast(target, x, **{**options, "steps": K - 1}, **NOTHING).x
    assert torch.equal(fast(target, early, **late, **NOTHING).x, full)
    assert not torch.equal(early, full)
    for option in ({"grad_clip": 0.1}, {"prior_precision": 0.5}, {"scale": torch.full((target.dim,), 0.5)}, {"noise_first": True},
                   {"step_bounds": (-0.1, 0.1)}, {"noise_bounds": (-0.1, 0.1)}, {"grad_clip_norm": 0.1}):  # fmt: skip
        assert not torch.equal(fast(target, x, **options, **NOTHING, **option).x, full), option


@pytest.mark.parametrize("move", MOVES)
def test_carried_energies_moments_and_counters_go_on(move, fast):
    target, size = SIZES["diagonal 27"]
    kept: list[dict[str, Any]] = []
    for do in (fast, on_cpu):
        state: dict[str, Any] = {"energy": torch.full((N,), math.nan), "grad": torch.full((N, 27), math.nan)}
        state |= everything(target, N)
        first = do(target, start(target, N), **options_of(move, size), **state, carried=False)
        names = ("counters", "norm_sum", "momentum", "divergence_step")
        state |= {name: getattr(first, name) for name in names if hasattr(first, name)}
        second = do(target, first.x, **options_of(move, size) | {"step": BASE["step"] + K, "count": K}, **state, carried=True)
        kept.append(vars(second))
    for name, value in kept[1].items():
        if isinstance(value, Tensor) and name != "grad":
            torch.testing.assert_close(kept[0][name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_counter_on_the_device(fast):
    target, size = SIZES["mixture 2"]
    options = {**MOVES["hmc"], "step_size": size}
    flat = fast(target, start(target, N), seed=7, step=9, **options)
    assert torch.equal(fast(target, start(target, N), rng=torch.tensor([7, 4]), step=5, **options).x, flat.x)


@pytest.mark.parametrize("dim", [2, 3, 30])
@pytest.mark.parametrize("move", ["langevin", "baoab"])
def test_chains_that_cannot_go_on_are_frozen_at_the_step_of_the_cpu(move, dim, fast):
    target = descriptor("double_well", dim, (), 1.0, 1.0)
    x = start(target, N)
    x[::3] *= 100.0
    options = {**MOVES[move], "step_size": 0.02 if move == "langevin" else 0.14, "noise_std": 0.1, "seed": 3, "steps": 50}
    mine, cpu = fast(target, x, **options), on_cpu(target, x, **options)
    assert torch.equal(mine.divergence_step, cpu.divergence_step)
    lost = mine.divergence_step >= 0
    assert lost[::3].all() and not lost.all()
    assert torch.isfinite(mine.x).all()
    assert torch.equal(mine.samples[-1][lost], mine.samples[-2][lost])
    assert not torch.equal(mine.samples[-1][~lost], mine.samples[-2][~lost])


def rounded(a: Tensor, precision: str) -> Tensor:
    """To bfloat16 (ties to even) or tf32 (10 bits, ties away), as float64."""
    if precision == "bfloat16":
        return a.float().bfloat16().double()
    return ((a.float().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double()


def rounded_mlp(target: SimpleNamespace, x: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """E and its gradient with both factors of every hidden layer's product rounded but for x, sums exact; tanh."""
    sizes, at, layers = (target.dim, *target.integers[2:]), 1, []
    for columns, rows in zip(sizes, (*sizes[1:], 1)):
        w, b = target.parameters[at:].double()[: rows * (columns + 1)].split([rows * columns, rows])
        layers.append((w.view(rows, columns), b))
        at += rows * (columns + 1)
    h, slopes = x.double(), []
    for w, b in layers[:-1]:
        h = torch.tanh((rounded(h, precision) if slopes else h) @ rounded(w, precision).T + b)
        slopes.append(1 - h * h)
    energy = h @ layers[-1][0][0] + layers[-1][1]
    delta = layers[-1][0].expand(len(x), -1)
    for (w, _), slope in zip(layers[-2::-1], slopes[::-1]):
        delta = rounded(delta * slope, precision) @ rounded(w, precision)
    return energy, delta


@pytest.mark.parametrize("widths", [(9, 13), (20, 33, 17)])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_tensor_cores_round_both_factors_and_nothing_else(precision, widths, fast):
    """One quiet step of size 1: x' = x - gradient. A factor beside a rounding boundary may fall on either side.

    In bfloat16 this is the specification, too.
    """
    target = descriptor("mlp", 5, (0, len(widths), *widths), 0.0, mlp(5, widths))
    x, energy = start(target, N), torch.empty(9)
    options = {"transition": "langevin", "step_size": 1.0, "noise_std": 0.0, "seed": 1, "steps": 1}
    exact = fast(target, x, **options)
    target.precision = precision
    mine = fast(target, x, **options)
    wanted, slope = rounded_mlp(target, x, precision)
    unit = 2.0**-11 if precision == "tf32" else 2.0**-8
    near = ((x - mine.x).double() - slope).abs() / (1 + slope.abs())
    assert near.median() < 1e-6
    assert near.max() < unit < 100 * (mine.x - exact.x).abs().max()
    if precision == "bfloat16":
        specified = run(target, x, "reference", **options)
        assert (mine.x - specified.x).abs().median() < 1e-6
        assert (mine.x - specified.x).abs().max() < unit
    again = fast(target, x, **options, energy=energy, grad=torch.empty_like(x))
    wanted, _ = rounded_mlp(target, again.x, precision)
    assert (energy - wanted).abs().median() < 1e-5


def test_what_a_gpu_would_need_is_said():
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    x = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"))
    reason = fused.why_not(ef.energies.Ring(), ef.HMC(0.1, 2), x, None, None)  # type: ignore[arg-type]
    assert reason == "torch sees no CUDA device"
    reason = fused.why_not(ef.energies.Ring(), ef.HMC(0.1, 2), x, None, "triton")  # type: ignore[arg-type]
    assert reason == "there is no whole-chain code of backend 'triton' on cuda"


@pytest.mark.cuda
def test_sample_takes_the_fused_path_on_a_gpu():
    if why_not("cuda"):
        pytest.skip(why_not("cuda"))
    energy, x = ef.energies.Ring().cuda(), torch.randn(1000, 2, device="cuda")
    for sampler in (ef.Langevin(0.01), ef.HMC(0.2, 4), ef.UnderdampedLangevin(0.05)):
        ours = ef.sample(energy, sampler, x, num_steps=30, warmup=5, seed=1)
        assert ours.strategy == "fused"
        theirs = ef.sample(energy, sampler, x, num_steps=30, warmup=5, seed=1, strategy="step")
        # The energy of the steps is torch's, rounded in an order of its own; near the middle of the ring its errors grow.
        apart = (ours.samples - theirs.samples).abs().amax((0, 2))
        assert apart.quantile(0.99) < 1e-4 and apart.max() < 1e-2


@pytest.mark.cuda
def test_a_captured_chain_goes_on_at_every_replay():
    if why_not("cuda"):
        pytest.skip(why_not("cuda"))
    for name in ("mixture 2", "dense 300"):
        target, size = SIZES[name]
        target = SimpleNamespace(**{**vars(target), "parameters": target.parameters.cuda()})
        x, rng = start(target, 100).cuda(), torch.tensor([5, 0], device="cuda")
        options = {"transition": "hmc", "leapfrogs": 3, "step_size": size, "steps": K}
        plain = ef.ops.chain_(x.clone(), target, **{**options, "steps": 3 * K}, seed=5)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        ef.ops.chain_(x.clone(), target, **options, rng=rng)  # libraries are loaded before the capture
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            ef.ops.chain_(x, target, **options, rng=rng)
            rng[1].add_(K)
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(x, plain)
