"""Purposes: the low 8 bits of the fourth Philox counter word, so that no two uses of one seed share numbers."""

from __future__ import annotations

PURPOSES = {
    "user": 0,
    "langevin": 1,
    "accept": 2,
    "momentum": 3,
    "init": 4,
    "rejuvenation": 5,
    "projection": 6,
    "gibbs": 7,
    "swap": 8,
    "slots": 9,
    "proposal": 10,
    "data_noise": 11,
    "shuffle": 12,
    "jitter": 13,
    "proposal_uniform": 14,
    "noise_model": 15,
    "noise_choice": 16,
    "initial_momentum": 17,
    "noise_level": 18,
    "generator_latent": 19,
    "generator_noise": 20,
    "encoder_noise": 21,
    "toy_position": 24,
    "toy_noise": 25,
    "rollback": 26,
    "key": 32,
}


def purpose_tag(purpose: str) -> int:
    """Tag of a purpose's name; ValueError with the known names otherwise."""
    try:
        return PURPOSES[purpose]
    except KeyError:
        raise ValueError(f"purpose must be one of {', '.join(PURPOSES)}, got {purpose!r}") from None
