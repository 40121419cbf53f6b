"""Settings of every kind to a run and back: typed errors, one file that says it all, resumption to the bit, each objective."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from stopped import stopped_at

import ebm_fast as ef
from ebm_fast import recipes
from ebm_fast.cli import main
from ebm_fast.compare.measure import Truth
from ebm_fast.recipes.build import OBJECTIVES, training_data
from ebm_fast.recipes.config import IMAGES, Data, Objective
from ebm_fast.recipes.sampling import from_noise
from ebm_fast.training import TOYS, latest_checkpoint, load_checkpoint, make_toy

pytest.importorskip("jsonargparse", minversion="4.49")  # of the extra `train`; a system python may lack it

SMALL = {
    "network": {"hidden": [8], "channels": [[3, 2, 1, 4]]}, "chains": {"num_steps": 2, "buffer_size": 64}, "iterations": 12,
    "optimizer": {"batch_size": 16}, "sampling": {"num_samples": 9, "num_steps": 5}, "threads": 1,
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return path


def parse(*arguments: object) -> recipes.Config:
    return recipes.parse([str(word) for word in arguments])[0]


def test_the_command_line_wins_over_files_and_files_over_the_data(tmp_path, small):
    (tmp_path / "more.yaml").write_text("data: moons\nchains:\n  step_size: 0.5\n")
    config = parse("--config", small, "--config", tmp_path / "more.yaml", "--chains.step_size", 0.25, "--seed=7")
    assert (config.data, config.seed, config.chains.step_size, config.chains.num_steps) == ("moons", 7, 0.25, 2)
    assert config.network.channels == ((3, 2, 1, 4),) and config.network.activation == "tanh"  # the plane's
    assert parse("--data", "mnist").network.channels == ((5, 2, 2, 32), (3, 2, 1, 64), (3, 2, 1, 128))
    assert parse("--network.channels", "[4,[3,2,1,8]]").network.channels == (4, (3, 2, 1, 8))


def test_a_saved_file_is_the_settings(tmp_path):
    for name in get_args(Data):
        config = replace(recipes.Config(data=name, root="somewhere", bfloat16=True), seed=2**63 - 1).resolved()
        recipes.save_config(config, tmp_path / "config.json")
        assert recipes.load_config(tmp_path / "config.json") == config == config.resolved()


def test_the_lists_of_names_are_those_of_the_code():
    assert set(get_args(Data)) == {*IMAGES, *TOYS} and set(get_args(Objective)) == set(OBJECTIVES)


def test_the_gradient_penalty_reaches_the_objectives_that_take_it():
    for name in ("cd", "pcd", "short_run", "adance", "adaptive_bregman"):
        config = parse("--objective", name, "--data", "moons", "--loss.gradient_penalty", 0.25)
        assert recipes.build_trainer(config, torch.zeros(256, 2), None)[0].objective.gradient_penalty == 0.25
        config = parse("--objective", name, "--data", "moons", "--loss.energy_l2", 0.5)
        assert recipes.build_trainer(config, torch.zeros(256, 2), None)[0].objective.energy_l2 == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "x"], ["seed", "int", "x"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--iterations", "0"], ["iterations", "0"]),
        (["--data", "letters"], ["data", "letters", "digits"]),
        (["--objective", "gan"], ["objective", "gan", "pcd"]),
        (["--chains.steps", "3"], ["--chains.steps"]),
        (["--network.hidden", "wide"], ["network.hidden", "wide"]),
        (["--config", "absent.json"], ["absent.json"]),
        (["--config", "sed.json"], ["sed"]),
        (["--config", "type.json"], ["chains.step_size", "large"]),
        (["--config", "broken.json"], ["config"]),
        (["--data", "mnist"], ["root", "mnist"]),
        (["--data", "moons", "--root", "here"], ["root", "moons"]),
        (["--chains.step_size", "-1"], ["step_size", "-1"]),
        (["--network.activation", "sine"], ["activation", "sine"]),
        (["--data", "moons", "--objective", "dsm", "--chains.step_size", "-1"], ["step_size", "-1"]),
        (["--chains.num_steps", "0"], ["chains.num_steps", "at least 1", "0"]),
        (["--chains.buffer_size", "63"], ["chains.buffer_size", "64", "63"]),
        (["--optimizer.warmup", "0"], ["optimizer.warmup", "at least 1", "0"]),
        (["--network.prior_std", "0"], ["network.prior_std", "above 0", "0"]),
        (["--network.prior_std", "nan"], ["network.prior_std", "nan"]),
        (["--loss.num_levels", "1"], ["loss.num_levels", "at least 2", "1"]),
        (["--objective", "bregman", "--loss.generator", "hinge"], ["generator", "itakura_saito", "hinge"]),
        (["--objective", "esm"], ["objective: esm needs the score", "plane alone", "digits"]),
        (["--objective", "fce"], ["objective: fce needs a flow", "plane alone", "digits"]),
        (["--objective", "ncsn", "--loss.sigma", "90"], ["loss.sigma", "less than", "90"]),
        (["--monitor.max_rollbacks", "1", "--monitor.learning_rate_factor", "2"], ["learning_rate_factor", "(0, 1]", "2"]),
        (["--monitor.bounds", "[1]"], ["monitor.bounds", "dict"]),
        (["--data", "moons", "--monitor.max_rollbacks", "1", "--monitor.bounds", '{"gab": [-9, 9]}'], ["bounds", "gap", "gab"]),
        (["--chains.step_size", "0"], ["chains.step_size", "above 0", "0"]),
        (["--monitor.spread", "5"], ["monitor.max_rollbacks", "at least 1", "0"]),
        (["--sampling.num_samples", "0"], ["sampling.num_samples", "at least 1", "0"]),
        (["--sampling.num_steps", "-1"], ["sampling.num_steps", "at least 0", "-1"]),
        (["--sampling.denoising_steps", "-1"], ["sampling.denoising_steps", "at least 0", "-1"]),
        (["--data", "moons", "--network.activation", "relu"], ["network.activation", "silu, tanh, softplus", "relu"]),
        (["--objective", "dsm", "--loss.gradient_penalty", "0.1"], ["loss.gradient_penalty", "dsm", "cd, pcd"]),
        (["--objective", "nce", "--loss.energy_l2", "0.1"], ["loss.energy_l2", "nce"]),
        (["--device", "gpu"], ["device", "cpu, cuda or cuda:N", "gpu"]),
        (["--device", "mps"], ["device", "cpu, cuda or cuda:N", "mps"]),
        (["--device", "cuda:77"], ["device", "PyTorch sees", "cuda:77"]),
        (["--resume", "nowhere"], ["nowhere"]),
        (["--resume", "nowhere", "--seed", "1"], ["resume", "leave the others out"]),
    ],
)
def test_wrong_settings_get_one_line_and_leave_nothing(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("sed.json").write_text('{"sed": 3}')
    Path("type.json").write_text('{"chains": {"step_size": "large"}}')
    Path("broken.json").write_text("{")
    before = sorted(tmp_path.iterdir())
    assert main(["train", *arguments]) == 2
    told = capsys.readouterr()
    told = told._replace(err="".join(line for line in told.err.splitlines(True) if "it/s]" not in line).lstrip("\r"))  # no bar
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith("ebm-fast train: ")
    assert all(word in told.err for word in words), told.err
    assert sorted(tmp_path.iterdir()) == before


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    names = ("--chains.rejuvenation", "--resume", "--tensorboard", "--monitor.bounds", "share of the chains drawn")
    assert all(name in text for name in names)
    with pytest.raises(SystemExit):
        main(["doctor", "--nonsense"])
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["moons", "digits"])
def test_a_stopped_run_is_resumed_to_the_same_bits(tmp_path, small, monkeypatch, capsys, data):
    def state(out: Path) -> dict[str, Any]:
        path = latest_checkpoint(out / "checkpoint")
        assert path is not None
        return load_checkpoint(path)["parts"]

    pytest.importorskip("tensorboard")
    more = ["--tensorboard", "true", "--monitor.max_rollbacks", "2", "--monitor.bounds", '{"gap": [-1000, 1000]}']
    options = ["--config", str(small), "--data", data, *(more if data == "moons" else [])]
    command, whole, part = ["train", *options, "--out"], tmp_path / "whole", tmp_path / "part"
    assert main([*command, str(whole)]) == 0
    with stopped_at(7, monkeypatch):
        assert main([*command, str(part)]) == 130
    assert f"--resume {part}" in capsys.readouterr().out
    assert main([*command, str(part)]) == 2
    assert "holds a run" in capsys.readouterr().err
    assert main(["train", "--resume", str(part)]) == 0
    found, wanted = state(part), state(whole)
    assert found["objective"].pop("settings") == wanted["objective"].pop("settings")  # names among them
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    for name in ("config.json", "samples.png", "curves.png", "checkpoint/log.csv"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()
    assert (whole / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert recipes.load_config(whole / "config.json") == parse(*options)
    assert bool(list((part / "checkpoint").glob("tensorboard/events*"))) == (data == "moons") == ("monitor" in found)


@pytest.mark.filterwarnings("ignore:iteration:RuntimeWarning")
def test_the_monitor_rolls_back_as_its_settings_say(tmp_path, small, capsys):
    settings = {"max_rollbacks": "2", "bounds": '{"loss": [0.5, 0.6]}', "learning_rate_factor": "0.5", "spread": "7"}
    command = ["--config", str(small), "--data", "moons", "--objective", "dsm"]
    command += [word for name, value in settings.items() for word in (f"--monitor.{name}", value)]
    assert main(["train", *command, "--out", str(tmp_path / "run")]) == 2
    assert "diverged after 2 roll-backs (max_rollbacks): loss is" in capsys.readouterr().err
    config, x = parse(*command), torch.zeros(64, 2)
    monitor = recipes.build_trainer(config, x, None)[0].monitor
    assert (monitor.max_rollbacks, monitor.learning_rate_factor, monitor.spread) == (2, 0.5, 7.0)
    assert monitor.bounds == {"loss": (0.5, 0.6)}
    assert recipes.build_trainer(replace(config, monitor=recipes.Monitor()), x, None)[0].monitor is None


def test_a_run_stopped_before_its_first_checkpoint_begins_again(tmp_path, small, monkeypatch):
    for drawing in ("_picture", "metric_curves"):  # slow, and tested above
        monkeypatch.setattr(sys.modules["ebm_fast.recipes.run"], drawing, lambda *_: SimpleNamespace(savefig=lambda path: None))
    config, whole, part = parse("--config", small, "--data", "moons", "--iterations", 40), tmp_path / "whole", tmp_path / "part"
    torch.manual_seed(3)  # of no account
    recipes.run(config, whole, progress=False)
    with stopped_at(1, monkeypatch), pytest.raises(KeyboardInterrupt):
        recipes.run(config, part, progress=False)
    assert (part / "config.json").is_file() and latest_checkpoint(part / "checkpoint") is None
    torch.manual_seed(4)
    recipes.run(recipes.load_config(part / "config.json"), part, resume=True, progress=False)
    found, wanted = (load_checkpoint(out / "checkpoint" / "iteration-40") for out in (part, whole))
    assert found["parts"]["objective"].pop("settings") == wanted["parts"]["objective"].pop("settings")
    torch.testing.assert_close(found["parts"], wanted["parts"], rtol=0, atol=0)
    torch.testing.assert_close(found["generators"], wanted["generators"], rtol=0, atol=0)  # --seed governs torch's too
    assert (part / "checkpoint" / "log.csv").read_bytes() == (whole / "checkpoint" / "log.csv").read_bytes()
    (part / "checkpoint").rename(part / "kept")
    (part / "checkpoint").mkdir()
    (part / "kept").rename(part / "checkpoint" / "rank-0")
    with pytest.raises(FileNotFoundError, match="go on with as many as before"):
        recipes.run(config, part, resume=True, progress=False)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        recipes.run(config, tmp_path / "nowhere", resume=True, progress=False)


@pytest.mark.parametrize("name", ["noise_std", "temperature"])
def test_noise_falls_to_nothing_whatever_kind_of_number_it_is(name):
    def samples(value: Any) -> torch.Tensor:
        sampler = ef.Langevin(0.5, **{name: value})
        return from_noise(
            lambda x: 0.5 * x.square().sum(1), sampler, torch.ones(50, 2), num_steps=3, denoising_steps=20, seed=0, first_step=0
        )[0]

    whole = samples(1.0)
    assert whole.std() < 0.2  # of full noise 1.15 and 1.15
    for value in (1, torch.tensor(1.0), torch.ones(50)):
        torch.testing.assert_close(samples(value), whole, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="schedule"):
        samples([1.0] * 23)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("data", ["rings", "digits"])
def test_every_objective_trains_resumes_and_draws_on_points_and_images(tmp_path, small, objective, data):
    if objective in ("fce", "variational") and data == "rings":
        pytest.importorskip("zuko")
    config = parse("--config", small, "--objective", objective, "--data", data)
    x = training_data(config)[:500] if data == "rings" else torch.rand(40, 3, 8, 8) * 2 - 1
    if data == "digits" and objective in ("esm", "fce"):
        with pytest.raises(ValueError, match=f"^objective: {objective} needs .*plane alone, got data digits; (ace|dsm)"):
            recipes.build_trainer(config, x, None)
        return

    def build(directory: Path) -> tuple[Any, Any]:
        return recipes.build_trainer(config, x, directory, progress=False)

    whole, task = build(tmp_path / "whole")
    before = [p.detach().clone() for p in task.net.parameters()]
    whole.fit(2)
    after = list(task.net.parameters())
    assert all(p.isfinite().all() for p in after) and not all(map(torch.equal, before, after))
    build(tmp_path / "part")[0].fit(1)
    part, again = build(tmp_path / "part")
    assert part.resume()
    part.fit(2)
    assert all(map(torch.equal, after, again.net.parameters()))
    with whole.ema.applied_to(), part.ema.applied_to():
        samples = task.draw()
        assert samples.shape == (9, *x.shape[1:]) and samples.isfinite().all() and torch.equal(samples, again.draw())
        if data == "rings":
            energies = task.density(samples)
            assert energies.shape == (9,) and energies.isfinite().all()


def test_the_first_command_of_the_docs_learns():
    """Persistent chains on eight Gaussians, 300 iterations: KL 0.5; with chains that begin at a wide Gaussian 1.4."""
    config = parse("--data", "8gaussians", "--objective", "pcd", "--iterations", 300, "--threads", 1)
    trainer, task = recipes.build_trainer(config, training_data(config), None, progress=False)
    trainer.fit(300)
    with trainer.ema.applied_to():
        assert Truth.of(make_toy("8gaussians"), cells=240).distance(task.energy).kl < 0.9


def test_cifar_is_read_by_the_command_without_its_test_file(tmp_path, small):
    records = np.random.default_rng(0).integers(0, 256, (20, 3073), "u1")
    records[:, 0] %= 10
    for k in range(1, 6):
        (tmp_path / f"data_batch_{k}.bin").write_bytes(records.tobytes())
    options = ["--data", "cifar10", "--root", str(tmp_path), "--iterations", "2", "--out", str(tmp_path / "run")]
    assert main(["train", "--config", str(small), *options]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"] == "cifar10"


@pytest.mark.cuda
@pytest.mark.parametrize("data", ["moons", "digits"])
def test_the_command_trains_on_the_device(tmp_path, small, data):
    out = tmp_path / "run"
    assert main(["train", "--config", str(small), "--data", data, "--device", "cuda", "--out", str(out)]) == 0
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")
    data = torch.zeros(32, *((2,) if data == "moons" else (1, 8, 8)))
    trainer, task = recipes.build_trainer(recipes.load_config(out / "config.json"), data, None)
    assert task.net is trainer.module and next(task.net.parameters()).is_cuda and trainer.objective.buffer.samples.is_cuda
