"""The comparison: its KL against closed forms, its page, and that the objectives learn what they should."""

from __future__ import annotations

import importlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ebm_fast as ef
from ebm_fast.cli import main
from ebm_fast.compare import METHODS, run
from ebm_fast.compare import train as train_module
from ebm_fast.compare.measure import Distance, Truth
from ebm_fast.compare.methods import NOT_APPLICABLE, Problem, Setting
from ebm_fast.compare.pages import GOOD, why
from ebm_fast.compare.train import Result, make_trainer, train
from ebm_fast.energies import GaussianMixture, MLPEnergy, from_log_prob
from ebm_fast.objectives.saved import Saved
from ebm_fast.training import TOYS, make_toy
from ebm_fast.training.toys import EightGaussians

run_module = importlib.import_module("ebm_fast.compare.run")  # the package has a function of that name


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def eight() -> Truth:
    return Truth.of(make_toy("8gaussians"), cells=240)


def test_the_truth_is_at_distance_zero(eight):
    found = eight.distance(from_log_prob(eight.toy))
    assert abs(found.kl) < 1e-6 and abs(found.kl_weights) < 1e-6 and found.grid_error < 1e-6
    assert found.log_z == pytest.approx(0.0, abs=1e-6) and found.outside < 1e-12
    assert found.shares == pytest.approx([0.125] * 8, abs=1e-5)


def test_wrong_weights_are_wrong_weights(eight):
    """Mixtures of the same components, far apart: KL is that of the weights. A constant in E changes nothing."""
    toy, weights = eight.toy, torch.tensor([4.0, 1, 1, 1, 1, 1, 1, 2])
    other = GaussianMixture(toy.centres.float(), toy.std.item(), weights)
    found = eight.distance(lambda x: other(x) + 17.0)
    share = weights / weights.sum()
    exact = -(8.0 * share).log().mean().item()
    assert found.kl == pytest.approx(exact, rel=0.01)
    assert found.kl_weights == pytest.approx(found.kl, rel=0.01)
    assert found.log_z == pytest.approx(-17.0, abs=1e-3)
    assert found.shares == pytest.approx(share.tolist(), rel=0.03)


def test_wrong_widths_are_wrong_shapes(eight):
    """Components as wide as 1.5 times the truth: log 2.25 + (1 / 2.25 - 1) nats, but for their overlap."""
    found = eight.distance(from_log_prob(EightGaussians(std=1.5 * eight.toy.std.item())))
    assert found.kl == pytest.approx(math.log(2.25) + 1.0 / 2.25 - 1.0, rel=0.05)
    assert abs(found.kl_weights) < 1e-6
    assert found.kl_shape == pytest.approx(found.kl, abs=1e-6)


def test_what_lies_outside_and_how_coarse_the_grid_is(eight):
    flat = eight.distance(lambda x: 0.0 * x[:, 0])
    assert flat.outside == pytest.approx((48.0**2 - 16.0**2) / 16.0**2, rel=1e-5)
    assert flat.log_z == pytest.approx(math.log(48.0**2), rel=1e-5)  # of all that was looked at
    half = eight.distance(lambda x: torch.where(x.abs().amax(1) > 8.0, math.log(48.0**2 - 16.0**2), -eight.toy.log_prob(x)))
    assert half.outside == pytest.approx(1.0, rel=1e-4) and half.kl == pytest.approx(math.log(2.0), abs=1e-4)
    assert half.kl_weights == pytest.approx(half.kl, abs=1e-4) and half.grid_error < 1e-3
    assert eight.distance(from_log_prob(EightGaussians(std=0.03))).grid_error > 0.01  # peaks half as wide as a cell
    with pytest.raises(ValueError, match="cells"):
        Truth.of(eight.toy, cells=256)
    with pytest.raises(FloatingPointError, match="not finite"):
        eight.distance(lambda x: x[:, 0] / 0.0)


def test_a_sampling_objective_runs_in_native_code():
    problem = Problem(make_toy("moons"), make_toy("moons").sample(512, seed=0), Setting(widths=(8,)), 0)
    assert ef.sample(problem.mlp, problem.langevin(), torch.zeros(4, 2), num_steps=1, seed=0).strategy == "fused"
    x = torch.randn(50, 2)
    quadratic = 0.5 * x.square().sum(1) / problem.setting.prior_std**2
    torch.testing.assert_close(problem.energy(x), problem.mlp(x) + quadratic)


@pytest.mark.parametrize("name", METHODS)
def test_every_objective_trains(name):
    """A few iterations on a small net: every parameter but biases that cancel moves, the loss is finite, the seed decides."""
    ends = []
    for seed in (0, 0, 1):
        toy = make_toy("rings")
        problem = Problem(toy, toy.sample(512, seed=seed), Setting(widths=(8, 8), batch_size=32, num_steps=3), seed)
        before = [p.clone() for p in problem.mlp.parameters()]
        trainer = make_trainer(METHODS[name], problem, lambda iteration: iteration / 6)
        trainer.fit(6)
        after = list(problem.mlp.parameters())
        assert all(not torch.equal(a, b) for a, b in list(zip(after, before))[:-1])
        assert all(bool(p.isfinite().all()) for p in after)
        ends.append(torch.cat([p.detach().flatten() for p in after]))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Of a comparison: a small net, a distance on a coarse grid, small pictures."""
    small = Setting(widths=(8, 8), batch_size=32, num_data=512, num_steps=3, buffer_size=64)
    patch.setattr(run_module, "Setting", lambda: small)
    patch.setattr(run_module, "CELLS", 60)
    patch.setattr(run_module, "_PIXELS", 24)
    for name, value in {"_SHOWN": 40, "_CHAIN": 5}.items():
        patch.setattr(train_module, name, value)


def test_every_objective_has_its_row(tmp_path, monkeypatch):
    """From the command's plan to the page: it trains, has a distance and a row."""
    make_small(monkeypatch)
    able = [name for name, method in METHODS.items() if not method.needs or run_module.find_spec(method.needs)]
    content = run(toys=["moons"], objectives=able, seconds=1e-6, out=tmp_path, progress=False)
    assert [result["objective"] for result in content["results"]] == able and len(able) >= len(METHODS) - 2
    for result in content["results"]:
        assert (result["iterations"], result["failure"]) == (1, "") and math.isfinite(result["distance"]["kl"])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w, -]+) \| [\d.]+ \| -?[\d.]+ \| -?[\d.]+ \|", page, flags=re.M)
    assert sorted(rows) == sorted(METHODS[name].title for name in able)
    assert (tmp_path / "moons.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("price", "iterations"),
    [(lambda i: 0.01, 150), (lambda i: 0.07, 22), (lambda i: 0.01 + 0.09 * (i < 10), 60), (lambda i: 0.1 - 0.09 * (i < 50), 60)],
)
def test_budgets_are_equal(price, iterations, eight, monkeypatch):
    """By a clock that every iteration moves by its price: two seconds are spent, half of one in the building, and the rate ends
    at 0, also where prices change, which a plan from the first few iterations would not see."""
    now, optimizers = [0.0], []
    monkeypatch.setattr(train_module, "time", SimpleNamespace(process_time=lambda: now[0]))
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, **kwargs: optimizers.append(adam(*args, **kwargs)) or optimizers[-1])

    class Priced(ef.NCE):
        def __call__(self, batch):
            now[0] += price(self.iteration)
            return super().__call__(batch)

    def build(problem):
        now[0] += 0.5
        return Priced(problem.energy, problem.noise(), log_z=problem.log_z, seed=0)

    setting, told = Setting(widths=(8,), batch_size=32), []
    result = train(
        "8gaussians", replace(METHODS["nce"], build=build), eight, eight.toy.sample(512, seed=0), setting, seconds=2.0, seed=0,
        window=torch.zeros(4, 2), progress=told.append,
    )  # fmt: skip
    assert result.iterations == pytest.approx(iterations, abs=1) and result.failure == ""
    assert 2.0 - 1e-9 <= result.seconds <= 2.0 + price(result.iterations) + 1e-9
    assert sum(told) == pytest.approx(2.0, abs=0.3)
    assert optimizers[0].param_groups[0]["lr"] < 1e-9 * setting.learning_rate


def test_every_objective_is_compared_or_named():
    classes = {name: found for name in ef.objectives.__all__ if isinstance(found := getattr(ef.objectives, name), type)}
    every = {name for name, found in classes.items() if issubclass(found, Saved)}
    compared = {method.title.split(",")[0] for method in METHODS.values()}
    assert compared | set(NOT_APPLICABLE) == every and not compared & set(NOT_APPLICABLE) and len(every) == 23


@pytest.mark.parametrize("name", TOYS)
def test_steps_of_chains_fit_the_toy(name):
    """Chains on the true energy, from its draws, stay its draws but for the bias of the step: E[-log p] rises by at most 0.15
    nats (Monte-Carlo error 0.02). The noise of a step of 0.01 alone is wider than an arm of the spirals or a pinwheel's blade."""
    toy = make_toy(name)
    energy, problem = from_log_prob(toy), Problem(toy, toy.sample(64, seed=0), Setting(widths=(8,)), 0)
    start = toy.sample(2000, seed=1)

    def rise(step: float) -> float:
        ends = ef.sample(energy, ef.Langevin(step), start, num_steps=12, record=False, seed=2).final
        return (energy(ends).mean() - energy(start).mean()).item()

    assert rise(problem.langevin().step_size) < 0.15
    assert min(problem.falling().step_size) == pytest.approx(problem.step_size)
    if name in ("spirals", "pinwheel"):
        assert rise(0.01) > 0.2


@pytest.mark.parametrize(("name", "iterations"), [("pcd", 700), ("esm", 350), ("nce", 350), ("adance", 350)])
def test_objectives_learn_the_eight_gaussians(name, iterations, eight):
    """In a few hundred iterations KL falls from 2 nats to well below that of a Gaussian with the data's moments."""
    torch.manual_seed(0)
    setting = Setting(widths=(48, 48), num_data=20_000)
    problem = Problem(eight.toy, eight.toy.sample(setting.num_data, seed=0), setting, 0)
    trainer = make_trainer(METHODS[name], problem, lambda iteration: iteration / iterations)
    trainer.fit(iterations)
    with trainer.ema.applied_to():
        found = eight.distance(problem.energy)
    gaussian = eight.distance(from_log_prob(ef.noise.Gaussian.fit(problem.data)))
    assert gaussian.kl > 1.0
    assert found.kl < 0.5 * gaussian.kl


def test_reasons_are_given_with_the_numbers():
    """One paragraph for a cause, with every objective it holds for."""

    def result(method: str, kl: float, weights: float) -> Result:
        distance = Distance(kl, weights, kl - weights, 0.0, 0.0, 0.0, (0.02, 0.98))
        return Result("moons", method, 10, 1.0, distance, "", None, None)

    failed = Result("moons", "nce", 10, 1.0, None, "not finite: loss", None, None)
    few = [result("ism", GOOD / 2, 0.01), result("ssm", 0.73, 0.7), result("esm", 0.73, 0.1)]
    rows = [*few, failed, result("hutchinson", 0.5, 0.4)]
    weights, shape, told = why(rows, 2)
    assert weights == (
        "SlicedScoreMatching 0.73 nats (0.70 the weights of the components, 0.02 to 0.98 where 0.50 is right, 0.03 the shape "
        "within them); HutchinsonScoreMatching 0.50 nats (0.40 the weights of the components, 0.02 to 0.98 where 0.50 is right, "
        f"0.10 the shape within them): {METHODS['ssm'].limit_weights}."
    )
    assert shape.startswith("ExplicitScoreMatching 0.73 nats (0.10 the weights") and METHODS["esm"].limit_shape in shape
    assert told == "NCE ended after 10 iterations: not finite: loss."


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "run"
    told = ["--quick", "--seconds", "0.001", "--toys", "moons,8gaussians", "--objectives", "nce,pcd,dsm", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        patch.setattr(run_module, "CELLS", 240)  # of which --quick takes a quarter
        assert main(["compare", "--data", "2d", *told]) == 0
    return out


def test_the_page_has_every_table_and_picture(page):
    assert sorted(p.name for p in page.iterdir()) == [
        "8gaussians.png", "moons.png", "report.html", "report.md", "results.json",
    ]  # fmt: skip
    markdown = (page / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)", markdown, flags=re.M) == ["KL", "moons", "8gaussians", "Machine"]
    assert re.findall(r"^\| (\w+) \| [\d.]+ \| [\d.]+ \|$", markdown, flags=re.M) == [
        "NCE", "PersistentCD", "DenoisingScoreMatching",
    ]  # fmt: skip
    assert all(f"{name} ({what})" in markdown for name, what in NOT_APPLICABLE.items())
    assert re.findall(r"^\| (\w+) \| [\d.]+ \| -?[\d.]+ \| -?[\d.]+ \| \de-\d\d \|", markdown, flags=re.M) == [
        "NCE", "PersistentCD", "DenoisingScoreMatching",
    ] * 2  # fmt: skip
    html = (page / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64") == 2 and "<table>" in html
    results = json.loads((page / "results.json").read_text())
    assert results["quick"] and [r["objective"] for r in results["results"]] == ["nce", "pcd", "dsm"] * 2
    assert all(r["iterations"] >= 1 and r["distance"]["kl"] > 0 for r in results["results"])


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    class Broken(MLPEnergy):
        def forward(self, x):
            return super().forward(x) * float("nan")

    make_small(monkeypatch)
    make = train_module.make_trainer

    def breaking(method, problem, *others):
        if method.name == "nce":
            problem.mlp.__class__ = Broken
        return make(method, problem, *others)

    monkeypatch.setattr(train_module, "make_trainer", breaking)
    content = run(toys=["moons"], objectives=["nce", "dsm"], seconds=0.01, quick=True, out=tmp_path, progress=False)
    failed, fine = content["results"]
    assert "energy_data" in failed["failure"] and failed["distance"] is None
    assert fine["distance"]["kl"] > 0
    assert "NCE ended after 0 iterations: not finite" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_objectives_whose_package_is_missing_are_named(tmp_path, monkeypatch, capsys):
    """In one line on the terminal and on the page; where objectives are named, the missing package is an error instead."""
    make_small(monkeypatch)
    needing = [method for method in METHODS.values() if method.needs]
    assert {"FlowContrastive", "VariationalMLE"} <= {method.title for method in needing}
    find = run_module.find_spec
    monkeypatch.setattr(run_module, "find_spec", lambda name: None if name in {m.needs for m in needing} else find(name))
    few = {name: METHODS[name] for name in ("nce", *(method.name for method in needing))}
    monkeypatch.setattr(run_module, "METHODS", few)
    content = run(toys=["moons"], seconds=0.01, quick=True, out=tmp_path, progress=False)
    assert [result["objective"] for result in content["results"]] == ["nce"]
    line = f"Left out, because zuko is not installed (pip install 'ebm_fast[flows]'): {', '.join(m.title for m in needing)}."
    assert capsys.readouterr().out.splitlines()[0] == line
    assert line in (tmp_path / "report.md").read_text(encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match=r"objectives: .* need a flow"):
        run(toys=["moons"], objectives=[needing[0].name], out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--toys", "swissroll"], "toys: expected some of 8gaussians"),
        (["--objectives", "gan"], "objectives: expected some of cd"),
        (["--toys", ","], "toys: expected some of"),
        (["--seconds", "0"], "seconds"),
        (["--seconds", "nan"], "seconds"),
        (["--seed", "-1"], "seed"),
        (["--threads", "0"], "threads"),
        (["--out", __file__], "not a folder"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_help_names_every_toy(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert ",".join(TOYS) in capsys.readouterr().out.replace("\n", "").replace(" ", "")
