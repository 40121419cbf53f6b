"""What a trainer refuses, warns of and does not write: two players, left-out parameters, numbers that are not finite."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.models import ConditionalScore, GaussianGenerator, ImplicitEncoder
from ebm_fast.training import Alternating, BatchStream, DivergenceMonitor, Trainer, latest_checkpoint

DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
NOISE = ef.noise.Gaussian(torch.zeros(2), 2.0)


def trainer(module: nn.Module, objective, parameters, **options) -> Trainer:
    options = {"checkpoint_every": 2, "log_every": 1, "progress": False} | options
    return Trainer(module, objective, torch.optim.SGD(parameters, 1e-2), BatchStream([DATA], 16, seed=0), **options)


class Kink(torch.autograd.Function):
    """The identity, of gradient NaN."""

    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_, grad: Tensor) -> Tensor:
        return grad * math.nan


class Spoilt(ef.NCE):
    """Its loss in one iteration is finite and has no gradient."""

    at = 3

    def __call__(self, batch):
        spoilt = self.iteration == self.at
        loss, metrics = super().__call__(batch)
        return Kink.apply(loss) if spoilt else loss, metrics


def spoilt(directory: Path | None, **options) -> Trainer:
    torch.manual_seed(0)
    net = MLPEnergy(2, (4,))
    objective = Spoilt(net, NOISE, log_z=0.0, seed=1)
    return trainer(net, objective, objective.parameters(), directory=directory, **options)


@pytest.mark.parametrize("kept", [True, False])
def test_a_checkpoint_never_holds_a_nan(tmp_path, kept):
    """The loss of iteration 4, which is due, is finite and its gradient is not."""
    run = spoilt(tmp_path if kept else None)
    with pytest.raises(FloatingPointError, match=r"not finite: parameter .*gradient of parameter .*after iteration 4"):
        run.fit(8)
    if kept:
        assert latest_checkpoint(tmp_path).name == "iteration-2"
        again = spoilt(tmp_path)
        assert again.resume() and all(bool(p.isfinite().all()) for p in again.module.parameters())


def test_the_parameter_is_named():
    run = spoilt(None)
    run.objective.at = -1
    run.fit(1)
    run.objective.log_z.grad.fill_(math.inf)
    run.optimizer.zero_grad = lambda: None  # keeps the infinity
    with pytest.raises(FloatingPointError, match="not finite: parameter log_z, gradient of parameter log_z, after iteration 2"):
        run.fit(2)


@pytest.mark.parametrize("named", ["FlowContrastive", "ImplicitVAE"])
def test_an_objective_of_two_players_is_to_be_wrapped(named):
    if named == "ImplicitVAE":
        module, objective = vae()
        turn = "score_loss.*score_parameters"
    else:
        module = MLPEnergy(2, (4,))
        objective = ef.FlowContrastive(module, ef.objectives.players.DiagonalGaussian(torch.zeros(2), 2.0), seed=1)
        turn = "generator_loss.*generator_parameters"
    with pytest.raises(TypeError, match=f"objective: {named} has a second player .{turn}"):
        trainer(module, objective, module.parameters())


def vae() -> tuple[nn.Module, ef.ImplicitVAE]:
    torch.manual_seed(0)
    encoder, decoder = ImplicitEncoder(2, 2, 1, (8,)), GaussianGenerator(nn.Linear(1, 2), 0.3)
    objective = ef.ImplicitVAE(encoder, decoder, ConditionalScore(1, 2, (8,)), 2, seed=1)
    return nn.ModuleList([encoder, decoder]), objective


def test_alternating_trains_the_score_of_an_implicit_vae():
    module, objective = vae()
    before = [p.clone() for p in objective.score_parameters()]
    both = Alternating(objective, torch.optim.SGD(objective.score_parameters(), 1e-2), steps=2)
    seen = {}
    run = trainer(module, both, both.parameters(), callbacks=[lambda t, metrics: seen.update(metrics)])
    run.fit(3)
    assert (objective.iteration, objective.score_iteration) == (3, 6)
    assert {"log_likelihood", "stein", "score_loss", "score_matching"} <= set(seen)
    assert not any(map(torch.equal, before, objective.score_parameters()))


def test_parameters_that_no_optimiser_holds():
    net = MLPEnergy(2, (4,))
    objective = ef.NCE(net, NOISE, log_z=0.0, seed=1)
    with pytest.warns(UserWarning, match=r"optimizer: lacks 1 of objective.parameters\(\).*: log_z; make it of"):
        trainer(net, objective, net.parameters())
    with pytest.warns(UserWarning, match="lacks 1 .*: .*weight"):
        trainer(net, objective, list(objective.parameters())[1:])
    objective.log_z.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(net, objective, net.parameters())


@pytest.mark.filterwarnings("ignore:iteration:RuntimeWarning")
def test_a_roll_back_slows_both_players():
    net = MLPEnergy(2, (4,))
    objective = ef.FlowContrastive(net, ef.objectives.players.DiagonalGaussian(torch.zeros(2), 2.0), seed=1)
    second = torch.optim.SGD(objective.generator_parameters(), 0.1)
    broken = []

    def spoil(t, _):
        if t.iteration == 3 and not broken:
            broken.append(next(objective.generator_parameters()).data.fill_(math.nan))

    monitor = DivergenceMonitor(learning_rate_factor=0.5)
    run = trainer(net, Alternating(objective, second), net.parameters(), monitor=monitor, callbacks=[spoil])
    run.fit(6)
    assert monitor.num_rollbacks == 1
    assert second.param_groups[0]["lr"] == pytest.approx(0.05)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-2)


def test_a_checkpoint_keeps_what_callbacks_have_changed(tmp_path):
    """Weights that a callback bounds after each iteration: a run that is resumed ends with the same bits."""

    def bound(t: Trainer, _: object) -> None:
        with torch.no_grad():
            for p in t.module.parameters():
                p.clamp_(-0.3, 0.3)

    def build() -> Trainer:
        torch.manual_seed(0)
        net = MLPEnergy(2, (4,))
        return trainer(net, ef.NCE(net, NOISE, seed=1), net.parameters(), directory=tmp_path, callbacks=[bound])

    first = build()
    first.fit(3)
    second = build()
    assert second.resume() and all(map(torch.equal, second.module.parameters(), first.module.parameters()))
    assert max(p.abs().max() for p in first.module.parameters()) == 0.3
    first.fit(4), second.fit(4)
    assert all(map(torch.equal, second.module.parameters(), first.module.parameters()))


@pytest.mark.filterwarnings("ignore:iteration:RuntimeWarning")
def test_callbacks_that_spoil_the_iteration_of_a_checkpoint_are_rolled_back():
    net, spoilt = MLPEnergy(2, (4,)), []

    def spoil(t: Trainer, _: object) -> None:
        if t.iteration == 4 and len(spoilt) < 2:
            spoilt.append(next(t.module.parameters()).data.fill_(math.inf))

    monitor = DivergenceMonitor()
    run = trainer(net, ef.NCE(net, NOISE, seed=1), net.parameters(), monitor=monitor, callbacks=[spoil], checkpoint_every=2)
    run.fit(6)
    assert [entry[:2] for entry in monitor.history] == [(4, 2), (4, 0)] and run.iteration == 6
    assert "after the callbacks of iteration 4" in monitor.history[0][2]
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    last = [entry["iteration"] for entry in run._snapshots._memory]
    assert last == [4, 6]


def test_states_of_something_else(tmp_path):
    torch.manual_seed(0)
    net, chains = MLPEnergy(2, (4,)), {"sampler": ef.Langevin(0.01), "num_steps": 1, "seed": 1}
    buffer = ef.ReplayBuffer(32, (2,), init=("normal", 1.0), seed=1)
    persistent, plain = ef.PersistentCD(net, buffer=buffer, **chains), ef.ContrastiveDivergence(net, **chains)
    trainer(net, plain, net.parameters(), directory=tmp_path).fit(2)
    other = trainer(net, persistent, net.parameters(), directory=tmp_path)
    with pytest.raises(ValueError, match=r"saved of objective does not fit this PersistentCD: .* got that of Contrastive"):
        other.resume()
    net, score = vae()
    flow = ef.FlowContrastive(net, ef.objectives.players.DiagonalGaussian(torch.zeros(2), 2.0), seed=1)
    second = Alternating(flow, torch.optim.SGD(flow.generator_parameters(), 0.1))
    parts = [persistent, plain, buffer, ef.EMA(net), DivergenceMonitor(), score, flow, second]
    parts += [ef.NCE(net, NOISE, seed=1), ef.AdaptiveNCE(net, buffer=buffer, **chains)]
    parts += [ef.FiniteDifferenceScoreMatching(net, step=0.1)]
    for part in parts:
        for state in ({}, {"epoch": 1}, None):
            with pytest.raises(ValueError, match=r"state: expected one with .*, got (nothing|epoch|a NoneType)$"):
                part.load_state_dict(state)


def test_a_look_moves_no_second_player():
    flow = ef.FlowContrastive(MLPEnergy(2, (4,)), ef.objectives.players.DiagonalGaussian(torch.zeros(2), 2.0), seed=1)
    both = Alternating(flow, torch.optim.SGD(flow.generator_parameters(), 0.1))
    before = [p.clone() for p in flow.generator_parameters()]
    with torch.no_grad():
        both(torch.randn(8, 2))
    assert all(map(torch.equal, flow.generator_parameters(), before))
    both(torch.randn(8, 2))
    assert not all(map(torch.equal, flow.generator_parameters(), before))


def test_states_are_copies():
    buffer = ef.ReplayBuffer(8, (2,), init=("normal", 1.0), seed=1)
    average = ef.EMA(MLPEnergy(2, (4,)))
    kept = [buffer.state_dict()["samples"], *average.state_dict()["average"].values()]
    before = [t.clone() for t in kept]
    buffer.samples.zero_()
    for t in average.average.values():
        t.fill_(7.0)
    assert all(map(torch.equal, kept, before))
