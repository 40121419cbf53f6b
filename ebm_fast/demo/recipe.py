"""What the demo trains: the settings of `ebm-fast train` for each data set, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass

from ebm_fast.recipes import Config


@dataclass(frozen=True)
class Recipe:
    """Maximum likelihood with persistent chains of Langevin at temperature 1, on data with a little noise."""

    title: str
    iterations_per_minute: int
    """Measured once on two CPU cores; iterations, not minutes, are what a run is made of."""
    config: Config
    """`sampling.num_steps` is 200: much longer chains drift towards the likeliest class."""


RECIPES = {
    "digits": Recipe("8x8 digits", 1300, Config(data="digits").resolved()),
    "mnist": Recipe("MNIST", 500, Config(data="mnist").resolved()),
    "fashion_mnist": Recipe("Fashion-MNIST", 500, Config(data="fashion_mnist").resolved()),
}
