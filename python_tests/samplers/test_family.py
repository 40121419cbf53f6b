"""What every sampler promises: one chain, however it is run, split, recorded, interrupted, resumed or computed."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from samplers.family import NAMES, Counting, adaptive, blurred, bowl, family, shift

import ebm_fast as ef
from ebm_fast.engine.state import ChainState
from ebm_fast.training import load_checkpoint, save_checkpoint

EVERY = pytest.mark.parametrize("name", NAMES)
ADAPTIVE = pytest.mark.parametrize("name", tuple(adaptive()))
STEPS = 24


def start(n: int = 5, event: tuple[int, ...] = (3,), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return ef.ops.normal_(torch.empty((n, *event), dtype=torch.float32), seed=11).to(dtype)


def run_of(name: str, event: tuple[int, ...] = (3,), n: int = 5, **options):
    sampler, energy = family(event)[name]
    options = {"num_steps": STEPS, "seed": 3, **options}
    x0 = options.pop("x0", None)
    if "resume" in options:
        options.pop("seed")
    else:
        x0 = start(n, event) if x0 is None else x0
    return ef.sample(energy, sampler, x0, **options)


@EVERY
def test_moves_stays_finite_and_reports(name):
    run = run_of(name)
    assert run.samples.shape == (STEPS, 5, 3)
    assert torch.equal(run.samples[-1], run.final) or "denoised" in name
    assert torch.isfinite(run.samples).all()
    assert (run.samples[-1] != start()).any(dim=1).all()
    assert run.stats.energy.shape == (STEPS, 5)
    accepts = run.stats.acceptance is not None
    if accepts:
        assert ((run.stats.acceptance > 0) & (run.stats.acceptance <= 1)).all()
        assert (run.stats.divergences == 0).all()
    else:
        assert (run.stats.grad_norm > 0).all()


@EVERY
def test_a_loop_of_single_steps_is_the_same_chain(name):
    sampler, energy = family((3,))[name]
    state = sampler.init(energy, start(), seed=3)
    for _ in range(STEPS):
        before = state.clone()
        state, info = sampler.step(energy, state)
        assert not torch.equal(before.x, state.x) or info.acceptance is not None
    assert info.energy.shape[0] in (5, 15)
    wanted = run_of(name).state
    torch.testing.assert_close(state.x, wanted.x, rtol=0.0, atol=0.0)


@EVERY
def test_thinning_recording_and_batches_do_not_change_a_chain(name):
    whole = run_of(name)
    thinned = run_of(name, thin=4, record_energy=False)
    assert torch.equal(thinned.samples, whole.samples[3::4])
    assert torch.equal(run_of(name, record=False).final, whole.final)
    halves = [run_of(name, x0=start()[:2]), run_of(name, x0=start()[2:], chain_offset=2)]
    torch.testing.assert_close(torch.cat([h.samples for h in halves], 1), whole.samples, rtol=1e-5, atol=1e-6)


@EVERY
def test_a_resumed_run_is_the_same_chain(name, tmp_path):
    whole = run_of(name)
    first = run_of(name, num_steps=9)
    save_checkpoint(tmp_path / "chain", first.state.state_dict())
    state = ChainState.from_state_dict(load_checkpoint(tmp_path / "chain"))
    rest = run_of(name, num_steps=STEPS - 9, resume=state)
    assert torch.equal(torch.cat((first.samples, rest.samples)), whole.samples)


@EVERY
@pytest.mark.parametrize("event", [(1,), (2, 3, 3), (70,)])
def test_events_of_any_shape(name, event):
    run = run_of(name, event=event)
    assert run.final.shape == (5, *event)
    assert torch.isfinite(run.final).all()


@EVERY
def test_parity_with_the_reference(name, device):
    """Decisions equal, states to rounding, over chains long enough to show a wrong constant."""
    x0 = start(16, (2, 3)).to(device)
    sampler, energy = family((2, 3))[name]
    sampler = to_device(sampler, device)
    fast, slow = (ef.sample(energy, sampler, x0, num_steps=STEPS, seed=3, strategy=s) for s in ("step", "reference"))
    torch.testing.assert_close(fast.samples, slow.samples, rtol=2e-4, atol=2e-4)
    if slow.stats.acceptance is not None:
        torch.testing.assert_close(fast.stats.acceptance, slow.stats.acceptance, rtol=1e-3, atol=1e-4)


def to_device(sampler, device):
    moved = {k: v.to(device) for k, v in vars(sampler).items() if isinstance(v, torch.Tensor)}
    inner = vars(sampler).get("sampler")
    if inner is not None:
        moved["sampler"] = to_device(inner, device)
    return replace(sampler, **moved) if moved else sampler


@EVERY
def test_double_precision_no_chains_and_half(name):
    sampler, energy = family((3,))[name]
    run = ef.sample(energy, sampler, start(dtype=torch.float64), num_steps=5, seed=3)
    assert run.final.dtype == torch.float64
    torch.testing.assert_close(run.final.float(), run_of(name, num_steps=5).final, rtol=1e-4, atol=1e-4)
    assert ef.sample(energy, sampler, torch.empty(0, 3), num_steps=3, seed=1).samples.shape == (3, 0, 3)
    keeps_half = isinstance(sampler, (ef.Langevin, ef.AnnealedLangevin)) or ("annealing" in name and "hmc" not in name)
    if not keeps_half:
        with pytest.raises(TypeError, match=r"float32 or float64.*not reversible"):
            ef.sample(energy, sampler, start(dtype=torch.bfloat16), num_steps=1)


@pytest.mark.parametrize(
    ("sampler", "first", "each"),
    [
        (ef.RandomWalkMetropolis(0.4), 1, 1), (ef.MetropolisHastings(lambda x, noise: x + noise.normal()), 1, 1),
        (ef.MALA(0.1), 1, 1), (ef.HMC(0.1, 1), 1, 1), (ef.HMC(0.1, 7), 1, 7), (ef.GHMC(0.1, num_leapfrog=3), 1, 3),
        (ef.UnderdampedLangevin(0.1), 1, 1), (ef.Langevin(0.1), 0, 1), (ef.IndependenceMetropolis.gaussian(0.0, 1.2), 1, 1),
        (ef.HMC(0.1, 7, inverse_mass=torch.eye(3) + 0.1), 1, 7), (ef.MALA(0.1, preconditioner=torch.eye(3) + 0.1), 1, 1),
        (ef.ReplicaExchange(ef.HMC(0.1, 4), (1.0, 0.5)), 1, 4), (ef.ReplicaExchange(ef.Langevin(0.1), (1.0, 0.5)), 1, 1),
    ],
)  # fmt: skip
def test_gradients_are_carried(sampler, first, each):
    """L gradients a proposal of HMC, one of MALA, one of a Langevin step, also where energies are recorded and replicas swap."""
    energy = Counting()
    ef.sample(energy, sampler, start(), num_steps=10, seed=0)
    assert energy.calls <= first + 10 * each + (1 if first == 0 else 0)
    assert energy.calls >= 10 * each


@ADAPTIVE
def test_a_warmup_resumes_exactly(name, monkeypatch):
    monkeypatch.setattr(ef.engine.keep, "INTERVAL", 0.0)  # a copy of the state after every step
    sampler = adaptive()[name]
    x0 = start(8)

    def energy(x):
        energy.calls += 1
        if energy.calls == energy.stop:
            signal.raise_signal(signal.SIGINT)
        return bowl(x)

    energy.calls, energy.stop = 0, -1
    options = {"num_steps": 20, "warmup": 200, "seed": 5}
    whole = ef.sample(energy, sampler, x0, **options)
    energy.calls, energy.stop = 0, energy.calls // 2
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(ef.Interrupted) as caught:
            ef.sample(energy, sampler, x0, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    state = caught.value.run.state
    assert 0 < state.age < 200
    for field, value in caught.value.run.stats.adapted.items():  # of the state that is returned, not of the moment
        assert torch.equal(value, state.extra[field].view(-1)[: value.numel()].view(value.shape))  # of replicas the first chain's
    energy.stop = -1
    rest = ef.sample(energy, sampler, resume=state, num_steps=20)
    assert torch.equal(rest.samples, whole.samples)
    with pytest.raises(ValueError, match=rf"resume was interrupted with {200 - state.age} steps"):
        ef.sample(energy, sampler, resume=state, num_steps=20, warmup=7)


@ADAPTIVE
def test_nothing_is_adapted_after_the_warmup(name):
    sampler = adaptive()[name]
    warm = ef.sample(bowl, sampler, start(8), num_steps=0, warmup=150, seed=5)
    later = ef.sample(bowl, sampler, resume=warm.state, num_steps=30)
    assert warm.stats.adapted
    for key, value in warm.stats.adapted.items():
        assert torch.equal(value, later.stats.adapted[key])
    leftovers = {"dual_averaging", "dual_count", "mass_mean", "mass_squares", "mass_count", "chees", "chees_before"}
    assert not leftovers & later.state.extra.keys()


def test_per_chain_adaptation_leaves_chains_alone_in_any_batch():
    sampler = adaptive()["hmc, per chain"]
    options = {"num_steps": 10, "warmup": 60, "seed": 5}
    whole = ef.sample(bowl, sampler, start(8), **options)
    part = ef.sample(bowl, sampler, start(8)[3:5], chain_offset=3, **options)
    torch.testing.assert_close(part.samples, whole.samples[:, 3:5], rtol=1e-4, atol=1e-5)
    assert whole.stats.adapted["step_size"].shape == (8,)
    each = dataclasses.replace(sampler, step_size=torch.linspace(0.1, 0.4, 8))
    whole = ef.sample(bowl, each, start(8), **options)
    one = ef.sample(bowl, dataclasses.replace(each, step_size=each.step_size[3:4]), start(8)[3:4], chain_offset=3, **options)
    torch.testing.assert_close(one.samples, whole.samples[:, 3:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["random walk", "mala", "hmc", "ghmc, diagonal", "underdamped", "replicas of hmc"])
def test_proposals_that_are_not_finite_are_rejected_and_counted(name):
    """An energy with a wall of NaN and one of infinity: chains stay inside; what ran into the wall is counted."""
    sampler, _ = family((1,))[name]

    def walled(x):
        e = 0.05 * x.square().sum(1)
        return torch.where(x[:, 0] > 0.5, torch.nan, torch.where(x[:, 0] < -0.5, torch.inf, e))

    said = pytest.warns(RuntimeWarning, match="were frozen") if name == "underdamped" else contextlib.nullcontext()
    with said:
        run = ef.sample(walled, sampler, torch.zeros(64, 1), num_steps=60, seed=1)
    if run.stats.acceptance is None:
        assert run.stats.diverged.any()  # frozen
        assert torch.isfinite(run.final).all()
        return
    assert (run.samples.abs() <= 0.5).all()
    assert (run.stats.divergences > 0).all()
    assert (run.stats.divergence_step == -1).all()
    with pytest.raises(ValueError, match=r"energy is NaN or infinite at x0 of chains 0, 1"):
        ef.sample(walled, sampler, torch.ones(2, 1), num_steps=1)


def test_per_chain_step_sizes_and_temperatures():
    steps, T = torch.tensor([0.0, 0.1, 0.3]), torch.tensor([1.0, 2.0, 0.5])
    x0, well = start(3), ef.energies.Gaussian(torch.zeros(3), variance=torch.tensor([0.5, 1.0, 2.0]))
    for make, energy in (
        (lambda s, T: ef.RandomWalkMetropolis(s, temperature=T), bowl), (lambda s, T: ef.MALA(s, temperature=T), bowl),
        (lambda s, T: ef.HMC(s, 3, temperature=T), bowl), (lambda s, T: ef.UnderdampedLangevin(s, temperature=T), bowl),
        (lambda s, T: ef.Langevin(s, temperature=T), bowl), (lambda s, T: ef.GHMC(s, 2.0, 2, temperature=T), bowl),
        (lambda s, T: ef.GHMC(s, 2.0, 2, temperature=T), well),  # in native code
        (lambda s, T: ef.AnnealedLangevin((1.0, 0.5), s, 4), blurred),
        (lambda s, T: ef.SimulatedAnnealing(ef.MALA(s), (1.0,) * 8), bowl),
        (lambda s, T: ef.ReplicaExchange(ef.MALA(s), (1.0, 0.5)), bowl),
        (lambda s, T: ef.ReplicaExchange(ef.GHMC(s), (1.0, 0.5)), bowl),
    ):  # fmt: skip
        whole = ef.sample(energy, make(steps, T), x0, num_steps=8, seed=2)
        for i in range(3):
            alone = ef.sample(energy, make(float(steps[i]), float(T[i])), x0[i : i + 1], num_steps=8, seed=2, chain_offset=i)
            torch.testing.assert_close(alone.final, whole.final[i : i + 1], rtol=1e-5, atol=1e-5)


def test_streaming_moments():
    run = ef.sample(bowl, ef.HMC(0.3, 3), start(), num_steps=40, seed=1, moments=True)
    torch.testing.assert_close(run.stats.mean, run.samples.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run.stats.variance, run.samples.var(0), rtol=1e-4, atol=1e-5)
    thin = ef.sample(bowl, ef.HMC(0.3, 3), start(), num_steps=40, seed=1, moments=True, record=False, thin=8)
    assert torch.equal(thin.stats.mean, run.stats.mean)


def test_the_hamiltonian_is_recorded():
    run = ef.sample(bowl, ef.HMC(0.3, 3), start(400), num_steps=30, seed=1)
    kinetic = run.stats.hamiltonian - run.stats.energy
    assert (kinetic > 0).all()
    # kinetic energy of 3 momenta: mean 1.5; the Metropolis choice between the two ends prefers neither on average by much
    assert abs(kinetic.mean() - 1.5) < 0.1


BAD = [
    (lambda: ef.HMC(0.1, 0), ValueError, "num_leapfrog must be an int of at least 1"),
    (lambda: ef.HMC(-0.1), ValueError, "step_size must be finite and at least 0"),
    (lambda: ef.HMC(float("nan")), ValueError, "step_size"),
    (lambda: ef.HMC("0.1"), TypeError, "step_size must be a number"),
    (lambda: ef.HMC(0.1, inverse_mass=2.0), TypeError, "inverse_mass must be a floating-point tensor"),
    (lambda: ef.HMC(0.1, step_jitter=1.0), ValueError, r"step_jitter must be in \[0, 1\)"),
    (lambda: ef.HMC(0.1, adapt=True), TypeError, "adapt must be an ebm_fast.Adaptation"),
    (lambda: ef.HMC((0.1, 0.2), adapt=ef.Adaptation()), ValueError, "step_size cannot be a schedule"),
    (lambda: ef.MALA(0.1, adapt=ef.ChEES()), ValueError, "MALA has none"),
    (lambda: ef.RandomWalkMetropolis(0.1, adapt=ef.ChEES()), ValueError, "RandomWalkMetropolis has none"),
    (lambda: ef.HMC(0.1, leapfrog_jitter=True, adapt=ef.ChEES()), ValueError, "leave leapfrog_jitter out"),
    (lambda: ef.HMC(0.1, temperature=0.0), ValueError, "temperature must be above 0"),
    (lambda: ef.HMC(0.1, temperature=torch.zeros(3)), ValueError, "temperature must be above 0"),
    (lambda: ef.HMC(torch.tensor([0.1, -0.1])), ValueError, "step_size must be at least 0 everywhere"),
    (lambda: ef.HMC(0.1, inverse_mass=torch.tensor([1.0, -1.0])), ValueError, "inverse_mass must be positive"),
    (lambda: ef.MALA(0.1, preconditioner=torch.zeros(2)), ValueError, "preconditioner must be positive"),
    (lambda: ef.RandomWalkMetropolis(0.1, scale=-torch.ones(2)), ValueError, "scale must be positive"),
    (lambda: ef.IndependenceMetropolis.gaussian(0.0, -1.0), ValueError, "std must be positive"),
    (lambda: ef.ReplicaExchange(ef.Langevin(0.1, noise_std=0.1), (1.0, 0.5)), ValueError, "temperature has no effect"),
    (lambda: ef.SimulatedAnnealing(ef.Langevin(0.1, noise_std=0.1), (1.0, 2.0)), ValueError, "temperature has no effect"),
    (lambda: ef.SimulatedAnnealing(ef.AnnealedLangevin((1.0,), 0.1), (1.0, 2.0)), TypeError, "anneals by itself"),
    (lambda: ef.ReplicaExchange(ef.HMC(0.1), 4), TypeError, "betas must be a sequence"),
    (lambda: ef.ReplicaExchange(ef.RandomWalkMetropolis(0.1, temperature=0.0), (1.0, 0.5)), ValueError, "temperature must be"),
    (lambda: ef.HMC(0.1).init(bowl, start(), warmup=-3), ValueError, "warmup must be"),
    (lambda: ef.HMC(0.1).init(bowl, [1.0]), TypeError, "x0 must be a tensor"),
    (lambda: ef.GHMC(0.1, friction=-1.0), ValueError, "friction"),
    (lambda: ef.UnderdampedLangevin(0.1, friction=torch.ones(2)), TypeError, r"friction must be a number, got a tensor"),
    (lambda: ef.AnnealedLangevin((1.0,), (0.1, 0.2)), TypeError, "step_size must be a number or a tensor"),
    (lambda: ef.SimulatedAnnealing(ef.MALA(0.1), 2.0), TypeError, "betas must be a tuple"),
    (lambda: ef.ReplicaExchange(ef.Langevin(0.1, momentum=0.5), (1.0, 0.5)), ValueError, "heavy ball"),
    (lambda: ef.ReplicaExchange(ef.HMC(0.1), (1.0, 0.5)).init(bowl, start(), warmup=-1), ValueError, "warmup must be"),
    (lambda: ef.UnderdampedLangevin(0.1, temperature=-1.0), ValueError, "temperature"),
    (lambda: ef.MetropolisHastings(3), TypeError, "propose must be a function"),
    (lambda: ef.IndependenceMetropolis(None, None), TypeError, "draw must be a function"),
    (lambda: ef.AnnealedLangevin((1.0, 2.0), 0.1), ValueError, "sigmas must fall"),
    (lambda: ef.AnnealedLangevin((), 0.1), ValueError, "sigmas must be positive"),
    (lambda: ef.SimulatedAnnealing(ef.Langevin(0.1), (1.0, 0.0)), ValueError, "betas must be positive"),
    (lambda: ef.ReplicaExchange(ef.HMC(0.1), (0.9, 0.5)), ValueError, "betas must fall from 1"),
    (lambda: ef.ReplicaExchange(ef.HMC(0.1, adapt=ef.ChEES()), (1.0, 0.5)), ValueError, "one step size per temperature"),
    (lambda: ef.ReplicaExchange(ef.HMC, (1.0, 0.5)), TypeError, "must be a sampler"),
    (lambda: ef.Adaptation(target_accept=1.5), ValueError, "target_accept must be between 0 and 1"),
    (lambda: ef.Adaptation(mass="full"), ValueError, "mass must be None"),
]


@pytest.mark.parametrize(("make", "kind", "message"), BAD)
def test_bad_settings(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    ("sampler", "x0", "kind", "message"),
    [
        (ef.HMC(0.1, inverse_mass=torch.ones(4)), torch.zeros(2, 3), ValueError, r"inverse_mass must have the shape \(3,\)"),
        (ef.HMC(0.1, inverse_mass=torch.eye(3) + torch.ones(3, 3).triu(1)), torch.zeros(2, 3), ValueError, "symmetric"),
        (ef.HMC(torch.ones(4)), torch.zeros(2, 3), ValueError, "step_size must be a number or a tensor"),
        (ef.Langevin(0.1, preconditioner=torch.ones(4)), torch.zeros(2, 3), ValueError, "preconditioner must have the shape"),
        (ef.UnderdampedLangevin(0.1, inverse_mass=torch.ones(4)), torch.zeros(2, 3), ValueError, "must have the shape"),
        (ef.IndependenceMetropolis(lambda noise: noise.normal(2), bowl), torch.zeros(2, 3), ValueError, "draw must return"),
        (ef.HMC(0.1, adapt=ef.ChEES()), torch.zeros(1, 3), ValueError, "this run has one"),
        (ef.HMC(torch.ones(2), adapt=ef.Adaptation()), torch.zeros(2, 3), ValueError, "per_chain=True"),
        (ef.MetropolisHastings(lambda x, noise: x[:1]), torch.zeros(2, 3), ValueError, "propose must return x'"),
        (ef.MetropolisHastings(lambda x, noise: (x + 1, x)), torch.zeros(2, 3), ValueError, "one number per chain"),
        (ef.MetropolisHastings(lambda x, noise: x.add_(1)), torch.zeros(2, 3), ValueError, "in place"),
        (ef.MetropolisHastings(lambda x, noise: noise.normal() + noise.normal()), torch.zeros(2, 3), RuntimeError, "once"),
        (ef.AnnealedLangevin((1.0,), 0.1, 4), torch.zeros(2, 3), TypeError, "sigma"),
        (ef.HMC(0.1), torch.zeros(2, 3, dtype=torch.int64), TypeError, "x0 must have dtype"),
        (ef.HMC(0.1), torch.tensor(1.0), ValueError, "without dimensions"),
    ],
)
def test_bad_starts(sampler, x0, kind, message):
    with pytest.raises(kind, match=message):
        ef.sample(bowl, sampler, x0, num_steps=2, warmup=2, seed=0)


@pytest.mark.parametrize("sampler", [ef.GHMC(0.1), ef.UnderdampedLangevin(0.1)], ids=["ghmc", "underdamped"])
def test_first_momenta_are_unrelated_to_exact_draws_of_the_same_seed(sampler):
    x0 = ef.energies.Gaussian(torch.zeros(4), variance=torch.ones(4)).sample(2_000, seed=5).float()
    state = sampler.init(bowl, x0, seed=5)
    transition = sampler.transition(
        ef.engine.EnergyFunction(bowl), state, backend=None, guard=False, track=False, rng=None
    )
    correlation = (transition.state.extra["momentum"] * x0).mean()
    assert abs(float(correlation)) < 5.6 / 8_000**0.5


@pytest.mark.parametrize("name", ["random walk", "hmc", "underdamped", "replicas of hmc", "ghmc"])
def test_a_resumed_chain_meets_another_energy(name):
    """Parameters were trained between two runs: what the chain carries of the old energy is not compared with the new."""
    sampler, _ = family((3,))[name]
    first = ef.sample(bowl, sampler, start(64), num_steps=5, seed=3)
    second = ef.sample(lambda x: bowl(x) + 50.0, sampler, resume=first.state, num_steps=20)
    if second.stats.acceptance is not None:
        assert second.stats.acceptance.mean() > 0.3
    torch.testing.assert_close(second.stats.energy[-1], bowl(second.samples[-1]) + 50.0, rtol=1e-5, atol=1e-4)


def test_an_adaptation_without_a_warmup_is_said():
    with pytest.warns(UserWarning, match="warmup=0: nothing is adapted"):
        ef.sample(bowl, ef.HMC(0.1, adapt=ef.Adaptation()), start(), num_steps=2, seed=1)


def test_counts_of_numpy():
    run = ef.sample(bowl, ef.HMC(0.1), start(), num_steps=np.int64(4), thin=np.int32(2), seed=1)
    assert run.samples.shape[0] == 2
    for bad in (4.0, True, "4", torch.tensor(4)):
        with pytest.raises(TypeError, match="num_steps must be an int"):
            ef.sample(bowl, ef.HMC(0.1), start(), num_steps=bad)


def gaussian(x):
    return 0.5 * x.flatten(1).square().sum(1)


@pytest.mark.parametrize("other", [ef.RandomWalkMetropolis(2.0), ef.Langevin(0.3), ef.MetropolisHastings(shift)],
                         ids=["random walk", "langevin", "metropolis-hastings"])  # fmt: skip
def test_samplers_in_turn_on_one_chain_do_not_trust_each_others_gradients(other):
    """In an own loop and by resume: energy and gradient in the state are those of the state, or not there."""
    hmc = ef.HMC(0.9, 3)
    state = hmc.init(gaussian, start(16), seed=1)
    for _ in range(3):
        for sampler in (hmc, other):
            state, _ = sampler.step(gaussian, state)
            if "energy" in state.extra:
                torch.testing.assert_close(state.extra["energy"], gaussian(state.x), rtol=1e-5, atol=1e-6)
            if "grad" in state.extra:
                torch.testing.assert_close(state.extra["grad"], state.x, rtol=1e-5, atol=1e-6)
            run = ef.sample(gaussian, hmc if sampler is other else other, num_steps=1, resume=state)
            torch.testing.assert_close(run.stats.energy[-1], gaussian(run.final), rtol=1e-5, atol=1e-6)


def test_a_resumed_chain_meets_another_energy_of_the_same_size():
    """At energies of 10^4 a change of one in a million decides."""
    first = ef.sample(lambda x: 1e4 + gaussian(x), ef.MALA(0.5), start(4_000, (1,)), num_steps=1, seed=0).state

    def moved(x):
        return 1e4 + gaussian(x - 2.0)

    resumed = ef.sample(moved, ef.MALA(0.5), resume=first, num_steps=1)
    fresh = ef.sample(moved, ef.MALA(0.5), first.x, num_steps=1, seed=first.seed, step=first.step)
    assert abs(float(resumed.stats.acceptance.mean() - fresh.stats.acceptance.mean())) < 1e-3
    forgotten = first.clone().forget_energy()
    assert not {"energy", "grad"} & forgotten.extra.keys()


def test_what_one_sampler_adapted_is_not_anothers():
    adapting = ef.HMC(0.5, 5, adapt=ef.Adaptation(mass="diagonal"))
    warm = ef.sample(gaussian, adapting, start(64), num_steps=1, warmup=100, seed=1).state
    plain = ef.sample(gaussian, ef.HMC(0.01, 5), resume=warm, num_steps=5)
    assert float(plain.stats.acceptance.min()) > 0.99
    assert not plain.stats.adapted
    mala = ef.sample(gaussian, ef.MALA(0.01, adapt=ef.Adaptation()), resume=warm, num_steps=5)
    assert not mala.stats.adapted
    assert float(mala.stats.acceptance.min()) > 0.98


def test_chees_with_a_temperature_of_each_chain():
    sampler = ef.HMC(0.3, 3, temperature=torch.linspace(1.0, 2.0, 16), adapt=ef.ChEES())
    for event in ((4,), (16,), (2, 3)):
        ef.sample(gaussian, sampler, start(16, event), num_steps=2, warmup=20, seed=1)


def test_energies_that_are_views_and_gradients_that_are_x():
    class Square:
        def __call__(self, x):
            return 0.5 * x.square().sum(1)

        def energy_and_grad(self, x):
            return self(x), x

    for sampler in (ef.RandomWalkMetropolis(0.3), ef.HMC(0.3, 3), ef.ReplicaExchange(ef.HMC(0.3, 3), (1.0, 0.5))):
        run = ef.sample(Square(), sampler, start(), num_steps=4, seed=1)
        torch.testing.assert_close(run.final, ef.sample(gaussian, sampler, start(), num_steps=4, seed=1).final)
        ef.sample(lambda x: x.square()[:, 0], sampler, start(), num_steps=2, seed=1)


def test_replicas_of_a_conditional_energy():
    """Each chain's condition goes to all of its replicas."""
    centre = torch.linspace(-3.0, 3.0, 6)

    def energy(x, y):
        return 0.5 * (x - y[:, None]).square().sum(1)

    sampler = ef.ReplicaExchange(ef.MALA(0.3), (1.0, 0.5, 0.2))
    whole = ef.sample(energy, sampler, start(6), num_steps=8, seed=1, condition={"y": centre})
    alone = ef.sample(lambda x: energy(x, centre[4].expand(len(x))), sampler, start(6)[4:5], num_steps=8, seed=1, chain_offset=4)
    torch.testing.assert_close(whole.final[4:5], alone.final, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="holds 3 replicas a chain, the sampler has 2"):
        ef.sample(gaussian, ef.ReplicaExchange(ef.MALA(0.3), (1.0, 0.5)), resume=whole.state, num_steps=1)


def test_statistics_of_an_interrupted_run_are_of_its_whole_steps(monkeypatch):
    monkeypatch.setattr(ef.engine.keep, "INTERVAL", 0.0)  # a copy of the state after every step

    def energy(x):
        energy.calls += 1
        if energy.calls == 60:
            signal.raise_signal(signal.SIGINT)
        return gaussian(x)

    energy.calls = 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(ef.Interrupted) as caught:
            ef.sample(energy, ef.HMC(0.9, 3), start(), num_steps=1_000, thin=8, seed=1, moments=True)
    finally:
        signal.signal(signal.SIGINT, before)
    partial = caught.value.run
    whole = ef.sample(gaussian, ef.HMC(0.9, 3), start(), num_steps=partial.num_steps, thin=8, seed=1, moments=True)
    assert 0 < partial.num_steps < 20
    for name in ("acceptance", "mean", "variance", "divergences"):
        torch.testing.assert_close(getattr(partial.stats, name), getattr(whole.stats, name))
