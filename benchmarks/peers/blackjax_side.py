"""BlackJAX: window-adapted HMC and ChEES-HMC on all chains at once, the whole loop in one compiled scan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .prepared import Prepared
from .targets import Target

MOST_DRAWS = 1024  # what the Halton sequence of trajectory lengths is laid out for


def _log_density(target: Target) -> Callable:
    energy = target.energy()
    return lambda x: -energy(x)


def hmc(target: Target, num_chains: int, *, warmup: int, num_leapfrog: int, seed: int = 0) -> Prepared:
    """HMC of `num_leapfrog` steps; each chain ran Stan's window adaptation, all share their median step size and mean variances.

    Chains that keep the step size each found for itself mix no better, and a few of them far worse.
    """
    log_density = _log_density(target)
    adaptation = blackjax.window_adaptation(blackjax.hmc, log_density, num_integration_steps=num_leapfrog)
    keys = jax.random.split(jax.random.key(seed), num_chains)

    @jax.jit
    def adapt(keys, x):
        def one(key, x):
            (state, parameters), _ = adaptation.run(key, x, warmup)
            return state, parameters["step_size"], parameters["inverse_mass_matrix"]

        return jax.vmap(one)(keys, x)

    states, step_sizes, variances = adapt(keys, jnp.asarray(target.start(num_chains, seed)))
    variances = getattr(variances, "inverse_mass_matrix", variances)
    step_size, variance = jnp.median(step_sizes), variances.mean(0)
    kernel = blackjax.hmc.build_kernel()

    def step(key, state):
        return kernel(key, state, log_density, step_size, variance, num_leapfrog)

    return _prepared(step, states, 0, num_chains, float(step_size), num_leapfrog, seed)


def chees(target: Target, num_chains: int, *, warmup: int, seed: int = 0) -> Prepared:
    """ChEES-HMC with its diagonal mass matrix estimated across chains.

    All chains take the same number of leapfrog steps, so that number travels outside the map over chains: a loop whose length
    differed between chains would select between old and new state at each of its steps.
    """
    log_density = _log_density(target)
    adaptation = blackjax.chees_adaptation(log_density, num_chains, mass_matrix_estimation="diagonal")
    x = jnp.asarray(target.start(num_chains, seed))

    def run(key, x):
        (states, parameters), _ = adaptation.run(key, x, 0.1, optax.adam(0.025), warmup, max_sampling_steps=MOST_DRAWS)
        numbers = {k: parameters[k] for k in ("step_size", "inverse_mass_matrix", "integration_steps_params")}
        return states, numbers

    states, numbers = jax.jit(run)(jax.random.key(seed), x)
    bits = int(np.ceil(np.log2(warmup + MOST_DRAWS)))
    halton = blackjax.mcmc.dynamic_hmc.halton_sequence
    length = numbers["integration_steps_params"][0]

    def count(i):
        return jnp.ceil(halton(i, bits) * length).astype(int)

    kernel = blackjax.mcmc.dynamic_hmc.build_kernel(next_random_arg_fn=lambda i: i + 1, integration_steps_fn=count)

    def step(key, state):
        return kernel(key, state, log_density, numbers["step_size"], numbers["inverse_mass_matrix"])

    first = states.random_generator_arg[0]
    mean_length = float(jnp.mean(jax.vmap(count)(first + jnp.arange(MOST_DRAWS))))
    axes = states._replace(position=0, logdensity=0, logdensity_grad=0, random_generator_arg=None)
    states = states._replace(random_generator_arg=first)
    return _prepared(step, states, axes, num_chains, float(numbers["step_size"]), mean_length, seed)


def _prepared(step, states, axes, num_chains: int, step_size: float, num_leapfrog: float, seed: int) -> Prepared:
    many = jax.vmap(step, in_axes=(0, axes), out_axes=(axes, 0))

    @partial(jax.jit, static_argnums=2)
    def scan(key, states, num_draws):
        def one(states, key):
            states, info = many(jax.random.split(key, num_chains), states)
            return states, (states.position, info.acceptance_rate.mean())

        return jax.lax.scan(one, states, jax.random.split(key, num_draws))[1]

    key = jax.random.key(seed + 1)
    return Prepared(lambda num_draws: jax.block_until_ready(scan(key, states, num_draws)), step_size, num_leapfrog)
