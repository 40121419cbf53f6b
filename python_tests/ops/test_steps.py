"""What a loop binds once (`*_steps` of the ops) does what as many calls do, bit for bit, and refuses the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops.cases import DTYPES, Drawn
from ops.test_chain import MOVES, TARGETS, N, normal, start, step_of

import ebm_fast as ef
from ebm_fast.ops.backend import why_not
from ebm_fast.ops.baoab import baoab_steps
from ebm_fast.ops.chain import chain_steps
from ebm_fast.ops.guard import guard_steps
from ebm_fast.ops.leapfrog import leapfrog_steps
from ebm_fast.ops.metropolis import metropolis_steps
from ebm_fast.ops.proposal import propose_steps

Tensors = dict[str, torch.Tensor]


def tensors(dtype: torch.dtype, shape: tuple[int, int] = (20, 5)) -> Tensors:
    draw, n = Drawn(shape, dtype, "cpu"), shape[:1]
    t = {name: draw.normal() for name in ("x", "q", "p", "before", "grad", "carried")}
    t |= {"energy": draw.normal(n), "new": draw.normal(n), "scale": draw.positive(shape[1:]), "step_size": draw.positive(n)}
    t |= {"kinetic": draw.normal(n, torch.float64), "counters": draw.normal((*n, 5), torch.float64)}
    t |= {"factor": draw.normal((shape[1], shape[1])).triu(), "stopped": torch.full(n, -1)}
    return t | {"active": torch.ones(n, dtype=torch.bool), "norms": torch.zeros(n, dtype=torch.float64)}


STREAM: dict[str, Any] = {"seed": 2**63 + 1, "chain_offset": 17}
# name: what is given in each call and in none, the op that is called, the op that is bound and its calls
Case = tuple[Callable[[Tensors, int], None], Callable[[Tensors], Callable[[Tensors, int], None]]]


def trajectory(t: Tensors, **more: Any) -> dict[str, Any]:
    return {"proposal": t["q"], "momentum": t["p"], "kinetic": t["kinetic"], "kick": t["step_size"], "drift": 0.1, **more}


def decision(t: Tensors, **more: Any) -> dict[str, Any]:
    return {"kinetic": t["kinetic"], "momentum": t["p"], "counters": t["counters"], "beta": 0.7, **more}


def baoab(t: Tensors) -> dict[str, Any]:
    return {"kick": 0.1, "drift": t["step_size"], "persistence": 0.8, "noise_std": 0.3, "scale": t["scale"]}


def guard(t: Tensors) -> dict[str, Any]:
    return {"divergence_step": t["stopped"], "active": t["active"], "norm_sum": t["norms"], "step_size": 0.1, "noise_std": 0.2}


def starts(**more: Callable[[Tensors], Any]) -> Case:
    def how(t: Tensors) -> dict[str, Any]:
        return trajectory(t, **{name: get(t) for name, get in more.items()}) | STREAM

    def bind(t: Tensors) -> Callable[[Tensors, int], None]:
        f = propose_steps(t["x"], **how(t))
        return lambda t, step: f(t["grad"], step)

    return lambda t, step: ef.ops.propose_(t["x"], grad=t["grad"], step=step, **how(t)), bind


def ends(**more: Callable[[Tensors], Any]) -> Case:
    def how(t: Tensors) -> dict[str, Any]:
        return decision(t, **{name: get(t) for name, get in more.items()}) | STREAM

    def bind(t: Tensors) -> Callable[[Tensors, int], None]:
        f = metropolis_steps(t["x"], t["q"], t["energy"], grad=t["carried"], **how(t))
        return lambda t, step: f(t["new"], t["grad"], step)

    def call(t: Tensors, step: int) -> None:
        ef.ops.metropolis_(t["x"], t["q"], t["energy"], t["new"], grad=t["carried"], proposal_grad=t["grad"], step=step, **how(t))

    return call, bind


def leap(t: Tensors) -> Callable[[Tensors, int], None]:
    f = leapfrog_steps(t["x"], t["p"], kick=0.1, drift=t["step_size"], scale=t["scale"])
    return lambda t, step: f(t["grad"])


def move(t: Tensors) -> Callable[[Tensors, int], None]:
    f = baoab_steps(t["x"], t["p"], active=t["active"], **baoab(t), **STREAM)
    return lambda t, step: f(t["grad"], 1 + step % 2, step)


def look(t: Tensors) -> Callable[[Tensors, int], None]:
    f = guard_steps(t["x"], **guard(t))
    return lambda t, step: f(t["grad"], t["energy"], step)


CASES: dict[str, Case] = {
    "propose_": starts(scale=lambda t: t["scale"]),
    "propose_, persistent": starts(persistence=lambda t: 0.6),
    "propose_, factor": starts(factor=lambda t: t["factor"]),
    "metropolis_": ends(kick=lambda t: t["step_size"], scale=lambda t: t["scale"]),
    "metropolis_, flip": ends(momentum_before=lambda t: t["before"]),
    "metropolis_, inverse factor": ends(inverse_factor=lambda t: t["factor"]),
    "leapfrog_": (
        lambda t, step: ef.ops.leapfrog_(t["x"], t["p"], t["grad"], kick=0.1, drift=t["step_size"], scale=t["scale"]), leap
    ),
    "baoab_": (
        lambda t, step: ef.ops.baoab_(t["x"], t["p"], t["grad"], kicks=1 + step % 2, step=step, active=t["active"], **baoab(t),
                                      **STREAM), move
    ),
    "guard_": (lambda t, step: ef.ops.guard_(t["x"], t["grad"], energy=t["energy"], step=step, **guard(t)), look),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_bound_ops_are_the_ops(name, dtype):
    call, bind = CASES[name]
    called, bound = tensors(dtype), tensors(dtype)
    f, version = bind(bound), {key: t._version for key, t in bound.items()}
    for step in (3, 4, 5):
        for t in (called, bound):
            t["grad"].add_(0.1)
            if step == 4 and name == "guard_":
                t["energy"][7] = torch.inf
        call(called, step)
        f(bound, step)
    written = {key for key in called if not torch.equal(called[key], tensors(dtype)[key])}
    assert len(written) > 1
    for key, wanted in called.items():
        assert torch.equal(bound[key], wanted), key
        assert bound[key]._version > version[key] or key not in written, key


@pytest.mark.parametrize(
    ("bind", "error", "match"),
    [
        (lambda t: propose_steps(t["x"], momentum=t["p"], drift=torch.inf, seed=1), ValueError, "drift must be a finite number"),
        (lambda t: propose_steps(t["x"], momentum=t["x"], seed=1), ValueError, "overlaps"),
        (lambda t: metropolis_steps(t["x"], t["x"], t["energy"], seed=1), ValueError, "overlaps"),
        (lambda t: metropolis_steps(t["x"], t["q"], t["energy"], seed=1.5), TypeError, "seed must be an int"),
        (lambda t: leapfrog_steps(t["x"], t["p"][:3], kick=0.1, drift=0.1), ValueError, "momentum must match x"),
        (lambda t: baoab_steps(t["x"], t["p"], kick=0.1, drift=0.1, persistence=0.5, noise_std=-1.0, seed=1), ValueError,
         "noise_std must be finite and at least 0"),
        (lambda t: guard_steps(t["x"], divergence_step=t["norms"]), ValueError, "divergence_step must be"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(bind, error, match):
    with pytest.raises(error, match=match):
        bind(tensors(torch.float32))


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")
def test_a_step_that_is_bound_once_is_one_of_the_chain(move, backend):
    """The step size is changed on the way: it is read at each step."""
    target, size = TARGETS["rosenbrock"]
    x0, sizes, ends = start(target), [step_of(move, size) / (1 + k % 3) for k in range(8)], []
    lengths = [1 + k % 3 if move == "hmc" else MOVES[move].get("leapfrogs", 1) for k in range(8)]
    for bound in (False, True):
        how: dict[str, Any] = {**MOVES[move], "step_size": torch.empty(()), "backend": backend, "seed": 3, "chain_offset": 5}
        how |= {"energy": torch.zeros(N), "grad": torch.zeros_like(x0), "counters": torch.zeros(N, 5, dtype=torch.float64)}
        if move in ("ghmc", "baoab"):
            how["momentum"] = normal(*x0.shape, seed=9)
        x, take = x0.clone(), None
        for k, length in enumerate(lengths):
            how["step_size"].fill_(sizes[k])
            if not bound:
                ef.ops.chain_(x, target, steps=1, step=k + 2**40, **how | {"carried": k > 0, "leapfrogs": length})
                continue
            if k < 2:  # the first one carries nothing
                take = chain_steps(x, target, **how | {"carried": k > 0})
            version = x._version
            take(k + 2**40, length)
            assert x._version > version
        ends.append({**how, "x": x})
    for name, value in ends[0].items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, ends[1][name]), name
    with pytest.raises(ValueError, match="grad overlaps x"):
        chain_steps(x0, target, **how | {"grad": x0})
    with pytest.raises(ValueError, match="x must have events of 3"):
        chain_steps(torch.zeros(N, 2), target, **how)
