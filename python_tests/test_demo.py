from __future__ import annotations

import base64
import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from stopped import stopped_at

import ebm_fast as ef
from ebm_fast import demo
from ebm_fast.cli import main
from ebm_fast.demo.recipe import RECIPES
from ebm_fast.demo.report import Report, text_table
from ebm_fast.demo.run import _prepare_folder
from ebm_fast.demo.speed import measure_speed, plain_langevin
from ebm_fast.recipes.sampling import from_noise
from ebm_fast.training import latest_checkpoint, load_checkpoint

ITERATIONS = 12


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch):
    """The real recipes with networks and chains that take no time."""
    for name, recipe in RECIPES.items():
        c = recipe.config
        small = replace(
            c,
            network=replace(c.network, channels=((3, 2, 1, 4),), hidden=(8,)),
            chains=replace(c.chains, num_steps=3, buffer_size=64),
            optimizer=replace(c.optimizer, batch_size=16),
            sampling=replace(c.sampling, num_steps=16),
        )
        monkeypatch.setitem(RECIPES, name, replace(recipe, config=small))


def run_demo(out: Path, *more: str) -> int:
    return main(["demo", "--out", str(out), "--iterations", str(ITERATIONS), "--seed", "5", *more])


def outcome(out: Path) -> tuple[dict, dict, list[dict]]:
    """What a run computed: last checkpoint, quality, log."""
    path = latest_checkpoint(out / "checkpoint")
    assert path is not None
    state = load_checkpoint(path)
    del state["generators"]  # torch's own, which other tests have moved and the demo does not use
    with (out / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    return state, json.loads((out / "metrics.json").read_text())["quality"], log


def assert_same(a: object, b: object) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


class Page(HTMLParser):
    """Collects images and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[bytes] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            head, _, data = dict(attributes)["src"].partition(",")
            assert head == "data:image/png;base64"
            self.images.append(base64.b64decode(data, validate=True))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo") / "run"


@pytest.fixture
def whole_run(finished, capsys) -> tuple[Path, str]:
    """One uninterrupted run for all tests, and what it printed."""
    printed = finished / "printed.txt"
    if not printed.exists():
        assert run_demo(finished) == 0
        printed.write_text(capsys.readouterr().out)
    return finished, printed.read_text()


def test_every_artefact_is_there_and_parses(whole_run):
    out, printed = whole_run
    for name in ("samples.png", "chains.png", "curves.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    config = json.loads((out / "config.json").read_text())
    assert (config["data"], config["seed"], config["iterations"]) == ("digits", 5, ITERATIONS)
    checkpoint, quality, log = outcome(out)
    assert checkpoint["iteration"] == ITERATIONS
    assert [int(row["iteration"]) for row in log] == list(range(1, ITERATIONS + 1))
    assert all(float(row["gap"]) == float(row["gap"]) for row in log)
    assert sum(quality["class_fractions"]) == pytest.approx(1.0)
    assert quality["classifier_accuracy"] > 0.97
    assert quality["frechet"] > quality["frechet_floor"] > 0
    for words in (
        "classes covered",
        "Fréchet",
        "ef.langevin_",
        "chain-steps/s",
        "gradient of the network",
        "report.html",
    ):
        assert words in printed


def test_the_report_is_self_contained(whole_run):
    out, _ = whole_run
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    pictures = [(out / name).read_bytes() for name in ("samples.png", "chains.png", "curves.png")]
    assert page.images == pictures
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((.*?)\)", markdown) == ["samples.png", "chains.png", "curves.png"]


def test_a_stopped_run_is_kept_and_its_resumption_equals_an_uninterrupted_one(
    whole_run, tmp_path, monkeypatch, capsys
):
    with stopped_at(7, monkeypatch):
        assert run_demo(tmp_path) == 130
    assert "--resume" in capsys.readouterr().out
    assert run_demo(tmp_path) == 2
    assert "unfinished" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path), "--iterations", "99", "--seed", "5", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "iterations 12 there, 99 here" in error
    assert run_demo(tmp_path, "--resume") == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["resumed_at"] == 7
    assert_same(outcome(tmp_path), outcome(whole_run[0]))
    for name in ("samples.png", "chains.png", "curves.png"):
        assert (tmp_path / name).read_bytes() == (whole_run[0] / name).read_bytes()


def test_a_finished_run_is_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert run_demo(tmp_path) == 0
    assert main(["demo", "--out", str(tmp_path), "--iterations", "3", "--seed", "6"]) == 0
    checkpoint, _, log = outcome(tmp_path)
    assert checkpoint["iteration"] == len(log) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "foreign",
    ["my_precious.pt", "iteration-3/my_precious.pt", "iteration-best/state.json", "deep/er/log.csv"],
)
def test_files_of_others_in_the_checkpoint_folder_are_refused_and_kept(tmp_path, capsys, foreign):
    for name in (foreign, "iteration-3/tensors-0123456789abcdef.safetensors.partial", "log.csv"):
        (tmp_path / "checkpoint" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoint" / name).write_text("mine")
    (tmp_path / "metrics.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert run_demo(tmp_path) == 2
    error = capsys.readouterr().err
    assert foreign.split("/")[0] in error and "another --out" in error and len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_run_left_before_its_first_checkpoint_is_replaced(tmp_path):
    left = tmp_path / "checkpoint" / "iteration-3"
    left.mkdir(parents=True)
    (left / "tensors-0123456789abcdef.safetensors.partial").write_text("half")
    (left / "state.json.partial").write_text("half")
    (tmp_path / "checkpoint" / "log.csv.partial").write_text("half")
    config = {"data": "digits"}
    _prepare_folder(tmp_path, config, resume=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_minutes_become_a_number_of_iterations(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "digits", replace(RECIPES["digits"], iterations_per_minute=8))
    demo.run(out=tmp_path, minutes=0.5)
    assert json.loads((tmp_path / "config.json").read_text())["iterations"] == 4


@pytest.mark.slow
def test_mnist_runs_the_same(data_root, tmp_path):
    root = data_root / "mnist"
    assert (
        main(["demo", "--data", "mnist", "--root", str(root), "--out", str(tmp_path), "--iterations", "3"])
        == 0
    )
    quality = outcome(tmp_path)[1]
    assert quality["classifier_accuracy"] > 0.95
    assert quality["frechet"] > 3 * quality["frechet_floor"]


def test_from_noise_is_one_chain_and_ends_quiet():
    def energy(x: torch.Tensor) -> torch.Tensor:
        return 50.0 * x.square().flatten(1).sum(1)

    sampler = ef.Langevin(step_size=0.002)
    start = torch.full((300, 1, 2, 2), 3.0)
    samples, frames, steps = from_noise(
        energy, sampler, start.clone(), num_steps=64, denoising_steps=30, seed=3, first_step=10
    )
    assert steps == [0, 2, 5, 10, 20, 50, 64, 94]
    assert frames.shape == (8, 8, 1, 2, 2)
    assert torch.equal(frames[0], start[:8])
    assert torch.equal(frames[-1], samples[:8])
    at_once = start.clone()
    ef.engine.run_(energy, sampler, at_once, 64, seed=3, step=10)
    assert torch.equal(frames[-2], at_once[:8])
    # The chain's own spread is 0.1; quiet steps contract it by the factor 0.8 each and add less and less.
    assert at_once.std() > 0.09
    assert samples.std() < 0.03


def test_plain_loop_and_library_agree_without_noise():
    def energy(x: torch.Tensor) -> torch.Tensor:
        return torch.cosh(x).flatten(1).sum(1)

    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    expected = ef.langevin_(x.clone(), energy, num_steps=20, step_size=0.05, noise_std=0.0)
    assert torch.allclose(plain_langevin(energy, x.clone(), 20, 0.05, 0.0), expected, atol=1e-6)
    speed = measure_speed(energy, x, step_size=0.05, noise_std=0.1, seconds=0.2)
    assert speed.num_chains == 7
    assert speed.difference < 1e-5
    assert min(speed.plain, speed.library, speed.gradient, speed.plain_update, speed.library_update) > 0
    assert speed.plain > speed.gradient


def test_report_escapes_what_it_is_given(tmp_path):
    report = Report("a < b & c")
    report.table(("what", "value"), [("<script>", '"1"')])
    report.write(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(text)
    assert "<script>" not in text
    assert "a &lt; b &amp; c" in text


def test_text_table_aligns():
    table = text_table(("name", "value"), [("a", "1"), ("longer", "1,234")])
    assert table.splitlines() == ["name    value", "------  -----", "a           1", "longer  1,234"]
