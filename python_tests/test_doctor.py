"""`ebm-fast doctor`: true facts, a self-test that finds planted faults, and output for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import ebm_fast as ef
from ebm_fast import doctor, self_test
from ebm_fast.ops import backend


@pytest.fixture
def fresh_routes() -> Iterator[None]:
    """Routes are cached: a planted fault is seen only after the caches are emptied, and must not outlive the test."""
    caches = (backend.native, backend.why_not, backend._pick, backend.implementation, backend._route)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_report_states_facts_and_every_check_passes():
    facts = doctor.report()
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["machine"]["cores"] >= 1
    assert facts["machine"]["memory_gib"] > 0.1
    assert facts["ebm_fast"]["version"] == ef.__version__
    assert facts["backends"]["reference"] == ""
    assert (facts["backends"]["cuda"] == "") <= torch.cuda.is_available()
    assert [row for row in facts["self_test"] if not row["ok"]] == []
    tested = {(row["backend"], row["isa"]) for row in facts["self_test"]}
    isas = backend.native().available_isas() if backend.native() else []
    assert tested >= {("cpu", isa) for isa in isas} | {("reference", None)}
    assert {row["op"] for row in facts["self_test"]} == {"philox", *self_test.RESULTS}
    for op in self_test.RESULTS:
        assert facts["ops"][op]["cpu"] == backend.pick(None, torch.device("cpu"))


def test_every_public_op_is_tested():
    public = {name for name in ef.ops.__all__ if name.endswith("_") or name == "event_norm"}
    assert public == set(self_test.RESULTS)


def test_the_table_shows_what_a_backend_lacks():
    """Triton has no whole chains: its column has a dash there, and the doctor a table."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", "from ebm_fast import doctor, self_test\n"
         "self_test.RESULTS = {k: self_test.RESULTS[k] for k in ('chain_', 'moments_')}\n"
         "doctor.RESULTS = self_test.RESULTS\nraise SystemExit(doctor.main())"],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr + run.stdout
    rows = {line.split()[0]: line.split() for line in run.stdout.partition("self-test")[2].splitlines() if line.strip()}
    assert "-" in rows["chain_"]
    assert "-" not in rows["moments_"]


def test_instruction_set_is_left_as_it_was():
    module = backend.native()
    if module is None:
        pytest.skip("the extension is not built")
    before = module.current_isa()
    for isa in module.available_isas():
        module.force_isa(isa)
        self_test.self_test()
        assert module.current_isa() == isa
    module.force_isa(before)


def test_json_is_json_and_the_table_names_every_op(capsys):
    assert doctor.main(json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["self_test"]
    assert doctor.main() == 0
    table = capsys.readouterr().out
    assert all(op in table for op in self_test.RESULTS)
    assert "FAILED" not in table
    for name, reason in facts["backends"].items():
        assert name in table
        assert reason in table


@pytest.mark.parametrize(
    ("function", "op"),
    [
        ("noise_", "normal_"),
        ("noise_", "bits_"),
        ("langevin_step_", "langevin_step_"),
        ("event_norm", "event_norm"),
        ("perturb_", "perturb_"),
        ("randperm_", "randperm_"),
        ("gather_", "gather_"),
        ("scatter_", "scatter_"),
        ("propose_", "propose_"),
        ("leapfrog_", "leapfrog_"),
        ("metropolis_", "metropolis_"),
        ("baoab_", "baoab_"),
        ("swap_", "swap_"),
        ("moments_", "moments_"),
        ("adapt_", "adapt_"),
    ],
)
def test_a_planted_fault_is_found(function, op, monkeypatch, capsys, fresh_routes):
    honest = backend.implementation

    def implementation(name: str, where: str):
        run = honest(name, where)

        def slightly_wrong(x: torch.Tensor, *args):
            result = run(x, *args)
            written = args[{"adapt_": 4}.get(name, 0)] if name in ("propose_", "moments_", "adapt_") else x
            target = written if result is None else result
            target.view(-1)[-1] += 1e-5 if target.is_floating_point() else 1
            return result

        return slightly_wrong if where != "reference" and name == function else run

    if not any(backend.why_not(b) == "" for b in ("cpu", "cuda", "triton")):
        pytest.skip("only the reference runs here")
    monkeypatch.setattr(backend, "implementation", implementation)
    for module in (doctor, self_test):
        monkeypatch.setattr(module, "RESULTS", {name: self_test.RESULTS[name] for name in (op, "rademacher_")})
    backend._route.cache_clear()
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert f"FAILED {op} on" in out
    assert doctor.main(json=True) == 1
    rows = json.loads(capsys.readouterr().out)["self_test"]
    failed = {row["op"] for row in rows if not row["ok"]}
    assert op in failed
    assert all(row["detail"] for row in rows if not row["ok"])
    assert all(row["ok"] for row in rows if row["backend"] == "reference")


def test_a_backend_that_raises_is_a_finding(monkeypatch, fresh_routes):
    def broken(*args):
        raise OSError("illegal instruction")

    monkeypatch.setattr(backend, "implementation", lambda op, where: broken)
    backend._route.cache_clear()
    rows = [row for row in self_test.self_test() if row["op"] == "event_norm"]
    assert rows
    assert all(not row["ok"] and "illegal instruction" in row["detail"] for row in rows)


def test_wrong_known_answers_are_seen(monkeypatch):
    counter, key, words = self_test.KNOWN_ANSWERS[2]
    monkeypatch.setattr(self_test, "KNOWN_ANSWERS", (*self_test.KNOWN_ANSWERS[:2], (counter, key, (*words[:3], words[3] ^ 1))))
    assert {row["op"] for row in self_test.self_test() if not row["ok"]} == {"philox"}


@pytest.mark.parametrize(
    ("wish", "words"), [("cuda", "torch sees no CUDA device"), ("gpu", "EBM_FAST_BACKEND must be one of auto, reference")]
)
def test_a_forced_backend_that_cannot_run_is_reported(wish, words):
    """An explicit wish is refused, not replaced; the doctor says so and still works."""
    run = subprocess.run(
        [sys.executable, "-m", "ebm_fast.cli", "doctor", "--json"],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "EBM_FAST_BACKEND": wish, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert words in facts["ops"]["normal_"]["cpu"]
    assert facts["environment"]["EBM_FAST_BACKEND"] == wish
