"""The documents say what the rows say; the floors and the peers' steps are what they claim to be."""

from __future__ import annotations

import os
import shutil
import time

import bench_chain
import ceilings
import gpu_picture
import harness
import pytest
import tables
import torch


@pytest.mark.parametrize("name", tables.TABLES)
def test_documents_hold_the_newest_rows(name):
    """Else: python benchmarks/tables.py."""
    path = harness.ROOT / "docs" / tables.TABLES[name][0]
    document = path.read_text()
    assert tables.filled(document, name, tables.text(name, harness.ROOT / "benchmarks" / "results")) == document
    assert tables.filled(document, name, "| other |") != document


def test_a_document_without_marks_is_refused():
    with pytest.raises(ValueError, match="must hold <!-- chains --> and <!-- end of chains --> once each"):
        tables.filled("# No marks\n", "chains", "| a |")


def test_long_peers_run_fewer_steps_and_are_stretched():
    assert bench_chain.shorten(lambda steps: lambda: time.sleep(0.03 * steps), 100) in (2, 3)
    assert bench_chain.shorten(lambda steps: lambda: None, 7) == 7
    assert bench_chain.shorten(lambda steps: lambda: time.sleep(0.15 * steps), 100) == 1
    result = harness.Result({"ours": [1.0, 2.0], "peer": [3.0, 6.0]}).scaled({"peer": 10.0})
    assert result.ratio("peer", "ours") == pytest.approx(30.0)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="needs a C++ compiler")
def test_floors_add_their_ingredients():
    """Of a round in which each loop took as many seconds as it has operations, everything costs 1e9 ns / threads."""
    lanes, repeats = ceilings.loops().lanes(), ceilings.REPEATS
    count = {"multiply_adds": 16, "normals": 4, "exponentials": 32, "tanhs": 32}
    times = {name: [2.0 * repeats[name] * n * lanes, 1.0 * repeats[name] * n * lanes] for name, n in count.items()}
    ns = ceilings.nanoseconds(harness.Result(times))
    one = 1e9 / torch.get_num_threads()
    assert ns == pytest.approx(dict.fromkeys(count, one))
    assert ceilings.mixture_floor(ns, 8, 2) == pytest.approx((1 + 8 + 64) * one)
    assert ceilings.network_floor(ns, 2, 128) == pytest.approx((1 + 256 + 2 * (256 + 128 * 128)) * one)
    for call in ceilings.calls(3).values():
        call()


def test_tables_of_a_gpu_are_of_the_files_that_have_rows(tmp_path):
    """Nothing is told of what was not measured, the newest row of a case counts, and every multiple is in its column."""
    assert tables.gpu(tmp_path) == "Not measured yet."
    facts = {"device": "NVIDIA H200", "cpu": "Xeon", "cores": 16, "torch": "2.11.0", "jax": None, "commit": "0123abc"}
    for median, day in ((9e-3, "2026-01-01"), (2e-3, "2026-01-02")):
        row = {"case": "20 steps", "median": median, "strategy": "graph", "ratios": {"usual": 13.94, "mended, graphed": 0.9}}
        harness.write_row(tmp_path, "langevin_chain", {**row, **facts, "date": day})
    told = tables.gpu(tmp_path)
    assert told.count("###") == 1 and "JAX" not in told and "Commit 0123abc; 2026-01-02." in told
    assert "| 20 steps | 2 ms | graph | 13.9x | - | - | 0.9x |" in told
    assert gpu_picture.draw(tmp_path, tmp_path / "images").stat().st_size > 5_000
    update = {"case": "P1 update plain 1e+06", "median": 4.15e-5, "ratios": {"eager": 0.82, "compiled": 3.3}}
    facts["fraction_of_copy"] = 0.482
    graph = {"graph_seconds": {"ebm_fast": 4e-6}, "graph_ratios": {"eager": 2.5}, "graph_fraction_of_copy": 0.004}
    for more in ({}, graph):
        harness.write_row(tmp_path, "langevin", {**update, **more, **facts, "date": "2026-01-03"})
        end = "4 | < 1% | 2.5x |" if more else "- | - | - |"
        assert f"| plain 1e+06 | 41.5 | 48% | 0.8x | 3.3x | - | {end}" in tables.gpu(tmp_path)
