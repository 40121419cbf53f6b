"""Every analytic energy in one picture: densities with exact draws where there are any, chains of HMC elsewhere.

    python examples/energies.py [FILE]        (docs/images/energies.png by default)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import ebm_fast as ef
from ebm_fast import energies as en

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = "#d1495b"
Window = tuple[tuple[float, float], tuple[float, float]]


def plane(axes: Axes, energy: en.AnalyticEnergy, window: Window, draws: Tensor | None, *, square_root: bool = False) -> None:
    """exp(-E) of two dimensions in blue, its square root where peaks would hide the rest, and draws (n, 2) on top."""
    (left, right), (low, high) = window
    x, y = torch.linspace(left, right, 300), torch.linspace(low, high, 300)
    e = energy(torch.cartesian_prod(x, y)).reshape(300, 300).T
    density = (e.min() - e).exp()
    shown = (density.sqrt() if square_root else density).numpy()
    axes.imshow(shown, origin="lower", extent=(left, right, low, high), cmap="Blues", aspect="auto")
    if draws is not None:
        axes.scatter(draws[:, 0], draws[:, 1], s=2.0, color=DOTS, alpha=0.5, linewidths=0)
    axes.set(xlim=(left, right), ylim=(low, high))


def line(axes: Axes, energy: en.AnalyticEnergy, low: float, high: float, draws: Tensor) -> None:
    """exp(-E) / Z of one dimension with a histogram of draws (n, 1)."""
    x = torch.linspace(low, high, 400)
    axes.hist(draws[:, 0].numpy(), bins=60, range=(low, high), density=True, color=DOTS, alpha=0.45)
    axes.plot(x, (-energy(x) - energy.log_z).exp(), color="#1f4e79", linewidth=1.8)
    axes.set(xlim=(low, high))
    axes.set_yticks([])


def hmc(energy: en.AnalyticEnergy, start: Tensor, step_size: float, num_steps: int, thin: int) -> Tensor:
    """States (kept, n, *event) of HMC."""
    sampler = ef.HMC(step_size=step_size, num_leapfrog=20)
    return ef.sample(energy, sampler, start, num_steps=num_steps, warmup=num_steps, thin=thin, seed=0, progress=False).samples


def picture(count: int = 2000) -> Figure:
    """The figure, with `count` draws in each panel."""
    from matplotlib.figure import Figure

    torch.manual_seed(0)
    figure = Figure(figsize=(12.0, 9.2), dpi=90, layout="constrained")
    panels = dict(
        zip(
            ("gaussian", "mixture", "gamma", "double_well", "rosenbrock", "funnel", "ring", "phi_four", "linear", "logistic",
             "schools", "tempered"),
            figure.subplots(3, 4).flat, strict=True,
        )
    )  # fmt: skip

    gaussian = en.Gaussian([0.0, 0.0], covariance=[[1.0, 0.8], [0.8, 1.0]])
    plane(panels["gaussian"], gaussian, ((-3.5, 3.5), (-3.5, 3.5)), gaussian.sample(count, seed=0))
    panels["gaussian"].set_title("Gaussian")

    angles = torch.arange(8) * torch.pi / 4
    mixture = en.GaussianMixture(3.0 * torch.stack((angles.cos(), angles.sin()), 1), 0.4, range(1, 9))
    plane(panels["mixture"], mixture, ((-4.5, 4.5), (-4.5, 4.5)), mixture.sample(count, seed=0))
    panels["mixture"].set_title("GaussianMixture")

    gamma = en.Gamma(2.0)
    line(panels["gamma"], gamma, -0.5, 9.0, gamma.sample(10 * count, seed=0))
    panels["gamma"].set_title("Gamma")

    wells = en.DoubleWell(2.0, 1.0)
    line(panels["double_well"], wells, -1.8, 1.8, wells.sample(10 * count, seed=0))
    panels["double_well"].set_title("DoubleWell")

    banana = en.Rosenbrock(2, 1.0, 10.0)
    plane(panels["rosenbrock"], banana, ((-2.0, 4.0), (-1.0, 9.0)), banana.sample(count, seed=0), square_root=True)
    panels["rosenbrock"].set_title("Rosenbrock (colour: square root)")

    funnel = en.Funnel(2, 3.0)
    plane(panels["funnel"], funnel, ((-9.0, 9.0), (-30.0, 30.0)), funnel.sample(count, seed=0), square_root=True)
    panels["funnel"].set_title("Funnel (colour: square root)")

    ring = en.Ring(2, 2.0, 0.2)
    plane(panels["ring"], ring, ((-3.0, 3.0), (-3.0, 3.0)), ring.sample(count, seed=0))
    panels["ring"].set_title("Ring")

    lattice = en.PhiFour((64, 64), -2.0, 0.5)
    field = hmc(lattice, torch.randn(1, 64, 64), 0.1, 100, 100)[-1, 0]
    panels["phi_four"].imshow(field.numpy(), cmap="RdBu", vmin=-1.8, vmax=1.8)
    panels["phi_four"].set_title("PhiFour, one state of HMC")
    panels["phi_four"].axis("off")

    slope = torch.linspace(-1.0, 1.0, 20)
    design = torch.stack((torch.ones(20), slope), 1)
    linear = en.LinearRegression(design, 0.5 + 1.5 * slope + 0.5 * torch.randn(20), 0.5, 0.1)
    plane(panels["linear"], linear, ((0.0, 1.1), (0.7, 2.3)), linear.sample(count, seed=0))
    panels["linear"].set_title("LinearRegression")

    logistic = en.LogisticRegression(design, (torch.rand(20) < torch.sigmoid(4.0 * slope)).float(), 0.1)
    states = hmc(logistic, torch.zeros(50, 2), 0.15, max(count // 50, 2) * 2, 2)
    plane(panels["logistic"], logistic, ((-3.0, 3.0), (-1.0, 9.0)), states.reshape(-1, 2))
    panels["logistic"].set_title("LogisticRegression, HMC")

    schools = hmc(en.EightSchools(), torch.zeros(50, 10), 0.2, max(count // 50, 2) * 2, 2).reshape(-1, 10)
    panels["schools"].scatter(schools[:, 0], schools[:, 1], s=2.0, color=DOTS, alpha=0.5, linewidths=0)
    panels["schools"].set(title="EightSchools, HMC", xlabel="mu", ylabel="log tau")

    cooler = en.tempered(en.mixture_of([gaussian, ring], normalised=True), 0.5)
    plane(panels["tempered"], cooler, ((-3.5, 3.5), (-3.5, 3.5)), None)
    panels["tempered"].set_title("a tempered mixture")
    return figure


def main(arguments: Sequence[str]) -> None:
    target = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "docs" / "images" / "energies.png"
    picture().savefig(target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
