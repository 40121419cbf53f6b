"""The saved state of an objective: whose it is, and that all of it is loaded or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from torch import Tensor, nn

from ebm_fast.objectives.inference import LooksAreOrdinary
from ebm_fast.ops import checks

_FEW = 64


class Saved(LooksAreOrdinary):
    """`state_dict` and `load_state_dict` of an objective: seed and iteration, from which its random numbers follow, and settings.

    The settings are the class and the attributes that the classes name in `_settings`: what the loss and its random numbers
    hang on beside seed, iteration and the networks. A state of another class or of other settings belongs to another run. A
    subclass with more to keep adds it in `state_dict`, looks at it in `_check_state`, which changes nothing, and takes it over
    in `_load`: what can still refuse (a buffer's own `load_state_dict`) before the base class's `_load`, the rest after it.
    """

    seed: int
    iteration: int
    _settings: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Seed and iteration, from which all random numbers follow, and the settings that they belong to."""
        return {"settings": self._identity(), "seed": self.seed, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the objective that was saved; ValueError for the state of something else, of which nothing is loaded."""
        self._check_state(state)
        self._load(state)

    def _check_state(self, state: dict[str, Any]) -> None:
        """ValueError where the state is not that of an objective like this one."""
        checks.entries(state, "settings", "seed", "iteration")
        own, saved = self._identity(), state["settings"]
        if not isinstance(saved, Mapping):
            raise ValueError(f"state: expected settings by name, got {type(saved).__name__}")
        if own["objective"] != saved.get("objective"):
            raise ValueError(f"state: expected that of {own['objective']}, got that of {saved.get('objective')}")
        names = [name for name in {**own, **saved} if own.get(name) != saved.get(name)]
        if names:
            expected, got = (", ".join(f"{name}={held.get(name)!r}" for name in names[:3]) for held in (own, saved))
            raise ValueError(f"state: expected settings {expected}, as here, got {got}")

    def _load(self, state: dict[str, Any]) -> None:
        """Take over a state that was looked at."""
        self.seed, self.iteration = int(state["seed"]), int(state["iteration"])

    def _identity(self) -> dict[str, Any]:
        classes = reversed(type(self).__mro__)
        names = dict.fromkeys(name for each in classes for name in each.__dict__.get("_settings", ()))
        return {"objective": type(self).__name__, **{name: _plain(getattr(self, name)) for name in names}}


def require_fits(module: nn.Module, saved: Any, name: str) -> None:
    """ValueError unless `saved` holds the module's tensors by name and shape: torch copies those that fit before it refuses."""
    if not isinstance(saved, Mapping):
        raise ValueError(f"state: expected {name} as tensors by name, got {type(saved).__name__}")
    wanted, came = ({key: tuple(t.shape) for key, t in held.items() if isinstance(t, Tensor)}
                    for held in (module.state_dict(), saved))  # fmt: skip
    wrong = [key for key in {**wanted, **came} if wanted.get(key) != came.get(key)]
    if wrong:
        told = "; ".join(f"{key}: {wanted.get(key, 'none')} here, {came.get(key, 'none')} there" for key in wrong[:3])
        raise ValueError(f"state: expected {name} with the tensors of {type(module).__name__}; {told}")


def _plain(value: Any) -> Any:
    """What JSON can hold of a setting; of large tensors their shape, of functions their name."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() <= _FEW else list(value.shape)
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    return getattr(value, "__qualname__", type(value).__name__)
