"""NumPyro: vectorised HMC with a fixed number of leapfrog steps, after its own adaptation.

Two habits of NumPyro are mended, or compilation and adaptation would be timed: `MCMC.run` compiles its loop anew at every call,
so the kernel is scanned in a loop compiled once; and vectorised chains compute the adaptation's update even when it is over, so
the kernel that draws is built anew, with adaptation off.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from numpyro.infer import HMC, MCMC

from .prepared import Prepared
from .targets import Target


def hmc(target: Target, num_chains: int, *, warmup: int, num_leapfrog: int, seed: int = 0) -> Prepared:
    """HMC of `num_leapfrog` steps; every chain adapts for itself, all draw with their median step size and mean variances."""
    options = {"potential_fn": target.energy(), "num_steps": num_leapfrog, "trajectory_length": None}
    chains = MCMC(
        HMC(**options), num_warmup=warmup, num_samples=1, num_chains=num_chains, chain_method="vectorized", progress_bar=False
    )
    chains.warmup(jax.random.key(seed), init_params=jnp.asarray(target.start(num_chains, seed)))
    warm = chains.post_warmup_state
    step_size = float(jnp.median(warm.adapt_state.step_size))
    kernel = HMC(
        **options, step_size=step_size, inverse_mass_matrix=warm.adapt_state.inverse_mass_matrix.mean(0),
        adapt_step_size=False, adapt_mass_matrix=False,
    )  # fmt: skip
    start = kernel.init(jax.random.split(jax.random.key(seed + 1), num_chains), 0, warm.z)

    @partial(jax.jit, static_argnums=1)
    def scan(state, num_draws):
        def one(state, _):
            state = kernel.sample(state, (), {})
            return state, (state.z, state.accept_prob.mean())

        return jax.lax.scan(one, state, length=num_draws)[1]

    return Prepared(lambda num_draws: jax.block_until_ready(scan(start, num_draws)), step_size, num_leapfrog)
