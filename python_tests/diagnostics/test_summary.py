"""The table of a run, its warnings, and its export to ArviZ."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ebm_fast as ef
from ebm_fast import diagnostics as D
from ebm_fast.diagnostics.summary import COLUMNS

arviz = pytest.importorskip("arviz")


def made(draws=400, chains=4, event=(3,), **stats):
    """Something that looks like a run, with independent draws."""
    samples = torch.randn(draws, chains, *event)
    absent = {"acceptance": None, "divergences": None, "hamiltonian": None}
    energy = {"energy": samples.flatten(2).square().sum(2) / 2}
    return SimpleNamespace(samples=samples, stats=SimpleNamespace(**(energy | absent | stats)), num_steps=draws)


def test_columns_are_those_of_arviz():
    run = made(event=(2, 2))
    run.samples[:, 3] += 0.1
    summary = D.summary(run)
    assert tuple(summary) == COLUMNS
    assert len(summary) == 9
    x = run.samples.double()
    table = arviz.summary(np.moveaxis(x.numpy(), 1, 0), round_to="none")
    for name in ("mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat"):
        assert summary[name].shape == (2, 2)
        np.testing.assert_allclose(summary[name].flatten().numpy(), table[name].to_numpy(float), rtol=1e-8)
    flat = x.flatten(0, 1)
    torch.testing.assert_close(summary["q5"], torch.quantile(flat, 0.05, dim=0))
    torch.testing.assert_close(summary["q95"], torch.quantile(flat, 0.95, dim=0))
    for name, function in (("mcse_mean", D.mcse), ("ess_bulk", D.ess), ("r_hat", D.rhat)):
        torch.testing.assert_close(summary[name], function(x))


def test_a_sound_run_prints_a_table_without_warnings():
    acceptance, none = torch.tensor([0.6, 0.7, 0.8, 0.9]), torch.zeros(4, dtype=torch.int64)
    run = made(acceptance=acceptance, divergences=none, hamiltonian=torch.randn(400, 4))
    summary = D.summary(run)
    text = str(summary)
    assert summary.warnings == []
    lines = text.splitlines()
    assert lines[0] == "400 draws of 4 chains, 3 elements"
    assert lines[1].split() == ["mean", "sd", "mcse", "5%", "95%", "ess_bulk", "ess_tail", "r_hat"]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert lines[2].startswith("x[0] ")
    assert "acceptance: mean 0.750, chains from 0.600 to 0.900" in text
    assert "divergences: 0" in text
    assert "E-BFMI: smallest" in text
    assert repr(summary) == text


def test_trouble_is_told_in_words():
    run = made(
        divergences=torch.tensor([0, 3, 0, 1]),
        hamiltonian=0.1 * torch.randn(400, 4).cumsum(0),
        diverged=torch.tensor([False, True, False, False]),
    )
    run.samples[:, 0, 1] += 3.0
    run.samples[5, 0, 2] = float("nan")
    said = D.summary(run).warnings
    starts = [
        "1 of 4 chains diverged and were frozen",
        "4 divergences (0.25 % of the proposals) in 2 of 4 chains",
        "1 of 3 elements hold NaN",
        "R-hat is above 1.01 for 1 of 3 elements",
        "bulk ESS is below 400 for 1 of 3 elements",
        "tail ESS is below 400 for 1 of 3 elements",
        "E-BFMI is below 0.3 in 4 of 4 chains",
    ]
    assert len(said) == len(starts)
    for line, start in zip(said, starts):
        assert line.startswith(start)
    assert "at x[1])" in said[3]
    assert "warning: R-hat" in str(D.summary(run))


def test_few_draws_and_one_chain():
    short = D.summary(torch.randn(3, 5, 2))
    assert short.warnings == ["3 draws a chain: MCSE, ESS and R-hat need at least 4"]
    assert short["mean"].isfinite().all()
    assert short["r_hat"].isnan().all()
    alone = D.summary(torch.randn(500, 1))
    assert alone.warnings == ["R-hat needs at least 2 chains"]
    assert alone["ess_bulk"].item() > 100
    assert str(alone).splitlines()[2].startswith("x ")
    assert D.summary(torch.randn(0, 3, 2)).warnings == ["there are no draws"]
    assert D.summary(torch.randn(10, 3, 0)).warnings == ["there are no draws"]
    assert str(D.summary(torch.randn(1, 1, 2)))


def test_many_chains_need_400_in_all():
    assert D.summary(torch.randn(10, 500, 2)).warnings == []


def test_large_events_show_the_first_and_the_worst():
    x = torch.randn(100, 4, 3, 8, 8)
    x[:, 0, 2, 7, 3] += 4.0
    x[:, :, 0, 0, 0] = 1.0
    lines = str(D.summary(x)).splitlines()
    assert len(lines) < 45
    assert lines[2].startswith("x[0, 0, 0]")
    at = next(i for i, line in enumerate(lines) if "more elements" in line)
    assert lines[at].startswith("... 172 more elements")
    assert lines[at + 1].startswith("x[2, 7, 3]")


def test_a_run_of_the_engine():
    run = ef.sample(lambda x: x.square().sum(1) / 2, ef.Langevin(0.1), torch.randn(8, 2), num_steps=300, seed=1)
    summary = run.summary()
    assert summary["mean"].shape == (2,)
    assert summary.draws == 300 and summary.chains == 8
    exported = run.to_arviz()
    torch.testing.assert_close(torch.tensor(exported["posterior"]["x"].values), run.samples.transpose(0, 1))
    with pytest.raises(ValueError, match="record=False"):
        ef.sample(lambda x: x.square().sum(1) / 2, ef.Langevin(0.1), torch.randn(2, 2), num_steps=3, record=False).summary()


@pytest.mark.parametrize(("sampler", "judged"), [(ef.HMC(0.5, 3), True), (ef.GHMC(0.1), False)])
def test_the_energy_of_a_momentum_that_persists_is_not_judged(sampler, judged):
    target = ef.energies.Gaussian(torch.zeros(3), precision=torch.ones(3))
    run = ef.sample(target, sampler, torch.zeros(8, 3), num_steps=300, seed=1)
    assert run.stats.hamiltonian is not None
    assert (D.summary(run).bfmi is not None) == judged
    assert not any("E-BFMI" in text for text in D.summary(run).warnings)


def test_on_the_device(device):
    x = torch.randn(50, 4, 3, dtype=torch.float64)
    x[:, 1, 2] += 1.0
    there, here = D.summary(x.to(device)), D.summary(x)
    for name in COLUMNS:
        assert there[name].device.type == device
        torch.testing.assert_close(there[name].cpu(), here[name], rtol=1e-9, atol=1e-12)
    assert str(there) == str(here)
    torch.testing.assert_close(D.mcse(x.to(device), "quantile").cpu(), D.mcse(x, "quantile"))


def test_arviz_accepts_the_export():
    run = made(
        event=(2, 3), acceptance=torch.rand(4), divergences=torch.tensor([0, 2, 0, 0]), hamiltonian=torch.randn(400, 4).double()
    )
    run.samples = run.samples.double()  # ArviZ ranks in the precision of the samples
    data = D.to_arviz(run)
    x = data["posterior"]["x"]
    assert x.dims == ("chain", "draw", "x_dim_0", "x_dim_1")
    assert np.array_equal(x.values, run.samples.transpose(0, 1).numpy())
    sample_stats = data["sample_stats"]
    np.testing.assert_array_equal(sample_stats["lp"].values, -run.stats.energy.T.numpy())
    assert sample_stats["acceptance"].dims == ("chain",)
    assert sample_stats["divergences"].values.tolist() == [0, 2, 0, 0]
    summary = D.summary(run)
    np.testing.assert_allclose(arviz.ess(data)["x"].values, summary["ess_bulk"].numpy(), rtol=1e-8)
    np.testing.assert_allclose(arviz.rhat(data)["x"].values, summary["r_hat"].numpy(), rtol=1e-8)
    np.testing.assert_allclose(np.ravel(arviz.bfmi(data)), summary.bfmi.numpy(), rtol=1e-8)


@pytest.mark.parametrize(("sampler", "kept"), [(ef.HMC(0.3, 3), True), (ef.GHMC(0.3), False)])
def test_export_of_a_run_has_energies_where_e_bfmi_means_something(sampler, kept):
    run = ef.sample(lambda x: 0.5 * x.square().sum(1), sampler, torch.zeros(4, 2), num_steps=20, seed=0)
    sample_stats = run.to_arviz()["sample_stats"]
    assert ("energy" in sample_stats) is kept
    assert sample_stats["acceptance"].shape == (4,)


def test_export_without_statistics_and_in_half_precision():
    run = made(energy=None)
    run.samples = run.samples.bfloat16()
    data = D.to_arviz(run)
    assert np.array_equal(data["posterior"]["x"].values, run.samples.transpose(0, 1).float().numpy())


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (3, TypeError, "run must be a Run or a tensor of shape (draws, chains, *event), got int"),
        (SimpleNamespace(samples=None), ValueError, "run holds no samples (record=False)"),
        (torch.zeros(3), ValueError, "samples must have shape (draws, chains, *event), got (3,)"),
    ],
)
def test_errors_name_the_argument(given, error, said):
    with pytest.raises(error) as caught:
        D.summary(given)
    assert said in str(caught.value)


def test_export_without_samples():
    with pytest.raises(ValueError, match="record=False"):
        D.to_arviz(SimpleNamespace(samples=None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numpy_holds_all_that_was_recorded(dtype, tmp_path):
    sampler: object = ef.Langevin(0.1) if dtype is torch.bfloat16 else ef.HMC(0.3, 3, adapt=ef.Adaptation(mass="diagonal"))
    run = ef.sample(
        lambda x: 0.5 * x.square().sum(1), sampler, torch.zeros(4, 2, dtype=dtype), num_steps=20, warmup=40, moments=True, seed=0
    )
    np.savez(tmp_path / "run.npz", **run.to_numpy())
    kept = np.load(tmp_path / "run.npz")
    named = {"samples": run.samples, "final": run.final, **{f"adapted_{k}": v for k, v in run.stats.adapted.items()}}
    named |= {name: value for name, value in vars(run.stats).items() if isinstance(value, torch.Tensor)}
    assert set(kept) == set(named) and {"energy", "mean", "variance", "divergence_step"} <= set(kept)
    assert ("adapted_scale" in kept) is (dtype is torch.float32)
    for name, value in named.items():
        np.testing.assert_array_equal(kept[name], value.float().numpy() if value.dtype is torch.bfloat16 else value.numpy())
    arrays = run.to_numpy()
    arrays["final"][:] = 7.0
    assert not (run.final == 7.0).any()  # copies
    empty = ef.sample(lambda x: x.square().sum(1), ef.Langevin(0.1), torch.zeros(4, 2), num_steps=2, record=False).to_numpy()
    assert "samples" not in empty and empty["final"].shape == (4, 2)
