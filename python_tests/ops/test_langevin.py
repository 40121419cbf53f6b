"""The fused Langevin update: parity with the reference in every option, errors, torch.compile, opcheck."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from tolerances import UPDATE
from torch.utils._python_dispatch import TorchDispatchMode

import ebm_fast as ef
from ebm_fast.ops import langevin
from ebm_fast.ops.backend import implementation, pick

SHAPES = [(1, 1), (1, 1000), (63, 5), (7, 3, 5), (1000, 2), (3, 1000), (5, 64), (2, 1, 8, 8), (300, 1), (1000,)]
OPTIONS = {
    "plain": {},
    "decoupled": {"noise_std": 0.3},
    "temperature": {"temperature": 0.2},
    "noise-free": {"noise_std": 0.0},
    "noise only": {"grad": None},
    "clip": {"grad_clip": 0.3},
    "clip norm": {"grad_clip_norm": 0.5},
    "clamp after noise": {"clamp": (-0.5, 0.4)},
    "clamp after step": {"clamp": (-0.5, 0.4), "clamp_after": "step"},
    "clamp after both": {"clamp": (-0.5, None), "clamp_after": "both", "grad_clip": 0.1},
    "prior": {"prior_precision": 0.7, "grad_clip": 0.2},
    "heavy ball": {"momentum": 0.9, "velocity": True},
    "heavy ball, frozen": {"momentum": 0.5, "velocity": True, "active": True, "clamp": (-1, 1)},
    "per chain step": {"step_size": "per chain"},
    "per chain noise": {"noise_std": "per chain"},
    "device scalars": {"step_size": "scalar", "noise_std": "scalar"},
    "frozen": {"active": True},
    "scaled": {"scale": True},
    "scaled, one noise": {"scale": True, "noise_std": 0.3, "prior_precision": 0.5},
    "scaled, noise only": {"scale": True, "grad": None},
    "all": {"step_size": "per chain", "noise_std": "per chain", "clamp": (-0.6, 0.6), "clamp_after": "both",
            "grad_clip_norm": 0.5, "prior_precision": 0.1, "momentum": 0.3, "velocity": True, "active": True,
            "scale": True},
}  # fmt: skip


def arguments(option: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict:
    """Fresh inputs of one case; the same for every backend."""
    g = torch.Generator().manual_seed(5)
    x, grad = (torch.randn(shape, generator=g).to(dtype).to(device) for _ in range(2))
    kwargs = {"x": x, "grad": grad, "step_size": 0.1, "seed": 2**63 + 1, "step": 2**33, "chain_offset": 17} | OPTIONS[option]
    for name in ("step_size", "noise_std"):
        if kwargs.get(name) == "per chain":
            kwargs[name] = (torch.rand(shape[0], generator=g) * 0.3).to(device)
        elif kwargs.get(name) == "scalar":
            kwargs[name] = torch.tensor(0.2, device=device)
    if kwargs.pop("velocity", False):
        kwargs["velocity"] = torch.randn(shape, generator=g).to(dtype).to(device)
    if kwargs.pop("scale", False):
        arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
        kwargs["scale"] = (0.5 + torch.rand(shape[1:], generator=g)).to(device, arithmetic)
    if kwargs.pop("active", False):
        kwargs["active"] = (torch.arange(shape[0]) % 3 != 0).to(device)
    return kwargs


@pytest.mark.parametrize("dtype", UPDATE)
@pytest.mark.parametrize("option", OPTIONS)
def test_parity_with_the_reference(option, dtype, backend, device):
    for shape in SHAPES:
        fast, truth = (arguments(option, shape, dtype, where) for where in (device, "cpu"))
        before = truth["x"].clone()
        ef.ops.langevin_step_(backend=backend, **fast)
        ef.ops.langevin_step_(backend="reference", **truth)
        tolerance = {"atol": UPDATE[dtype], "rtol": UPDATE[dtype]}
        torch.testing.assert_close(fast["x"].cpu(), truth["x"], **tolerance)
        if "velocity" in truth:
            torch.testing.assert_close(fast["velocity"].cpu(), truth["velocity"], **tolerance)
        if "active" in truth:
            frozen = ~truth["active"]
            assert torch.equal(fast["x"].cpu()[frozen], before[frozen])


@pytest.mark.parametrize("dtype", UPDATE)
def test_norms_of_the_gradient_come_along(dtype, backend, device):
    """norm_sum += |g| before any clip, of active chains alone, as `event_norm` has it; the states are those without it."""
    for shape in SHAPES:
        for option in ("plain", "all", "scaled", "clip norm", "heavy ball, frozen"):
            case, other = arguments(option, shape, dtype, device), arguments(option, shape, dtype, device)
            start = torch.arange(shape[0], dtype=torch.float64, device=device)
            total = start.clone()
            ef.ops.langevin_step_(backend=backend, norm_sum=total, **case)
            ef.ops.langevin_step_(backend=backend, **other)
            assert torch.equal(case["x"], other["x"])
            norm = ef.ops.event_norm(other["grad"], backend=backend).double()
            live = other.get("active", torch.ones(shape[0], dtype=torch.bool, device=device))
            assert torch.equal(total, start + torch.where(live, norm, 0.0))


def test_the_norms_hang_on_no_cut():
    """Chains that end within a tile, at its end, and tiles later; the same on two threads."""
    for shape in [(3, 2048), (5, 2052), (2, 9001), (700, 13), (130, 784)]:
        x, g = torch.randn(shape), torch.randn(shape)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            total = torch.zeros(shape[0], dtype=torch.float64)
            ef.ops.langevin_step_(x.clone(), g, step_size=0.1, seed=1, norm_sum=total)
            assert torch.equal(total, ef.ops.event_norm(g).double())
    x = torch.randn(6, 4)
    for grad, match in ((None, "norm_sum needs grad"), (x, "grad overlaps x")):
        with pytest.raises(ValueError, match=match):
            ef.ops.langevin_step_(x, grad, step_size=0.1, seed=1, norm_sum=torch.zeros(6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"norm_sum must be a contiguous tensor of shape \(6,\), torch.float64"):
        ef.ops.langevin_step_(x, x.clone(), step_size=0.1, seed=1, norm_sum=torch.zeros(6))


def test_formula_by_hand():
    """x' = clamp(x - s clip(g) + n z), written out in float64 with the op's own normals."""
    x, g = torch.randn(50, 7, dtype=torch.float64), torch.randn(50, 7, dtype=torch.float64)
    z = ef.ops.normal_(torch.empty_like(x), seed=3, step=9, purpose="langevin", backend="reference")
    wanted = (x - 0.2 * g.clamp(-0.5, 0.5) + math.sqrt(2 * 0.2 * 0.7) * z).clamp(-1, 1)
    got = ef.ops.langevin_step_(
        x.clone(), g, step_size=0.2, temperature=0.7, grad_clip=0.5, clamp=(-1, 1), seed=3, step=9, backend="reference"
    )
    torch.testing.assert_close(got, wanted, atol=1e-14, rtol=1e-14)
    sigma = 0.5 + torch.rand(7, dtype=torch.float64)
    got = ef.ops.langevin_step_(x.clone(), g, step_size=0.2, scale=sigma, temperature=0.7, seed=3, step=9, backend="reference")
    wanted = x - 0.2 * sigma**2 * g + math.sqrt(2 * 0.2 * 0.7) * sigma * z
    torch.testing.assert_close(got, wanted, atol=1e-14, rtol=1e-14)
    scale = (0.5 / g.norm(dim=1, keepdim=True)).clamp(max=1.0)
    got = ef.ops.langevin_step_(x.clone(), g, step_size=0.2, noise_std=0.0, grad_clip_norm=0.5, backend="reference")
    torch.testing.assert_close(got, x - 0.2 * scale * g, atol=1e-14, rtol=1e-14)


def test_not_a_number_spreads_and_is_not_repaired(backend, device):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    g = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0]], device=device)
    ef.ops.langevin_step_(x, g, step_size=0.5, noise_std=0.0, clamp=(-9, 9), backend=backend)
    assert x[0, 0].isnan()
    assert x[0, 1].item() == 2.0
    assert x[1].tolist() == [-9.0, 4.0]


def test_a_chain_is_the_same_in_any_batch_and_on_any_number_of_threads():
    for shape in [(40, 33), (40, 3), (7, 4096)]:
        x, g = torch.randn(shape), torch.randn(shape)
        whole = ef.ops.langevin_step_(x.clone(), g, step_size=0.1, seed=1)
        parts = [
            ef.ops.langevin_step_(x[a:b].clone(), g[a:b].contiguous(), step_size=0.1, seed=1, chain_offset=a)
            for a, b in ((0, 3), (3, 4), (4, shape[0]))
        ]
        assert torch.equal(whole, torch.cat(parts))
        per_chain = ef.ops.langevin_step_(x.clone(), g, step_size=torch.full((shape[0],), 0.1), noise_std=math.sqrt(0.2), seed=1)
        torch.testing.assert_close(whole, per_chain, atol=1e-6, rtol=1e-6)


def test_rng_tensor_replaces_seed_and_step(backend, device):
    x = torch.zeros(5, 6, device=device)
    a = ef.ops.langevin_step_(x.clone(), None, step_size=1.0, seed=12, step=40, backend=backend)
    rng = torch.tensor([12, 38], device=device)
    b = ef.ops.langevin_step_(x.clone(), None, step_size=1.0, rng=rng, step=2, backend=backend)
    assert torch.equal(a, b)


def bad(**changes) -> dict:
    return {"x": torch.zeros(4, 3), "grad": torch.zeros(4, 3), "step_size": 0.1, "seed": 0} | changes


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"step_size": float("nan")}, ValueError, "step_size must be finite and at least 0"),
        ({"step_size": -1.0}, ValueError, "step_size must be finite and at least 0, got -1.0"),
        ({"step_size": "big"}, TypeError, "step_size must be a number"),
        ({"step_size": torch.zeros(3)}, ValueError, r"step_size must be a number or a tensor of shape \(\) or \(4,\)"),
        ({"step_size": torch.zeros(4, dtype=torch.int64)}, TypeError, "step_size must be a floating-point tensor"),
        ({"noise_std": float("inf")}, ValueError, "noise_std must be finite"),
        ({"temperature": -0.1}, ValueError, "temperature must be"),
        ({"grad": torch.zeros(4, 2)}, ValueError, r"grad must match x: shape \(4, 3\).*got \(4, 2\)"),
        ({"grad": torch.zeros(4, 3, dtype=torch.float64)}, ValueError, "grad must match x"),
        ({"grad": torch.zeros(3, 4).t()}, ValueError, "grad must be contiguous"),
        ({"grad": 1.0}, TypeError, "grad must be a tensor"),
        ({"x": torch.zeros(4, 3, dtype=torch.int32)}, TypeError, "x must have dtype"),
        ({"x": torch.zeros(3, 4).t()}, ValueError, "x must be contiguous"),
        ({"x": torch.zeros(4, 3, requires_grad=True)}, ValueError, "x must not require grad"),
        ({"clamp": (1, 0)}, ValueError, "clamp must be a pair"),
        ({"clamp": 3}, TypeError, "clamp must be a pair"),
        ({"clamp": ("a", 1)}, TypeError, "clamp must be a pair of numbers"),
        ({"clamp": (0, 1), "clamp_after": "lunch"}, ValueError, "clamp_after must be"),
        ({"grad_clip": -1}, ValueError, "grad_clip must be"),
        ({"grad_clip": 1.0, "grad_clip_norm": 1.0}, ValueError, "not both"),
        ({"momentum": 0.9}, ValueError, "momentum=0.9 needs velocity"),
        ({"velocity": torch.zeros(2)}, ValueError, "velocity must match x"),
        ({"active": torch.ones(4)}, ValueError, "active must be a contiguous tensor of shape"),
        ({"scale": torch.ones(4)}, ValueError, r"scale must be a contiguous tensor of shape \(3,\), torch.float32"),
        ({"scale": torch.ones(3, dtype=torch.float64)}, ValueError, "scale must be a contiguous tensor"),
        ({"seed": "s"}, TypeError, "seed must be an int"),
        ({"backend": "cuda"}, ef.BackendError, "backend 'cuda' cannot run this"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_and_change_nothing(changes, error, match):
    kwargs = bad(**changes)
    before = kwargs["x"].detach().clone()
    with pytest.raises(error, match=match):
        ef.ops.langevin_step_(**kwargs)
    assert torch.equal(kwargs["x"].detach(), before)


def test_overlapping_memory():
    memory = torch.randn(64)
    with pytest.raises(ValueError, match="grad overlaps x in memory in part"):
        ef.ops.langevin_step_(memory[:32].view(4, 8), memory[8:40].view(4, 8), step_size=0.1, seed=0)
    state = (memory[:32] + 3.0).view(4, 8)
    for part in ({"scale": state[1]}, {"step_size": state[0, :4]}, {"noise_std": state[0, :4]},
                 {"active": state[0].view(torch.uint8)[:4]}):  # fmt: skip
        with pytest.raises(ValueError, match=f"{next(iter(part))} overlaps x in memory"):
            ef.ops.langevin_step_(state, torch.zeros(4, 8), **{"step_size": 0.1, "seed": 0, **part})
    x = torch.randn(4, 8)
    wanted = 0.75 * x
    assert torch.allclose(ef.ops.langevin_step_(x, x, step_size=0.25, noise_std=0.0), wanted)


def test_velocity_needs_memory_of_its_own():
    x = torch.zeros(4, 3)
    for velocity, grad in ((x, torch.zeros(4, 3)), (g := torch.zeros(4, 3), g)):
        with pytest.raises(ValueError, match=r"overlaps (x|velocity) in memory"):
            ef.ops.langevin_step_(x, grad, step_size=0.1, velocity=velocity, momentum=0.5, seed=0)


def test_strided_masks_and_counters_are_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="active must be a contiguous tensor"):
        ef.ops.langevin_step_(x, None, step_size=0.1, active=torch.ones(6, dtype=torch.bool)[::2], seed=0)
    with pytest.raises(ValueError, match="rng must be a contiguous"):
        ef.ops.langevin_step_(x, None, step_size=0.1, rng=torch.zeros(4, dtype=torch.int64)[::2])


def test_autograd_sees_that_the_state_was_written():
    w, y = torch.tensor(2.0, requires_grad=True), torch.ones(2, 4)
    loss = (w * y).sum()
    ef.langevin_(y, lambda x: x.square().sum(1), num_steps=1, step_size=0.1, seed=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_lazily_negated_gradients():
    z = torch.randn(3, 4, dtype=torch.complex64).conj().imag.contiguous()
    negated = torch._neg_view(torch.ones(3, 4))
    with pytest.raises(ValueError, match="lazily negated"):
        ef.ops.langevin_step_(torch.zeros(3, 4), negated, step_size=0.1, noise_std=0.0)
    assert ef.ops.langevin_step_(z.resolve_neg(), negated.resolve_neg(), step_size=0.1, noise_std=0.0).shape == (3, 4)


def test_a_norm_bound_of_zero_takes_no_step():
    x, g = torch.ones(2, 3), torch.zeros(2, 3)
    g[1] = 5.0
    assert torch.equal(ef.ops.langevin_step_(x.clone(), g, step_size=0.1, noise_std=0.0, grad_clip_norm=0.0), x)


def test_fake_tensors_are_left_to_the_dispatcher():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        x = torch.zeros(4, 3)
    assert mode is not None
    assert ef.ops.langevin_step_(x, x.clone(), step_size=0.1, seed=0).shape == (4, 3)
    assert ef.ops.normal_(x, seed=0).shape == (4, 3)


@pytest.mark.parametrize("value", ["0.1", True, b"1", 1j])
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match="step_size must be a number"):
        ef.ops.langevin_step_(torch.zeros(2, 2), None, step_size=value, seed=0)


def test_empty_states():
    for shape in [(0, 3), (3, 0), (0,)]:
        x = torch.zeros(shape)
        assert ef.ops.langevin_step_(x, x.clone(), step_size=0.1, seed=0).shape == shape


def test_which_path_runs(monkeypatch):
    assert pick(None, torch.device("cpu")) in ("cpu", "reference")
    called = []
    for name in ("cpu", "reference"):
        original = implementation("langevin_step_", name)
        monkeypatch.setattr(
            "ebm_fast.ops.langevin.route",
            lambda op, x, asked, f=original: lambda *a: (called.append(asked), f(*a)),
        )
        with ef.use_backend(name):
            ef.ops.langevin_step_(torch.zeros(2, 2), None, step_size=0.1, seed=0)
    assert len(called) == 2


def test_use_backend_is_honoured(monkeypatch):
    seen = []
    import ebm_fast.reference.langevin as reference

    monkeypatch.setattr("ebm_fast.ops.backend._route", lambda op, asked, device: lambda *a: seen.append(asked))
    assert reference is not None
    with ef.use_backend("reference"):
        ef.ops.langevin_step_(torch.zeros(2, 2), None, step_size=0.1, seed=0)
        ef.ops.langevin_step_(torch.zeros(2, 2), None, step_size=0.1, seed=0, backend="cpu")
    ef.ops.langevin_step_(torch.zeros(2, 2), None, step_size=0.1, seed=0)
    assert seen == ["reference", "cpu", "auto"]
    with pytest.raises(ValueError, match="backend must be one of"), ef.use_backend("gpu"):
        pass


@pytest.mark.parametrize("option", ["plain", "all"])
def test_opcheck(option, device):
    case = arguments(option, (6, 5), torch.float32, device)
    x, grad, velocity = case["x"], case["grad"], case.get("velocity")
    tensor = case["step_size"] if isinstance(case["step_size"], torch.Tensor) else None
    norms = torch.zeros(6, dtype=torch.float64, device=device)
    args = (x, grad, velocity, norms, tensor, None, None, case.get("active"), case.get("scale"), None, 0.1, 0.2, 0.3, 0.0, 0.5,
            -1.0, 1.0, -2.0, 2.0, 1, 3, 4, 5, "auto")  # fmt: skip
    torch.library.opcheck(torch.ops.ebm_fast.langevin_step_.default, args)
    torch.library.opcheck(torch.ops.ebm_fast.event_norm.default, (x, "auto"))
    torch.library.opcheck(torch.ops.ebm_fast.noise_.default, (x, None, 2, 0, 1, 2, 3, "auto"))


def test_under_torch_compile(device):
    def chain(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        for k in range(3):
            ef.ops.langevin_step_(x, 2.0 * x, step_size=0.05, grad_clip=0.5, clamp=(-1, 1), seed=4, step=k)
        return x * ef.ops.event_norm(x)[:, None]

    x = torch.randn(8, 5, device=device)
    torch.testing.assert_close(torch.compile(chain, fullgraph=True)(x), chain(x), atol=1e-6, rtol=1e-6)


def test_a_counter_that_changes_is_compiled_once(device):
    """Seed, step and chain are symbols of the graph: twelve steps in a row are no twelve graphs."""
    graphs = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def step(x: torch.Tensor, k: int) -> torch.Tensor:
        ef.ops.propose_(x, momentum=torch.empty_like(x), seed=k + 7, step=k, chain_offset=k)
        return ef.ops.langevin_step_(x, torch.sin(x), step_size=0.1, seed=2**60 + k, step=k, chain_offset=k)

    x = torch.randn(8, 5, device=device)
    compiled, y = torch.compile(step, fullgraph=True, backend=keep), x.clone()
    for k in range(12):
        step(x, k)
        compiled(y, k)
    assert torch.equal(x, y)
    assert len(graphs) <= 4


def test_the_dispatcher_and_the_direct_call_agree():
    x = torch.randn(9, 3)
    args = (x.clone(), None, None, None, None, None, None, None, None, None, 0.0, 1.0, 0.0, 0.0, math.inf, -math.inf, math.inf,
            -math.inf, math.inf, 1, 7, 0, 0, "auto")  # fmt: skip
    torch.ops.ebm_fast.langevin_step_(*args)
    direct = x.clone()
    langevin._op(direct, *args[1:])
    assert torch.equal(args[0], direct)


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("options", [{}, {"grad_clip_norm": 0.5}, {"velocity": True, "momentum": 0.9, "clamp": (-1.0, None)}])
def test_steps_of_a_loop_are_those_of_single_calls(options, observed, backend, device):
    """`langevin_steps` does what as many calls do, bit for bit; where somebody looks it goes through the dispatcher."""
    class Looks(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Looks.seen += "langevin_step_" in str(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).to(device)
    states = [x.clone(), x.clone()]
    forms = [options | ({"velocity": torch.zeros_like(x)} if "velocity" in options else {}) for _ in states]
    common: dict[str, Any] = {"step_size": 0.1, "noise_std": 0.3, "seed": 5, "chain_offset": 3, "backend": backend}
    with Looks() if observed else contextlib.nullcontext():
        update = langevin.langevin_steps(states[0], **common, **forms[0])
        for k in range(3):
            update(0.5 * states[0], k)
    for k in range(3):
        ef.ops.langevin_step_(states[1], 0.5 * states[1], step=k, **common, **forms[1])
    assert torch.equal(*states) and Looks.seen == 3 * observed
    with pytest.raises(ValueError, match="step_size"):
        langevin.langevin_steps(x, **common | {"step_size": -1.0})
