"""Round trips bit for bit, damage of every kind, and a kill at every moment of saving."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebm_fast.training import checkpoint
from ebm_fast.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (
            a.contiguous().reshape(-1).view(torch.uint8).equal(b.contiguous().reshape(-1).view(torch.uint8))
        )
    elif isinstance(a, dict):
        assert list(map(repr, a)) == list(map(repr, b))
        for x, y in zip(a.values(), b.values(), strict=True):
            assert_same(x, y)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float):
        assert repr(a) == repr(b)
    else:
        assert a == b


def tensors() -> st.SearchStrategy[torch.Tensor]:
    dtypes = [
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.uint8,
        torch.bool,
    ]
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(
        lambda s, d, k: torch.full(s, k).to(d), shapes, st.sampled_from(dtypes), st.integers(0, 99)
    )


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = (
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["$tensor", "$dict", "", "a.b"])
)
states = st.recursive(
    scalars | tensors(),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(state=states)
def test_any_state_round_trips(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("ckpt") / "one"
    save_checkpoint(path, state)
    assert_same(load_checkpoint(path), state)


def test_special_tensors_round_trip(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    nan = torch.tensor([0x7FC00001, -0x3FFFFF], dtype=torch.int32).view(torch.float32)
    state = {
        "transposed": base.T,
        "alias": base,
        "again": base,
        "slice": base[:, 1],
        "payload": nan,
        "p": nn.Parameter(base),
    }
    loaded = load_checkpoint(save_checkpoint(tmp_path / "c", state))
    for name in state:
        assert torch.equal(
            loaded[name].view(torch.int32), state[name].detach().contiguous().view(torch.int32)
        )
    assert not loaded["p"].requires_grad


def test_training_state_continues_bit_for_bit(tmp_path):
    def build() -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        groups = [{"params": [module.weight], "lr": 0.1}, {"params": [module.bias]}]
        optimizer = torch.optim.Adam(groups, betas=(0.0, 0.999), amsgrad=True)
        return module, optimizer, torch.Generator().manual_seed(1)

    def train(
        module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, steps: int
    ) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            module(torch.randn(5, 3, generator=generator)).square().sum().backward()
            optimizer.step()

    module, optimizer, generator = build()
    train(module, optimizer, generator, 7)
    state = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "rng": generator.get_state()}
    save_checkpoint(tmp_path / "c", state)
    train(module, optimizer, generator, 5)

    module2, optimizer2, generator2 = build()
    loaded = load_checkpoint(tmp_path / "c")
    module2.load_state_dict(loaded["model"])
    optimizer2.load_state_dict(loaded["optimizer"])
    generator2.set_state(loaded["rng"])
    train(module2, optimizer2, generator2, 5)
    assert torch.equal(module.weight, module2.weight) and torch.equal(module.bias, module2.bias)
    assert_same(optimizer2.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"a": [1, object()]}, r"state\['a'\]\[1\].*object"),
        ({(1, 2): 3}, "keys of type"),
        ({"f": len}, "builtin"),
        ({"c": torch.ones(2, dtype=torch.complex64)}, r"state\['c'\].*complex64"),
        ({"s": torch.ones(2, 2).to_sparse()}, r"state\['s'\].*sparse"),
    ],
)
def test_what_cannot_be_kept_is_named_and_costs_nothing(tmp_path, bad, where):
    save_checkpoint(tmp_path / "c", {"v": 1})
    with pytest.raises(TypeError, match=where):
        save_checkpoint(tmp_path / "c", bad)
    assert load_checkpoint(tmp_path / "c") == {"v": 1}


class Killed(BaseException):
    pass


def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    old, new = {"v": 1, "w": torch.zeros(100)}, {"v": 2, "w": torch.ones(100)}
    outcomes = []
    for fatal in range(20):
        path = save_checkpoint(tmp_path / f"c{fatal}", old)
        done = {"count": 0}

        def dying(function, done=done, fatal=fatal):
            def call(*args, **kwargs):
                if done["count"] == fatal:
                    raise Killed
                done["count"] += 1
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace"):
                patch.setattr(checkpoint.os, name, dying(getattr(os, name)))
            patch.setattr(Path, "unlink", dying(Path.unlink))
            try:
                save_checkpoint(path, new)
                finished = True
            except Killed:
                finished = False
        loaded = load_checkpoint(path)
        assert_same(loaded, new if loaded["v"] == 2 else old)
        outcomes.append(loaded["v"])
        save_checkpoint(path, new)
        assert_same(load_checkpoint(path), new)
        assert len(list(path.iterdir())) == 2, "leftovers of the killed save stay behind"
        if finished:
            break
    assert finished and outcomes == sorted(outcomes) and set(outcomes) == {1, 2}


def test_damage_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path / "c", {"lr": 0.125, "w": torch.arange(50.0)})
    for file in path.iterdir():
        content = file.read_bytes()
        for where in range(0, len(content), max(1, len(content) // 60)):
            for broken in (
                content[:where],
                content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :],
            ):
                file.write_bytes(broken)
                message, loaded = str(path), None
                try:
                    loaded = load_checkpoint(path)
                except (ValueError, FileNotFoundError) as error:
                    message = str(error)
                assert str(path) in message
                # Damage to white space or to the order of keys changes nothing.
                assert loaded is None or (
                    loaded["lr"] == 0.125 and torch.equal(loaded["w"], torch.arange(50.0))
                )
        file.write_bytes(content)
    assert load_checkpoint(path)["lr"] == 0.125


def test_missing_and_foreign(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"state\.json"):
        load_checkpoint(tmp_path / "none")
    path = save_checkpoint(tmp_path / "c", {"w": torch.ones(2)})
    document = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(document | {"format": 99}))
    with pytest.raises(ValueError, match="format 1, got 99"):
        load_checkpoint(path)
    (path / "state.json").write_text(json.dumps(document))
    next(path.glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="tensors are missing"):
        load_checkpoint(path)
    (path / "state.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="corrupt"):
        load_checkpoint(path)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_nesting_is_a_value_error_naming_the_file(tmp_path, depth):
    path = save_checkpoint(tmp_path / "c", {})
    document = (path / "state.json").read_text()
    (path / "state.json").write_text(document.replace('"state": {}', f'"state": {"[" * depth}{"]" * depth}'))
    # How deep is too deep is the interpreter's affair; below that, the digest differs.
    with pytest.raises(
        ValueError, match=r"SHA-256" if depth == 900 else r"state\.json: nested too deeply"
    ) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_latest_is_by_number_and_ignores_the_incomplete(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "absent") is None
    for step in (900, 1000, 20):
        save_checkpoint(tmp_path / f"step-{step}", {"step": step})
    (tmp_path / "step-5000").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1000"


def test_floats_are_exact(tmp_path):
    values = [0.1, 1e-310, -0.0, math.pi, math.inf, -math.inf]
    assert list(map(repr, load_checkpoint(save_checkpoint(tmp_path / "c", values)))) == list(
        map(repr, values)
    )
