"""`sample` and `langevin_`: the same chain from the same seed, however it is cut, recorded, resumed or executed."""

from __future__ import annotations

import signal
import threading
import time
import warnings

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.engine import ChainState, EnergyFunction, fused, keep
from ebm_fast.ops.backend import why_not
from ebm_fast.ops.chain import chain_


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (x.square() * torch.arange(1, x[0].numel() + 1, device=x.device).view(x.shape[1:])).flatten(1).sum(1)


ORDERS = pytest.mark.parametrize("order", ["gradient", "noise"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])


@ORDERS
@DTYPES
def test_recorded_thinned_and_resumed_runs_see_the_same_chain(order, dtype, device):
    sampler = ef.Langevin(0.05, order=order)
    x0 = torch.randn(9, 2, 3, device=device).to(dtype)
    full = ef.sample(quadratic, sampler, x0, num_steps=12, seed=1)
    assert full.samples.shape == (12, 9, 2, 3)
    thinned = ef.sample(quadratic, sampler, x0, num_steps=12, thin=4, seed=1)
    assert torch.equal(thinned.samples, full.samples[3::4])
    short = ef.sample(quadratic, sampler, x0, num_steps=5, warmup=3, seed=1, record=False)
    assert short.samples is None
    assert torch.equal(short.final, full.samples[7])
    resumed = ef.sample(quadratic, sampler, num_steps=4, resume=short.state)
    assert torch.equal(resumed.samples, full.samples[8:])
    stored = ChainState.from_state_dict(short.state.state_dict())
    assert torch.equal(ef.sample(quadratic, sampler, num_steps=4, resume=stored).final, full.final)
    drop_in = ef.langevin_(x0.clone(), quadratic, num_steps=12, step_size=0.05, order=order, seed=1)
    assert torch.equal(drop_in, full.final)
    later = ef.langevin_(full.samples[4].clone(), quadratic, num_steps=7, step_size=0.05, order=order, seed=1, step=5)
    assert torch.equal(later, full.final)


@ORDERS
@pytest.mark.parametrize("after", ["last", "step", "noise", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clamps_fall_in_the_same_places_however_the_run_is_cut(order, after, dtype):
    """Moves wide enough that every clamp bites, from a start outside the bounds."""
    x0 = 3.0 * torch.randn(20, 5).to(dtype)
    options = {"noise_std": 1.0, "order": order, "clamp": (-0.6, 0.9), "clamp_after": after}
    sampler = ef.Langevin(0.3, **options)
    whole = ef.sample(quadratic, sampler, x0, num_steps=6, thin=6, seed=1).final
    assert torch.equal(ef.sample(quadratic, sampler, x0, num_steps=6, seed=1).final, whole)
    assert torch.equal(ef.langevin_(x0.clone(), quadratic, num_steps=6, step_size=0.3, seed=1, **options), whole)
    x = x0.clone()
    for k in range(6):  # by hand, a step at a time
        z = ef.ops.normal_(torch.empty(x.shape), seed=1, step=k, purpose="langevin").double()
        y = x.double()
        last = {"gradient": "noise", "noise": "step"}[order] if after == "last" else after
        for move in ("step", "noise") if order == "gradient" else ("noise", "step"):
            if move == "noise":
                y = y + z
            else:
                point = y.to(dtype)
                leaf = point.detach().requires_grad_(True)
                y = y - 0.3 * torch.autograd.grad(quadratic(leaf).sum(), leaf)[0].double()
            if last in (move, "both"):
                y = y.clamp(-0.6, 0.9)
        x = y.to(dtype)
    torch.testing.assert_close(whole, x, atol=2e-5 if dtype == torch.float32 else 0.1, rtol=1e-4)


@ORDERS
def test_strategies_agree(order, device):
    sampler = ef.Langevin(0.05, order=order, grad_clip=2.0, clamp=(-3, 3), clamp_after="both")
    x0 = torch.randn(33, 7, device=device)
    step = ef.sample(quadratic, sampler, x0, num_steps=50, seed=3, strategy="step")
    truth = ef.sample(quadratic, sampler, x0, num_steps=50, seed=3, strategy="reference")
    assert (step.strategy, truth.strategy) == ("step", "reference")
    torch.testing.assert_close(step.samples, truth.samples, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(step.stats.energy, truth.stats.energy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step.stats.grad_norm, truth.stats.grad_norm, atol=1e-4, rtol=1e-4)


def test_batch_splits_and_chunks_of_chains(device):
    sampler, x0 = ef.Langevin(0.05), torch.randn(11, 5, device=device)
    whole = ef.sample(quadratic, sampler, x0, num_steps=6, seed=2).samples
    cuts = ((0, 1), (1, 7), (7, 11))
    parts = [ef.sample(quadratic, sampler, x0[a:b], num_steps=6, seed=2, chain_offset=a).samples for a, b in cuts]
    assert torch.equal(whole, torch.cat(parts, dim=1))


def test_float16_chains_of_large_events_are_not_taken_for_divergent():
    x0 = torch.full((1, 200_000), 150.0, dtype=torch.float16)  # its norm, 67082, does not fit in float16
    run = ef.sample(lambda x: 0.5e-3 * x.float().square().sum(1), ef.Langevin(0.1), x0, num_steps=2, seed=0)
    assert not run.stats.diverged.any()


def test_a_run_that_would_leave_the_counter_is_refused_before_it_starts():
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="step must be in"):
        ef.langevin_(x, quadratic, num_steps=5, step_size=0.1, seed=0, step=2**56 - 2)
    with pytest.raises(ValueError, match="step must be in"):
        ef.sample(quadratic, ef.Langevin(0.1), x, num_steps=5, seed=0, step=2**56 - 2)
    assert not x.any()
    state = ef.sample(quadratic, ef.Langevin(0.1), x, num_steps=2, seed=0).state
    with pytest.raises(ValueError, match="leave x0, seed"):
        ef.sample(quadratic, ef.Langevin(0.1), resume=state, num_steps=2, step=3)
    with pytest.raises(TypeError, match="sampler must be a sampler"):
        ef.sample(quadratic, "L", x, num_steps=2)
    with pytest.raises(TypeError, match="condition must be a dict"):
        ef.sample(quadratic, ef.Langevin(0.1), x, num_steps=2, condition=5)
    with pytest.raises(ValueError, match=r"step_size must be a number or a tensor of shape \(\) or \(2,\)"):
        ef.sample(quadratic, ef.Langevin(torch.tensor([0.1, 0.2, 0.3])), x, num_steps=2)


def test_stats(device):
    x0 = torch.randn(5, 3, device=device)
    run = ef.sample(quadratic, ef.Langevin(0.05), x0, num_steps=6, thin=2, warmup=3, seed=2)
    assert run.stats.energy.shape == (3, 5)
    torch.testing.assert_close(run.stats.energy, torch.stack([quadratic(s) for s in run.samples]))
    chain = ef.sample(quadratic, ef.Langevin(0.05), x0, num_steps=9, seed=2).samples
    weight = torch.arange(1, 4, device=device)
    norms = (chain[2:8] * weight).norm(dim=2)  # the gradients of the six steps after the warm-up
    torch.testing.assert_close(run.stats.grad_norm, norms.mean(0), atol=1e-5, rtol=1e-5)
    assert not run.stats.diverged.any()
    assert run.num_steps == 6


def steep(x: torch.Tensor) -> torch.Tensor:
    """Chains that start beyond 5 run away; the others stay."""
    return torch.where(x.abs() > 5, -x.pow(4), x.square()).sum(1)


@ORDERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_divergence_policies(order, dtype, device):
    x0 = torch.zeros(6, 2, device=device, dtype=dtype)
    x0[2], x0[5] = 6.0, 7.0
    sampler = ef.Langevin(0.05, noise_std=0.01, order=order)
    run = ef.sample(steep, sampler, x0, num_steps=30, seed=0)
    assert run.stats.diverged.tolist() == [False, False, True, False, False, True]
    assert torch.isfinite(run.samples).all()
    assert torch.isfinite(run.stats.grad_norm).all()
    at = run.stats.divergence_step[2].item()
    assert 0 < at < 30
    frozen = run.samples[at:, 2]
    assert (frozen == frozen[0]).all()
    good = [0, 1, 3, 4]
    alone = ef.sample(steep, sampler, torch.zeros(6, 2, device=device, dtype=dtype), num_steps=30, seed=0)
    assert torch.equal(run.samples[:, good], alone.samples[:, good])  # the others do not notice
    again = ef.sample(steep, sampler, num_steps=3, resume=run.state)
    assert again.stats.divergence_step[2].item() == at
    ignored = ef.sample(steep, sampler, x0, num_steps=60, seed=0, on_divergence="ignore")
    assert not torch.isfinite(ignored.final[2]).all()
    assert torch.isfinite(ignored.final[0]).all()


@pytest.mark.parametrize("strategy", ["step", "fused"])
@pytest.mark.parametrize("when", ["at once", "late", "in the warm-up"])
def test_stop_ends_with_the_first_step_in_which_a_chain_diverges(strategy, when, device):
    """Wherever the clock cuts the run into chunks, it is the frozen run up to that step."""
    energy, num_steps = ef.energies.DoubleWell().to(device), 40 if when == "at once" else 4000
    x0 = torch.zeros(8, 1, device=device)
    x0[5] = 40.0 if when == "at once" else 0.0
    if when != "at once":  # chain 3 is kicked out by one large step
        kick = 2500
        step_sizes = tuple(torch.full((8,), 0.02).index_fill_(0, torch.tensor(3), 50.0 if k in (kick, kick + 1) else 0.02)
                           for k in range(num_steps))  # fmt: skip
        sampler = ef.Langevin(lambda k: step_sizes[k].to(device), noise_std=0.2)
    else:
        sampler = ef.Langevin(0.02)
    warmup = 3000 if when == "in the warm-up" else 0
    options = {"num_steps": num_steps - warmup, "warmup": warmup, "thin": 3, "seed": 0, "strategy": strategy, "moments": True}
    with pytest.warns(RuntimeWarning, match="were frozen"):
        frozen = ef.sample(energy, sampler, x0, **options)
    chain = 5 if when == "at once" else 3
    at = int(frozen.stats.divergence_step[chain])
    assert frozen.stats.diverged.sum() == 1
    assert (at > 2000) == (when != "at once")
    with pytest.warns(RuntimeWarning, match=f"chains {chain} diverged"):
        stopped = ef.sample(energy, sampler, x0, on_divergence="stop", **options)
    assert stopped.state.step == at + 1
    assert stopped.num_steps == max(at + 1 - warmup, 0)
    rows = stopped.num_steps // 3
    assert torch.equal(stopped.samples, frozen.samples[:rows])
    assert torch.equal(stopped.stats.energy, frozen.stats.energy[:rows])
    assert torch.equal(stopped.stats.divergence_step, frozen.stats.divergence_step)
    with pytest.warns(RuntimeWarning, match="were frozen"):
        whole = ef.sample(energy, sampler, x0, **options | {"num_steps": stopped.num_steps, "warmup": min(warmup, at + 1)})
    assert torch.equal(stopped.final, whole.final)
    if not warmup:
        torch.testing.assert_close(stopped.stats.mean, whole.stats.mean)
        torch.testing.assert_close(stopped.stats.grad_norm, whole.stats.grad_norm)
    # Those that diverged before do not stop a run again.
    again = ef.sample(energy, ef.Langevin(0.01), num_steps=6, resume=stopped.state, on_divergence="stop")
    assert again.num_steps == 6
    assert int(again.stats.diverged.sum()) == 1


def test_stop_sees_a_replica_diverge_beside_one_that_did_before(device):
    energy, x0 = ef.energies.DoubleWell(1.0, 1.0, 1).to(device), torch.zeros(1, 1, device=device)
    sampler = ef.ReplicaExchange(ef.Langevin(0.2), (1.0, 0.5), swap_every=10**6)
    with pytest.warns(RuntimeWarning, match="were frozen"):
        whole = ef.sample(energy, sampler, x0, num_steps=60, seed=1)
    first, second = sorted(whole.state.extra["replica_divergence"].tolist())
    assert 0 < first < second - 2
    with pytest.warns(RuntimeWarning, match="were frozen"):
        before = ef.sample(energy, sampler, x0, num_steps=first + 2, seed=1)
    with pytest.warns(RuntimeWarning, match="stopped"):
        after = ef.sample(energy, sampler, num_steps=100, resume=before.state, on_divergence="stop")
    assert after.state.step == second + 1


@pytest.mark.parametrize(
    ("energy", "error", "match"),
    [
        (lambda x: x.square().sum(), ValueError, r"one number per chain.*without summing"),
        (lambda x: x.square().sum(1, keepdim=True), ValueError, r"squeeze it"),
        (lambda x: x.square(), ValueError, r"energy must return shape \(4,\)"),
        (lambda x: x.detach().square().sum(1), ValueError, "detached from its input"),
        (lambda x: nn.Parameter(torch.zeros(4)) * 1.0, ValueError, "does not depend on x"),
        (lambda x: 3.0, TypeError, "energy must return a tensor"),
        (lambda x: (x > 0).sum(1), TypeError, "floating-point"),
        ("energy", TypeError, "energy must be callable"),
        (ef.energies.Ring, TypeError, r"got the class Ring: write Ring\(\.\.\.\)"),
    ],
)
def test_bad_energies_are_named(energy, error, match):
    x = torch.ones(4, 3)
    with pytest.raises(error, match=match):
        ef.sample(energy, ef.Langevin(0.1), x, num_steps=2, seed=0)
    with pytest.raises(error, match=match):
        ef.langevin_(x, energy, num_steps=2, step_size=0.1, seed=0)
    assert torch.equal(x, torch.ones(4, 3))


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"num_steps": -1}, ValueError, "num_steps must be at least 0"),
        ({"num_steps": 1.0}, TypeError, "num_steps must be an int"),
        ({"thin": 0}, ValueError, "thin must be at least 1"),
        ({"warmup": -1}, ValueError, "warmup"),
        ({"x0": None}, ValueError, "x0 must be given"),
        ({"x0": [1.0]}, TypeError, "x0 must be a tensor"),
        ({"x0": torch.tensor(1.0)}, ValueError, "x0 must have shape"),
        ({"x0": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "x0 must have dtype"),
        ({"x0": torch.full((3, 2), float("nan"))}, ValueError, "x0 holds NaN"),
        ({"seed": 2**70}, ValueError, "seed must fit"),
        ({"on_divergence": "cry"}, ValueError, "on_divergence must be one of"),
        ({"strategy": "magic"}, ValueError, "strategy must be one of"),
        ({"strategy": "graph"}, ValueError, "needs x on a CUDA device"),
        ({"strategy": "reference", "backend": "cpu"}, ValueError, "runs on backend 'reference'"),
        ({"resume": 3}, ValueError, "leave x0, seed, step"),
        ({"chain_offset": 2**32 - 1}, ValueError, "chain_offset"),
    ],
)
def test_bad_arguments_of_sample_are_named(kwargs, error, match):
    kwargs = {"x0": torch.zeros(3, 2), "num_steps": 2, "seed": 0} | kwargs
    with pytest.raises(error, match=match):
        ef.sample(quadratic, ef.Langevin(0.1), kwargs.pop("x0"), **kwargs)


def test_bad_states_of_langevin():
    for x, match in ((torch.zeros(3, 4).t(), "contiguous"), (torch.zeros(2, requires_grad=True), "not require grad")):
        with pytest.raises(ValueError, match=match):
            ef.langevin_(x, quadratic, num_steps=1, step_size=0.1)


def test_no_chains_no_elements_no_steps():
    for shape in [(0, 3), (3, 0)]:
        run = ef.sample(lambda x: x.sum(1), ef.Langevin(0.1), torch.zeros(shape), num_steps=4, seed=0)
        assert run.samples.shape == (4, *shape)
        assert ef.langevin_(torch.zeros(shape), lambda x: x.sum(1), num_steps=4, step_size=0.1).shape == shape
    run = ef.sample(quadratic, ef.Langevin(0.1), torch.ones(2, 2), num_steps=0, seed=0)
    assert run.samples.shape == (0, 2, 2)
    assert torch.equal(run.final, torch.ones(2, 2))
    scalars = ef.sample(lambda x: 0.5 * x.square(), ef.Langevin(0.1), torch.ones(5), num_steps=3, seed=0)
    assert scalars.samples.shape == (3, 5)


def test_condition_and_both_at_once():
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre = nn.Parameter(torch.tensor([-2.0, 3.0]))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return 50.0 * (x[:, 0] - self.centre[y]).square()

    y = torch.tensor([0, 1] * 50)
    energy = Labelled()
    run = ef.sample(energy, ef.Langevin(0.005), torch.zeros(100, 1), num_steps=50, seed=0, condition={"y": y})
    assert run.final[y == 0].mean().item() == pytest.approx(-2.0, abs=0.1)
    assert run.final[y == 1].mean().item() == pytest.approx(3.0, abs=0.1)
    assert energy.centre.grad is None

    class Analytic:
        def energy_and_grad(self, x):
            return 0.5 * x.square().sum(1), x

        def __call__(self, x):
            raise AssertionError("both were to be asked for at once")

    plain = ef.langevin_(torch.ones(3, 2), lambda x: 0.5 * x.square().sum(1), num_steps=5, step_size=0.1, seed=0)
    assert torch.equal(ef.langevin_(torch.ones(3, 2), Analytic(), num_steps=5, step_size=0.1, seed=0), plain)


def test_under_no_grad_and_inference_mode():
    wanted = ef.langevin_(torch.ones(3, 2), quadratic, num_steps=5, step_size=0.1, seed=0)
    with torch.no_grad():
        assert torch.equal(ef.langevin_(torch.ones(3, 2), quadratic, num_steps=5, step_size=0.1, seed=0), wanted)
    with torch.inference_mode():
        assert torch.equal(ef.langevin_(torch.ones(3, 2), quadratic, num_steps=5, step_size=0.1, seed=0), wanted)
        assert torch.equal(ef.sample(quadratic, ef.Langevin(0.1), torch.ones(3, 2), num_steps=5, seed=0).final, wanted)


def test_torch_governs_without_a_seed():
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(ef.sample(quadratic, ef.Langevin(0.1), torch.zeros(3, 2), num_steps=3).final)
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], ef.sample(quadratic, ef.Langevin(0.1), torch.zeros(3, 2), num_steps=3).final)


@pytest.fixture
def ctrl_c():
    """Python's own handler of Ctrl-C, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@ORDERS
@pytest.mark.parametrize(("thin", "warmup", "momentum"), [(1, 0, 0.0), (4, 0, 0.5), (1, 10, 0.0), (3, 2, 0.9)])
def test_interruption_keeps_a_partial_run_that_resumes_exactly(order, thin, warmup, momentum, ctrl_c, monkeypatch):
    monkeypatch.setattr(keep, "INTERVAL", 0.0)  # a copy of the state after every step

    def energy(x: torch.Tensor) -> torch.Tensor:
        energy.calls += 1
        if energy.calls == 12:
            signal.raise_signal(signal.SIGINT)
        return quadratic(x)

    energy.calls = 0
    x0, sampler = torch.randn(3, 2), ef.Langevin(0.1, order=order, momentum=momentum)
    with pytest.raises(KeyboardInterrupt) as caught:
        ef.sample(energy, sampler, x0, num_steps=24, thin=thin, warmup=warmup, seed=0)
    partial = caught.value.run
    assert isinstance(caught.value, ef.Interrupted)
    assert partial.num_steps < 24
    assert partial.state.age >= 5
    full = ef.sample(quadratic, sampler, x0, num_steps=24, thin=thin, warmup=warmup, seed=0)
    assert torch.equal(partial.samples, full.samples[: partial.num_steps // thin])
    rest = ef.sample(quadratic, sampler, num_steps=24 + warmup - partial.state.age, resume=partial.state)
    assert torch.equal(rest.final, full.final)


NATIVE = pytest.mark.skipif(bool(why_not("cpu")), reason="the extension is not built")


@NATIVE
@pytest.mark.parametrize("strategy", ["fused", "step"])
@pytest.mark.parametrize("sampler", [ef.HMC(0.2, 2), ef.Langevin(0.1)], ids=["hmc", "langevin"])
def test_an_interrupted_run_loses_little_of_a_long_row(sampler, strategy, monkeypatch):
    """One row of 10^6 steps: the keyboard is looked at on the way, and the chain is the same however it was cut."""
    energy, x0 = ef.energies.Gaussian(torch.zeros(2)), torch.randn(5, 2)
    monkeypatch.setattr(keep, "INTERVAL", 0.02)
    start = time.perf_counter()

    def after_half_a_second(*args, **options):
        if time.perf_counter() - start > 0.5:
            raise KeyboardInterrupt
        return chain_(*args, **options)

    def stepping(x):
        if time.perf_counter() - start > 0.5:
            raise KeyboardInterrupt
        return 0.5 * x.square().sum(1)

    monkeypatch.setattr(fused, "chain_", after_half_a_second)
    target = energy if strategy == "fused" else stepping
    with pytest.raises(ef.Interrupted) as caught:
        ef.sample(target, sampler, x0, num_steps=10**9, thin=10**9, moments=True, seed=1, strategy=strategy)
    partial = caught.value.run
    assert 10 < partial.num_steps < 10**8
    monkeypatch.setattr(fused, "chain_", chain_)
    if strategy == "fused":
        whole = ef.sample(energy, sampler, x0, num_steps=partial.num_steps, moments=True, seed=1)
        assert torch.equal(partial.final, whole.final)
        torch.testing.assert_close(partial.stats.mean, whole.stats.mean, rtol=1e-4, atol=1e-4)


@NATIVE
def test_long_schedules_of_many_chains_are_written_out_in_pieces(monkeypatch):
    """2^20 numbers at most, and the chain is the same."""
    energy, x0, rows = ef.energies.Gaussian(torch.zeros(2)), torch.randn(2**12, 2), []

    def counted(*args, **options):
        rows.append(options["step_size"].shape[0])
        return chain_(*args, **options)

    steps = torch.linspace(0.01, 0.1, 2**12)
    options = {"step_size": lambda age: steps / (1 + 0.01 * age), "num_steps": 600, "seed": 1}
    whole = ef.langevin_(x0.clone(), energy, strategy="step", **options)
    monkeypatch.setattr(fused, "chain_", counted)
    torch.testing.assert_close(ef.langevin_(x0.clone(), energy, **options), whole, rtol=1e-5, atol=1e-5)
    assert max(rows) <= 256
    assert sum(rows) == 600


def test_no_record_keeps_no_energy():
    """`record_energy` follows `record` unless it is given."""
    energy, x0 = ef.energies.Gaussian(torch.zeros(2)), torch.randn(5, 2)
    for target in (energy, quadratic):
        for record, record_energy, kept in ((True, None, True), (False, None, False), (False, True, True), (True, False, False)):
            options = {"num_steps": 3, "seed": 1, "record": record, "record_energy": record_energy}
            stats = ef.sample(target, ef.HMC(0.2, 2), x0, **options).stats
            assert (stats.energy is not None) == (stats.hamiltonian is not None) == kept


def test_progress_bar_shows_steps_and_eta(capsys):
    ef.sample(quadratic, ef.Langevin(0.1), torch.zeros(3, 2), num_steps=100, seed=0, progress=True)
    shown = capsys.readouterr().err
    assert "100/100" in shown
    ef.sample(quadratic, ef.Langevin(0.1), torch.zeros(3, 2), num_steps=100, seed=0)
    assert capsys.readouterr().err == ""  # not a terminal


def test_threads_may_sample_side_by_side():
    wanted = [ef.sample(quadratic, ef.Langevin(0.1), torch.zeros(50, 20), num_steps=20, seed=s).final for s in range(3)]
    got: dict[int, torch.Tensor] = {}

    def work(seed: int) -> None:
        got[seed] = ef.sample(quadratic, ef.Langevin(0.1), torch.zeros(50, 20), num_steps=20, seed=seed).final

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(got[s], wanted[s]) for s in range(3))


def test_channels_last_gradients_are_brought_into_memory_order():
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Flatten()).to(memory_format=torch.channels_last)
    energy = EnergyFunction(lambda x: net(x.contiguous(memory_format=torch.channels_last)).sum(1))
    x = torch.randn(3, 2, 5, 5)
    _, grad = energy.value_and_grad(x)
    assert grad.is_contiguous()
    leaf = x.clone().requires_grad_(True)
    torch.testing.assert_close(grad, torch.autograd.grad(net(leaf).sum(), leaf)[0], atol=1e-5, rtol=1e-5)


def test_no_warnings_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ef.sample(quadratic, ef.Langevin(0.1), torch.zeros(3, 2), num_steps=3, seed=0)
