"""P9: effective samples per second of HMC and ChEES-HMC beside BlackJAX and NumPyro.

All contestants run 256 chains of the same float32 energy from the same starts, adapt themselves by their own means during 1000
proposals, and are then timed while they draw, compilation left out. An effective sample is what the worst coordinate or square of
a coordinate yields.

  hmc        the same number of leapfrog steps for all
  hmc, best  each at the number at which it does best: step sizes differ, and a trajectory of fixed length that comes near a half
             period of the target stands still. Ours with jittered steps, which is what the option is for
  chees      the length found by ChEES; NumPyro has none
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import time
import warnings
from collections.abc import Callable

import harness
import pytest
import torch
from peers.prepared import Draw, Prepared
from peers.targets import TARGETS, Target
from torch import Tensor

import ebm_fast as ef
from ebm_fast import diagnostics, doctor
from ebm_fast.samplers.chees import halton

CHAINS, WARMUP, DRAWS = 256, 1000, 400
KINDS = ("hmc", "hmc, best", "chees")
GOALS = {"cpu": {"each": 3.0, "geometric mean": 5.0}, "cuda": {"each": 10.0}}
EQUAL_WORTH: dict[tuple[str, str], dict[str, list[float]]] = {}  # (kind, target) -> seconds for equally many effective samples


def energy_of(target: Target, device: str) -> torch.nn.Module:
    numbers = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in target.numbers.items()}
    made = {
        "gaussian": lambda: ef.energies.Gaussian(precision=numbers["precision"]),
        "logistic": lambda: ef.energies.LogisticRegression(numbers["x"], numbers["y"], float(numbers["prior_precision"])),
        "eight_schools": lambda: ef.energies.EightSchools(numbers["y"], numbers["sigma"], *numbers["scales"].tolist()),
        "mixture": lambda: ef.energies.GaussianMixture(numbers["means"], 1.0),
    }
    return made[target.name]().float().to(device)


def prepare(target: Target, kind: str, device: str) -> Prepared:
    """Our side, warm."""
    energy, start = energy_of(target, device), torch.from_numpy(target.start(CHAINS)).to(device)
    if kind == "chees":
        sampler = ef.HMC(0.1, num_leapfrog=10, adapt=ef.ChEES(mass="diagonal"))
    else:
        length, jitter = (target.num_leapfrog, 0.0) if kind == "hmc" else (target.best["ebm_fast"], target.jitter)
        sampler = ef.HMC(0.1, num_leapfrog=length, step_jitter=jitter, adapt=ef.Adaptation(mass="diagonal"))
    warm = ef.sample(energy, sampler, start, num_steps=0, warmup=WARMUP, seed=0)
    strategy = ef.sample(energy, sampler, resume=warm.state, num_steps=1).strategy
    assert strategy == "fused", strategy

    def draw(num_draws: int) -> tuple[Tensor, Tensor]:
        run = ef.sample(energy, sampler, resume=warm.state, num_steps=num_draws, record_energy=False)
        if device == "cuda":
            torch.cuda.synchronize()
        return run.samples, run.stats.acceptance

    step_size, mean_length = float(warm.stats.adapted["step_size"]), float(sampler.num_leapfrog)
    if kind == "chees":
        ratio = float(warm.stats.adapted["trajectory_length"]) / step_size
        lengths = [max(1, math.ceil(h * ratio)) for h in halton(warm.state.age, target.timed)]
        mean_length = sum(lengths) / len(lengths)
    return Prepared(draw, step_size, mean_length)


def contestants(target: Target, kind: str, device: str) -> dict[str, Callable[[], Prepared]]:
    made = {"ebm_fast": lambda: prepare(target, kind, device)}
    length = target.best["peers"] if kind == "hmc, best" else target.num_leapfrog

    def peer(side: str) -> Prepared:
        module = importlib.import_module(f"peers.{side}")
        if kind == "chees":
            return module.chees(target, CHAINS, warmup=WARMUP)
        return module.hmc(target, CHAINS, warmup=WARMUP, num_leapfrog=length)

    if importlib.util.find_spec("blackjax") is not None:
        made["blackjax"] = lambda: peer("blackjax_side")
    if kind != "chees" and importlib.util.find_spec("numpyro") is not None:
        made["numpyro"] = lambda: peer("numpyro_side")
    return made


def effective(x: Tensor) -> float:
    """The least bulk ESS among coordinates and their squares. # (draws, chains, dim)"""
    return min(float(diagnostics.ess(x).min()), float(diagnostics.ess(x.square()).min()))


def check(samples: dict[str, Tensor], target: Target) -> None:
    """Means and standard deviations within six errors of the truth where it is known, and of our own elsewhere."""
    truth: dict[str, tuple[Tensor, Tensor | float]] = {}
    for name, x in samples.items():
        for kind, statistic in (("mean", lambda x: x.mean((0, 1))), ("sd", lambda x: x.std((0, 1)))):
            value, error = statistic(x), diagnostics.mcse(x, kind)
            if "covariance" in target.numbers:
                truth[kind] = torch.from_numpy(target.numbers["covariance"]).diagonal().sqrt() * (kind == "sd"), 0.0
            expected, its_error = truth.setdefault(kind, (value, error))
            if expected is not value:
                z = (value - expected).abs() / (error.square() + its_error**2).sqrt()
                assert float(z.max()) < 6.0, (name, kind, z)


def timed(draw: Draw, num_draws: int) -> Callable[[], object]:
    return lambda: draw(num_draws)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_effective_samples(kind, name, device, seconds, record):
    target = TARGETS[name]
    prepared, samples, facts = {}, {}, {}
    absent = {}
    for peer, make in contestants(target, kind, device).items():
        start = time.perf_counter()
        try:
            prepared[peer] = make()
        except (AttributeError, ImportError, TypeError) as error:  # made for another version of JAX than the one that is here
            if peer == "ebm_fast":
                raise
            absent[peer] = f"{type(error).__name__}: {error}"[:300]
            warnings.warn(f"{peer} takes no part: {absent[peer]}", stacklevel=1)
            continue
        warmup = time.perf_counter() - start
        x, acceptance = prepared[peer].samples(DRAWS)
        samples[peer] = torch.from_numpy(x).double()
        facts[peer] = {
            "ess_per_proposal": effective(samples[peer]) / (CHAINS * DRAWS),
            "r_hat": float(diagnostics.rhat(samples[peer]).max()),
            "acceptance": acceptance,
            "step_size": prepared[peer].step_size,
            "num_leapfrog": prepared[peer].num_leapfrog,
            "warmup_seconds": warmup,  # compilation included, where there is any
        }
        assert facts[peer]["r_hat"] < 1.1, (peer, facts[peer])
    check(samples, target)
    calls = {peer: timed(contestant.draw, target.timed) for peer, contestant in prepared.items()}
    # On a GPU too by the host's clock: every call ends with its work done, and JAX knows nothing of torch's events.
    result = harness.race(calls, seconds=seconds, device="cpu")
    for peer, fact in facts.items():
        per_proposal = result.median(peer) / target.timed
        fact["us_per_proposal"], fact["us_per_leapfrog"] = per_proposal * 1e6, per_proposal / fact["num_leapfrog"] * 1e6
        fact["ess_per_second"] = fact["ess_per_proposal"] * CHAINS / per_proposal
    # Seconds for as many effective samples as one call of ours draws.
    ours = facts["ebm_fast"]["ess_per_proposal"]
    times = {peer: [t * ours / fact["ess_per_proposal"] for t in result.times[peer]] for peer, fact in facts.items()}
    EQUAL_WORTH[kind, name] = times
    record(
        "ess", f"P9 {kind}, {name} d={target.dim}, {CHAINS} chains", harness.Result(times), calls,
        effective_samples=ours * CHAINS * target.timed, contestants=facts, targets=GOALS[device],
        absent=absent, peers={name: doctor.version(name) for name in ("blackjax", "numpyro")},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_geometric_mean_over_targets(kind, device, record):
    cases = [EQUAL_WORTH[kind, name] for name in TARGETS if (kind, name) in EQUAL_WORTH]
    if len(cases) < len(TARGETS):
        pytest.skip("not all targets were timed in this session")
    rounds = min(len(times) for case in cases for times in case.values())
    everywhere = [peer for peer in cases[0] if all(peer in case for case in cases)]
    mean = {peer: [math.prod(case[peer][k] for case in cases) ** (1 / len(cases)) for k in range(rounds)] for peer in everywhere}
    record(
        "ess", f"P9 {kind}, geometric mean of {len(cases)} targets", harness.Result(mean), {"ebm_fast": lambda: None},
        targets=GOALS[device],
    )  # fmt: skip
