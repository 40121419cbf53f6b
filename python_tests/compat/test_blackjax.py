"""BlackJAX's face: its own proposals from equal momenta, the chains of `ef.sample`, keys, adaptation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ebm_fast as ef
from ebm_fast.compat import blackjax as face

PRECISION = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, 0.3], [0.0, 0.3, 0.5]])
INVERSE = {"diagonal": torch.tensor([0.5, 1.0, 2.0]), "dense": torch.linalg.inv(PRECISION)}


def logdensity(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * ((x @ PRECISION) * x).sum(1)


@pytest.mark.parametrize("mass", INVERSE)
def test_a_loop_is_the_chain_of_sample(mass):
    kernel = face.hmc(logdensity, 0.9, INVERSE[mass], 4)
    x0 = torch.linspace(-1, 1, 30).view(10, 3)
    state, moved = kernel.init(x0), []
    for key in face.steps(7, 20):
        before = state
        state, info = kernel.step(key, state)
        assert torch.equal(info.is_accepted, (state.position != before.position).any(1))
        moved.append(info.acceptance_rate)
    run = ef.sample(lambda x: -logdensity(x), kernel.sampler, x0, num_steps=20, seed=7)
    assert torch.equal(state.position, run.final)
    torch.testing.assert_close(torch.stack(moved).mean(0), run.stats.acceptance.float())
    assert 0.1 < torch.stack(moved).mean() < 0.99
    torch.testing.assert_close(state.logdensity, logdensity(state.position))
    torch.testing.assert_close(state.logdensity_grad, -state.position @ PRECISION)
    again, _ = kernel.step(face.Key(7, 19), before)  # pure: the same key and state give the same step
    assert torch.equal(again.position, state.position) and info.num_integration_steps == 4


@pytest.mark.parametrize("mass", INVERSE)
def test_a_proposal_is_blackjax_s_from_the_same_momentum(mass):
    """Position, log density, gradient and acceptance of one step; a mass taken for its inverse would be off by half."""
    jax, integrators = pytest.importorskip("jax"), pytest.importorskip("blackjax.mcmc.integrators")
    metrics = pytest.importorskip("blackjax.mcmc.metrics")
    kernel = face.hmc(logdensity, 0.2, INVERSE[mass], 3)
    first = kernel.init(torch.linspace(-1, 1, 12).view(4, 3))
    state, info = kernel.step(5, first)
    assert info.is_accepted.all() and not info.is_divergent.any()
    z = ef.ops.normal_(torch.empty(4, 3), seed=5, purpose="momentum")
    # p = M^1/2 z in the form that the mass has here: M^-1 = L L', p = L'^-1 z
    root = INVERSE[mass].sqrt().diag() if mass == "diagonal" else torch.linalg.cholesky(INVERSE[mass])
    momentum = torch.linalg.solve_triangular(root.T, z.T, upper=True).T
    precision = PRECISION.numpy()

    def theirs(x):
        return -0.5 * x @ precision @ x

    energy = metrics.default_metric(jax.numpy.asarray(INVERSE[mass].numpy())).kinetic_energy

    @jax.jit
    @jax.vmap
    def proposal(x, p):
        start = integrators.IntegratorState(x, p, theirs(x), jax.grad(theirs)(x))
        end = start
        for _ in range(3):
            end = integrators.velocity_verlet(theirs, energy)(end, 0.2)
        hamiltonian = energy(end.momentum) - end.logdensity
        return end, hamiltonian, jax.numpy.minimum(1.0, jax.numpy.exp(energy(p) - start.logdensity - hamiltonian))

    end, hamiltonian, acceptance = proposal(first.position.numpy(), momentum.numpy())
    pairs = [(state.position, end.position), (state.logdensity, end.logdensity), (state.logdensity_grad, end.logdensity_grad)]
    for ours, their in [*pairs, (info.energy, hamiltonian), (info.acceptance_rate, acceptance)]:
        torch.testing.assert_close(ours, torch.from_numpy(np.array(their)), rtol=1e-4, atol=1e-5)


def test_mala_is_the_chain_of_sample():
    kernel, x0 = face.mala(logdensity, 0.2), torch.zeros(6, 3)
    state = kernel.init(x0)
    for key in face.steps(face.Key(3, 5), 10):
        state, info = kernel.step(key, state)
    run = ef.sample(lambda x: -logdensity(x), ef.MALA(0.2), x0, num_steps=10, seed=3, step=5)
    assert torch.equal(state.position, run.final) and info._fields == ("acceptance_rate", "is_accepted")


def test_window_adaptation_gives_arguments_of_hmc():
    """Inverse mass within 15 % of the variances (of order 1 to 3), and the acceptance asked for: 0.8 within 0.1."""
    warmup = face.window_adaptation(face.hmc, logdensity, num_integration_steps=5)
    warm, sample = face.split(1)
    (state, parameters), _ = warmup.run(warm, torch.zeros(64, 3), num_steps=300)
    variances = torch.linalg.inv(PRECISION).diagonal()
    torch.testing.assert_close(parameters["inverse_mass_matrix"], variances, rtol=0.15, atol=0)
    kernel, rates = face.hmc(logdensity, **parameters), []
    for key in face.split(sample, 50):
        state, info = kernel.step(key, state)
        rates.append(info.acceptance_rate.mean())
    assert abs(torch.stack(rates).mean() - 0.8) < 0.1


def test_keys_are_unrelated_and_functions_of_their_parent():
    keys = [k for parent in (0, 1, face.Key(0, 1)) for k in face.split(parent, 50)]
    assert len({k.seed for k in keys}) == 150 and all(k.step == 0 for k in keys)
    assert face.split(0, 3) == face.split(0, 50)[:3]
    # 64 bits, each set about half of the time: 150 keys, five standard deviations are 0.2
    bits = torch.tensor([[k.seed >> i & 1 for i in range(64)] for k in keys]).float().mean(0)
    assert (bits - 0.5).abs().max() < 0.21
    # Pinned: a program must draw the same keys on another machine or version.
    assert face.split(0)[0].seed == 5414091152341271681
    assert list(face.steps(9, 2)) == [face.Key(9, 0), face.Key(9, 1)]


def test_shapes_and_errors():
    kernel = face.hmc(lambda x: -x.square().flatten(1).sum(1), 0.1, torch.ones(6), 2)  # (d,) for events of any shape
    state, _ = kernel.step(0, kernel.init(torch.ones(5, 2, 3)))
    assert state.position.shape == (5, 2, 3)
    with pytest.raises(TypeError, match="key must be an int or a Key"):
        kernel.step(1.5, state)
    with pytest.raises(ValueError, match="seed"):
        kernel.step(1 << 64, state)
    with pytest.raises(TypeError, match="position must be a tensor"):
        kernel.init([0.0])
    with pytest.raises(ValueError, match="num_integration_steps must be at least 1"):
        face.hmc(logdensity, 0.1, torch.ones(3), 0)
    with pytest.raises(TypeError, match="algorithm: expected"):
        face.window_adaptation(face.mala, logdensity)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        face.window_adaptation(face.hmc, logdensity).run(0, torch.ones(3, 2), num_steps=0)
    with pytest.raises(ValueError, match="one number per chain"):
        face.mala(lambda x: x.sum(), 0.1).init(torch.ones(3, 2))
