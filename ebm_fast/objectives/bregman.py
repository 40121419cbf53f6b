"""Bregman ratio matching against a static noise model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ebm_fast.objectives.generators import Generator, as_generator, bregman_loss
from ebm_fast.objectives.nce import NoiseObjective


class BregmanRatioMatching(NoiseObjective):
    """L = E_noise S0(g) - E_data S1(g), g = p_theta / p_n, S0 = -Psi + g Psi', S1 = Psi': the ratio is fitted to p_data / p_n.

    `generator`: "logistic" (noise-contrastive estimation), "kl", "squared", "itakura_saito", "power", or an object of
    `objectives.generators` such as Power(alpha=0.2). With Logistic(nu) and num_noise=nu it is `NCE`. Batches, noise and
    log_z as for `NCE`; num_noise is how many noise samples a datum the first mean runs over, and changes no expectation.
    Every generator has the same minimum, the normalised density; they differ in variance and in what outliers do.
    Source: Sugiyama, Suzuki, Kanamori 2012; Gutmann and Hirayama 2011; thesis (4.8).
    """

    _settings = ("generator",)

    def __init__(
        self,
        energy: Callable[..., Tensor],
        noise: Any,
        *,
        generator: str | Generator = "logistic",
        **options: Any,
    ) -> None:
        super().__init__(energy, noise, **options)
        self.generator = as_generator(generator)

    def _contrast(self, r_data: Tensor, r_noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return bregman_loss(r_data, r_noise, self.generator), {}
