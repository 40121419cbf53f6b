"""Saved states: each class continues its own, refuses that of every other class and configuration, and loads all or nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from every_objective import EVERY, Net, buffer, make, player
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast import objectives as obj
from ebm_fast.objectives.finite import FiniteCheck
from ebm_fast.training import Alternating, BatchStream, Trainer, load_checkpoint, save_checkpoint

DATA = torch.randn(64, 2, generator=torch.Generator("cpu").manual_seed(0))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def on_cpu(state: Any) -> Any:
    """A checkpoint is loaded to the CPU, and its states go to where the objective is."""
    if isinstance(state, dict):
        return {key: on_cpu(value) for key, value in state.items()}
    return state.cpu() if isinstance(state, Tensor) else state


def refuses(objective: Any, state: Any, match: str) -> None:
    """The state is refused with one line, and the objective is what it was."""
    before = copy.deepcopy(objective.state_dict())
    with pytest.raises(ValueError, match=match) as caught:
        objective.load_state_dict(state)
    assert str(caught.value).startswith("state: expected")
    assert same(objective.state_dict(), before)


def test_every_class_is_here():
    classes = {name for name in obj.__all__ if isinstance(getattr(obj, name), type)}
    assert set(EVERY) == classes - {"InitialStates", "RecoveryEnergy"}


@pytest.fixture(autouse=True)
def _data_on_device(monkeypatch, device):
    monkeypatch.setitem(globals(), "DATA", DATA.to(device))


@pytest.fixture(scope="module")
def states(tmp_path_factory, request) -> dict[str, Any]:
    """Of every class after one iteration, through a checkpoint."""
    with torch.device(request.config.getoption("--device")):
        made = {name: make(name) for name in EVERY}
        for objective in made.values():
            objective(DATA[:8].to(torch.get_default_device()))
    return load_checkpoint(save_checkpoint(tmp_path_factory.mktemp("saved"), {k: o.state_dict() for k, o in made.items()}))


@pytest.mark.parametrize("name", EVERY)
def test_a_state_continues_its_own_kind_and_no_other(name, states):
    objective = make(name, seed=7)
    for other, state in states.items():
        if other != name:
            refuses(objective, state, rf"expected that of {name}, got that of {other}$")
    objective.load_state_dict(states[name])
    assert (objective.seed, objective.iteration) == (1, 1)
    assert same(on_cpu(objective.state_dict()), on_cpu(states[name]))


@pytest.mark.parametrize("name", EVERY)
def test_a_look_at_validation_data_is_taken_back_by_the_state(name):
    """Without it the look would count as an iteration, and move a buffer's chains."""
    objective = make(name)
    objective(DATA[:8])
    saved = objective.state_dict()
    untouched = objective(DATA[8:16])[0]
    objective.load_state_dict(saved)
    with torch.no_grad():
        objective(DATA[16:32])
    objective.load_state_dict(saved)
    assert torch.equal(objective(DATA[8:16])[0], untouched) and same(objective.state_dict()["settings"], saved["settings"])


@pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name][1]])
def test_another_configuration_is_another_run(name, states):
    for setting, value in EVERY[name][1].items():
        objective = make(name, **{setting: value})
        refuses(objective, states[name], "settings|log_z")
        own = objective.state_dict()
        make(name, **{setting: value}).load_state_dict(own)  # and its own is fine


def test_nothing_is_loaded_of_a_state_whose_parts_do_not_fit(states):
    persistent = make("PersistentCD")
    refuses(persistent, states["PersistentCD"] | {"buffer": buffer().state_dict() | {"samples": torch.zeros(4, 2)}}, "samples")
    copied = make("AdaptiveNCE")
    frozen = states["AdaptiveNCE"]["frozen"]
    refuses(copied, states["AdaptiveNCE"] | {"frozen": frozen | {"net.0.weight": torch.zeros(9, 2)}}, "copy .*net.0.weight")
    for name, part, what in (("NCE", "noise", "noise model"), ("FlowContrastive", "generator", "generator"),
                             ("ImplicitVAE", "score", "score network")):  # fmt: skip
        state = states[name] | {part: dict(list(states[name][part].items())[1:])}
        refuses(make(name), state, f"{what} with the tensors of")
    with pytest.raises(ValueError, match="settings by name, got int"):
        persistent.load_state_dict(states["PersistentCD"] | {"settings": 3})


def trainer(objective: Any, module: nn.Module, directory: Any) -> Trainer:
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    return Trainer(module, objective, optimizer, BatchStream(DATA.to(torch.get_default_device()), 8), directory=directory,
                   ema=ef.EMA(module, 0.9), progress=False)  # fmt: skip


def test_a_trainer_resumes_all_or_nothing(tmp_path):
    """A checkpoint of persistent CD is nothing for plain CD, nor for a wider net; every part is afterwards what it was."""
    net = Net()
    trainer(make("PersistentCD", net), net, tmp_path).fit(3)
    wide = Net()
    wide.net = nn.Sequential(nn.Linear(2, 9), nn.Softplus(), nn.Linear(9, 1))
    for name, module, match in (("ContrastiveDivergence", Net(), "objective does not fit .* got that of PersistentCD"),
                                ("PersistentCD", wide, "module does not fit this Net.*size mismatch")):  # fmt: skip
        other = trainer(make(name, module), module, tmp_path)
        before = copy.deepcopy({part: held.state_dict() for part, held in other._parts.items()})
        with pytest.raises(ValueError, match=f"(?s){match}"):
            other.resume()
        assert same({part: held.state_dict() for part, held in other._parts.items()}, before)
        assert other.iteration == 0
    again = Net()
    resumed = trainer(make("PersistentCD", again), again, tmp_path)
    assert resumed.resume() and resumed.iteration == 3 and same(dict(again.state_dict()), dict(net.state_dict()))


def test_alternating_loads_all_or_nothing():
    def both(steps: int = 1) -> Alternating:
        game = make("FlowContrastive", flow=player())
        return Alternating(game, torch.optim.Adam(game.generator_parameters(), 1e-2), steps=steps)

    one = both()
    one(DATA[:8].to(torch.get_default_device()))
    refuses(both(steps=2), one.state_dict(), "steps, every = 2, 1, got")
    other = both()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="saved of optimizer does not fit this Adam"):
        other.load_state_dict(one.state_dict() | {"optimizer": {"state": {}, "param_groups": []}})
    assert same(other.state_dict(), before)
    other.load_state_dict(one.state_dict())
    assert same(other.state_dict(), one.state_dict())


def test_a_copy_waits_for_the_answers_under_way():
    """As on a GPU: an answer comes with an event, which can be neither copied nor pickled."""

    class Event:
        def __init__(self) -> None:
            self.asked = 0

        def synchronize(self) -> None:
            self.asked += 1

        def __reduce__(self) -> Any:
            raise TypeError("cannot pickle an event")

    check, event = FiniteCheck(immediate=True), Event()
    check._pending.append((["x"], torch.tensor([True]), event))  # type: ignore[arg-type]
    for copied in (copy.deepcopy(check), pickle.loads(pickle.dumps(check))):
        assert copied.immediate and not copied._pending
    assert event.asked == 1 and not check._pending
    check._pending.append((["energy"], torch.tensor([False]), event))  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="not finite: energy"):
        copy.deepcopy(check)
