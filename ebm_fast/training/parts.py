"""What a trainer asks of its parts before it starts, and of their numbers before it writes them down."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

PLAYERS = (("generator_loss", "generator_parameters", "generator_"), ("score_loss", "score_parameters", "score_"))
"""Loss and parameters of a second player, and what its metrics' names begin with."""


def second_player(objective: Any) -> tuple[str, str, str] | None:
    """The entry of `PLAYERS` that `objective` has."""
    return next((names for names in PLAYERS if callable(getattr(objective, names[0], None))), None)


def require_methods(name: str, part: Any) -> None:
    """TypeError for a part that lacks what the loop calls."""
    if isinstance(part, type):
        raise TypeError(f"{name}: expected an object, got the class {part.__name__}")
    wanted = ["state_dict", "load_state_dict"]
    wanted += {"batches": ["__next__"], "objective": ["__call__", "finish_checks"]}.get(name, [])
    missing = [method for method in wanted if not callable(getattr(part, method, None))]
    if missing:
        hint = "; wrap the data in a BatchStream" if name == "batches" else ""
        raise TypeError(f"{name}: expected an object with {', '.join(missing)}, got {type(part).__name__}{hint}")


def require_step(name: str, optimizer: Any) -> None:
    """TypeError for an optimiser that wants a closure: an iteration computes its loss once."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"{name}: expected one whose step() needs no closure, such as Adam, because the loop computes each loss once; got "
            f"{type(optimizer).__name__}"
        )


def require_trained(
    optimizers: Iterable[torch.optim.Optimizer], *, module: nn.Module, ema: Any = None, scheduler: Any = None
) -> None:
    """ValueError for parts that would stay as they are: of another network or another optimiser than those that are stepped."""
    optimizers = list(optimizers)
    held = {id(p) for p in held_by(optimizers)}
    for name, network in (("module", module), ("ema", getattr(ema, "module", None))):
        owned = [] if network is None else [id(p) for p in network.parameters()]
        if owned and held.isdisjoint(owned):
            raise ValueError(
                f"{name}: expected the network that optimizer trains, got a {type(network).__name__} none of whose parameters it "
                "holds"
            )
    other = getattr(scheduler, "optimizer", optimizers[0])
    if not any(other.param_groups is optimizer.param_groups for optimizer in optimizers):
        raise ValueError(f"scheduler: expected one of the optimizer given here, got that of another {type(other).__name__}")


def load_all(parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """`load_state_dict` of every part; where one refuses its state, those before it return to what they were, and it raises.

    Raises ValueError naming the part, with the reason that it gave.
    """
    before: dict[str, Any] = {}
    for name, part in parts.items():
        before[name] = copy.deepcopy(part.state_dict())
        try:
            part.load_state_dict(states[name])
        except (KeyError, ValueError, RuntimeError) as error:
            for loaded, state in before.items():
                parts[loaded].load_state_dict(state)
            reason = f"no entry {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"what was saved of {name} does not fit this {type(part).__name__}: {reason}") from error


def require_one_player(objective: Any) -> None:
    """TypeError for an objective whose second player would never be trained."""
    if names := second_player(objective):
        raise TypeError(
            f"objective: {type(objective).__name__} has a second player ({names[0]}), which the loop does not train; wrap it: "
            f"Alternating(objective, an optimizer of objective.{names[1]}())"
        )


def warn_of_left_out(module: nn.Module, objective: Any, optimizer: torch.optim.Optimizer) -> None:
    """UserWarning naming what the objective wants trained and no optimiser holds."""
    if not callable(getattr(objective, "parameters", None)):
        return
    names, held = names_of(module, objective), {id(p) for p in held_by([optimizer])}
    left = [p for p in objective.parameters() if p.requires_grad and id(p) not in held]
    if left:
        told = [names.get(id(p), f"one of shape {tuple(p.shape)}") for p in left[:4]] + ["..."] * (len(left) > 4)
        warnings.warn(
            f"optimizer: lacks {len(left)} of objective.parameters(), which will not be trained: {', '.join(told)}; make it of "
            "objective.parameters(), or set requires_grad=False",
            UserWarning,
            stacklevel=3,
        )


def held_by(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """The parameters of optimisers."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def names_of(module: nn.Module, objective: Any) -> dict[int, str]:
    """id of a parameter -> its name in the module, or in the objective for what is its own."""
    names = {id(p): name for name, p in module.named_parameters()}
    inner = getattr(objective, "objective", None)
    for owner in (objective, inner):
        for attribute, value in getattr(owner, "__dict__", {}).items():
            found = value.named_parameters(attribute) if isinstance(value, nn.Module) else [(attribute, value)]
            for name, p in found:
                if isinstance(p, nn.Parameter):
                    names.setdefault(id(p), name)
    return names


def not_finite(module: nn.Module, objective: Any, optimizers: Iterable[torch.optim.Optimizer]) -> list[str]:
    """Parameters of the module and the optimisers that are not finite, or whose gradients are not, by name."""
    names, wrong = names_of(module, objective), []
    for p in dict.fromkeys([*module.parameters(), *held_by(optimizers)]):
        name = names.get(id(p), f"of shape {tuple(p.shape)}")
        for kind, t in (("parameter", p), ("gradient of parameter", p.grad)):
            if t is not None and not bool(t.isfinite().all()):
                wrong.append(f"{kind} {name}")
    return wrong


def is_finite(batch: Any) -> bool:
    """Whether a batch, a tensor or a sequence of tensors, holds numbers: bad data is no matter of luck."""
    tensors = [batch] if isinstance(batch, Tensor) else [part for part in batch if isinstance(part, Tensor)]
    return all(bool(t.isfinite().all()) for t in tensors)
