"""What counts as divergence, and what a roll-back restores, changes and refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler as schedules

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.training import BatchStream, Diverged, DivergenceMonitor, Trainer, make_toy
from ebm_fast.training.monitor import reseed


def metrics(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def looked(monitor: DivergenceMonitor, **values: float) -> str:
    """What is wrong with these numbers; empty if nothing is."""
    try:
        monitor.check(metrics(**values), [])
    except Diverged as error:
        return str(error)
    return ""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "some_metric", "parameters", "gradients"])
def test_what_is_not_finite(where, bad):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    values = metrics(loss=1.0, some_metric=2.0)
    DivergenceMonitor().check(values, [p])
    if where == "parameters":
        p.data[1] = bad
    elif where == "gradients":
        p.grad[1] = bad
    else:
        values[where] = torch.tensor(bad)
    with pytest.raises(Diverged, match=f"{where}.* is (nan|inf|-inf)"):
        DivergenceMonitor().check(values, [p])


def test_bounds():
    monitor = DivergenceMonitor(bounds={"gap": (-5.0, 5.0), "diverged": (0.0, 0.125)})
    assert looked(monitor, loss=1e30, gap=5.0, diverged=0.125) == ""
    assert looked(monitor, loss=0.0) == ""  # an iteration without these metrics
    assert "gap is -5.1, bounds -5 ... 5" in looked(monitor, gap=-5.1)
    assert "diverged is 0.2" in looked(monitor, gap=0.0, diverged=0.2)


def test_far_out_of_the_range_of_the_last_iterations():
    monitor = DivergenceMonitor(window=4, spread=3.0)
    for value in (0.0, 10.0, 4.0):
        assert looked(monitor, energy_data=value, gap=value) == ""
    assert looked(monitor, energy_data=1e6) == ""  # the window is not full yet
    monitor = DivergenceMonitor(window=4, spread=3.0)
    for value in (0.0, 10.0, 4.0, 5.0):
        looked(monitor, energy_data=value)
    assert looked(monitor, energy_data=39.0, gap=1e9) == ""  # gap is not watched
    # The range is 4 ... 39 now, 0 having left the window with its first look.
    assert looked(monitor, energy_data=4.0 - 3 * 35.0 + 0.5) == ""
    assert "energy_data is 1000, after" in looked(monitor, energy_data=1000.0)
    watching = DivergenceMonitor(window=2, spread=3.0, watch=["gap"])
    for value in (0.0, 0.1, 3.0, 0.1):  # ranges below 1 count as 1
        assert looked(watching, gap=value, energy_data=0.0) == ""
    assert looked(watching, gap=0.0, energy_data=1e9) == ""
    assert looked(watching, gap=99.0)
    assert looked(DivergenceMonitor(window=2, spread=math.inf), loss=1e30) == ""


def test_a_bad_look_does_not_move_the_range():
    monitor = DivergenceMonitor(window=2, spread=2.0)
    for value in (0.0, 1.0):
        looked(monitor, loss=value)
    assert looked(monitor, loss=100.0) and looked(monitor, loss=100.0) and looked(monitor, loss=100.0)
    other = DivergenceMonitor(window=2, spread=2.0)
    other.load_state_dict(monitor.state_dict())
    assert looked(other, loss=100.0) and not looked(other, loss=2.0)


def test_reseed_draws_new_seeds_that_are_functions_of_the_old():
    def seeds(count: int, seed: int = 5) -> tuple[int, int, int]:
        torch.manual_seed(seed)
        buffer = ef.ReplayBuffer(8, (2,), init=("normal", 1.0), seed=seed + 10)
        objective = ef.PersistentCD(MLPEnergy(2, (4,)), ef.Langevin(0.1), buffer, num_steps=1, seed=seed)
        reseed(objective, count)
        return objective.seed, buffer.seed, torch.initial_seed()

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2), *seeds(1, seed=6), 5, 6, 15, 16}) == 13

    class Own:
        seed = 3

        def reseed(self, draw):
            self.seed = draw(self.seed) % 7 + 100

    own = Own()
    reseed(own, 1)
    assert 100 <= own.seed < 107


def trainer(monitor: DivergenceMonitor | None, lr: float = 1e-2, data: torch.Tensor | None = None, **options) -> Trainer:
    torch.manual_seed(0)
    net = MLPEnergy(2, (16,), "softplus")
    data = make_toy("moons").sample(256, seed=0) if data is None else data
    buffer = ef.ReplayBuffer(128, (2,), init=("normal", 2.0), seed=3)
    objective = ef.PersistentCD(net, ef.Langevin(0.05), buffer, num_steps=5, seed=3)
    optimizer = torch.optim.SGD(net.parameters(), lr)
    options = {"checkpoint_every": 5, "progress": False} | options
    return Trainer(net, objective, optimizer, BatchStream(data, 64), monitor=monitor, **options)


def test_a_run_that_diverges_is_saved_by_a_smaller_learning_rate():
    """No planted fault: the steps are too large for this net, until roll-backs have made them smaller."""
    with pytest.raises(FloatingPointError):
        trainer(None, lr=50.0).fit(40)
    monitor = DivergenceMonitor(max_rollbacks=10, learning_rate_factor=0.1, bounds={"energy_samples": (-1e4, 1e4)})
    saved = trainer(monitor, lr=50.0)
    with pytest.warns(RuntimeWarning, match="roll-back . of 10") as told:
        saved.fit(40)
    assert len(told) == monitor.num_rollbacks
    assert saved.iteration == 40
    assert 1 <= monitor.num_rollbacks == len(monitor.history) <= 10
    rate = saved.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(50.0 * 0.1**monitor.num_rollbacks)  # once for each, whatever the snapshot had seen
    with torch.no_grad():
        noise = torch.rand(500, 2, generator=torch.Generator().manual_seed(1)) * 12 - 6
        assert saved.module(make_toy("moons").sample(500, seed=1)).mean() < saved.module(noise).mean()


@pytest.mark.filterwarnings("ignore:iteration:RuntimeWarning")
def test_it_gives_up_with_the_reason():
    monitor = DivergenceMonitor(max_rollbacks=2, bounds={"gap": (-1e-9, 1e-9)})
    with pytest.raises(FloatingPointError, match=r"iteration 1 diverged after 2 roll-backs \(max_rollbacks\): gap is"):
        trainer(monitor).fit(5)
    assert [entry[:2] for entry in monitor.history] == [(1, 0), (1, 0)]


def test_bad_data_are_no_divergence(tmp_path):
    data = make_toy("moons").sample(256, seed=0)
    data[17, 1] = math.nan
    with pytest.raises(FloatingPointError, match="not finite: batch"):
        trainer(DivergenceMonitor(), data=data, directory=tmp_path).fit(4)


@pytest.mark.filterwarnings("ignore:iteration:RuntimeWarning")
def test_schedules_are_scaled_with_the_rate():
    monitor = DivergenceMonitor(learning_rate_factor=0.5)
    run = trainer(monitor)
    run.scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda i: 1.0 / (1 + i))
    run._parts["scheduler"] = run.scheduler
    broken = []

    def spoil(t, _):
        if t.iteration == 7 and not broken:
            broken.append(next(t.module.parameters()).data.fill_(math.nan))

    run.callbacks = (spoil,)
    run.fit(10)
    assert [entry[:2] for entry in monitor.history] == [(8, 5)]
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 1e-2 / 11)


SCHEDULES = {
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, factor=0.5, patience=2, min_lr=2e-3),
    "one cycle": lambda o: schedules.OneCycleLR(o, 1e-2, total_steps=30),
    "sequence of a line and a cosine": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, 1.0, 5), schedules.CosineAnnealingLR(o, 20, eta_min=1e-3)], [5]
    ),
    "sequence of functions": lambda o: schedules.SequentialLR(
        o, [schedules.LambdaLR(o, lambda i: (i + 1) / 6), schedules.LambdaLR(o, lambda i: 1 / (i + 1))], [5]
    ),
    "chained": lambda o: schedules.ChainedScheduler([schedules.LinearLR(o, 0.1, 1.0, 5), schedules.ExponentialLR(o, 0.95)]),
    "cyclic": lambda o: schedules.CyclicLR(o, 1e-3, 1e-2, step_size_up=3, cycle_momentum=False),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 7, eta_min=1e-3),
    "steps": lambda o: schedules.StepLR(o, 4, 0.5),
    "average": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=3e-3, anneal_epochs=6),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_factor_stays_whatever_the_schedule(name):
    """Ten steps after a roll-back in the third every rate is the factor times the one of a run without."""
    rates = []
    for count in (0, 1):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1e-2)
        schedule, kept = SCHEDULES[name](optimizer), []
        for step in range(13):
            if step == 3 and count:
                objective = ef.DenoisingScoreMatching(MLPEnergy(2, (4,)), 0.3, seed=1)
                DivergenceMonitor(learning_rate_factor=0.25).begin_again(1, objective, optimizer, schedule)
            optimizer.step()
            schedule.step(*[1.0] * (name == "plateau"))
            kept.append(optimizer.param_groups[0]["lr"])
        rates.append(kept)
    assert rates[1][:3] == rates[0][:3]
    assert rates[1][3:] == pytest.approx([0.25 * rate for rate in rates[0][3:]], rel=1e-9)


def test_looks_are_taken_before_every_snapshot():
    """With check_every=3 and snapshots every 5, iterations 3, 5, 6, 9, 10 are looked at."""
    seen = []

    class Watching(DivergenceMonitor):
        def check(self, values, parameters):
            seen.append(run.iteration + 1)
            super().check(values, parameters)

    run = trainer(Watching(check_every=3))
    run.fit(10)
    assert seen == [3, 5, 6, 9, 10]


@pytest.mark.parametrize(
    "options", [{"bounds": {"gqp": (0.0, 1.0)}}, {"watch": ["energy_data", "gqp"]}, {"watch": ["gqp"], "check_every": 2}]
)
def test_names_that_are_no_metrics_are_told_in_the_first_look(options):
    name = "watch" if "watch" in options else "bounds"
    with pytest.raises(ValueError, match=rf"{name}: expected some of the metrics loss, energy_data, .*; got gqp$"):
        trainer(DivergenceMonitor(**options)).fit(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rollbacks": 0}, "max_rollbacks"),
        ({"window": 1}, "window"),
        ({"check_every": 0}, "check_every"),
        ({"learning_rate_factor": 0.0}, "learning_rate_factor"),
        ({"learning_rate_factor": 1.5}, "learning_rate_factor"),
        ({"spread": 0.0}, "spread"),
        ({"spread": math.nan}, "spread"),
        ({"bounds": {"gap": (1.0, 1.0)}}, "bounds"),
        ({"bounds": ("gap", 1.0)}, "bounds: expected metrics by name"),
        ({"spread": "a"}, "spread must be a number"),
        ({"watch": "loss"}, "watch: expected a list"),
    ],
)
def test_errors(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        DivergenceMonitor(**options)
