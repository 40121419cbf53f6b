"""The page of a comparison: KL of all, and for each toy a table, a picture, and why objectives fall short where they do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ebm_fast.demo.report import Report, text_table

from .measure import HALF_WIDTH, Truth
from .methods import METHODS
from .train import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOOD = 0.1
"""KL in nats up to which a density counts as learned."""
COLUMNS = 7
SHOWN = 4.5
"""Half the width of the window that is drawn."""


def picture_points(cells: int) -> Tensor:  # (cells^2, 2), the first coordinate the row
    """Centres of the cells of a picture."""
    centres = (torch.arange(cells) + 0.5) * (2.0 * SHOWN / cells) - SHOWN
    return torch.cartesian_prod(centres, centres)


def write_pages(
    out: Path, content: Mapping[str, Any], truths: Mapping[str, Truth], results: Mapping[str, Sequence[Result]]
) -> str:
    """Pictures, report.md and report.html into ``out``; returns the tables for a terminal."""
    setting, machine = content["setting"], content["machine"]
    report = Report("Training objectives on densities that are known")
    report.paragraph(
        f"E(x) = f(x) + |x|²/(2·{setting['prior_std']:g}²) with the same network f everywhere, an MLP of widths "
        f"2-{'-'.join(map(str, setting['widths']))}-1, was trained by each objective for {content['seconds']:g} CPU seconds of "
        f"{machine['cpu']}, from the building of the objective (a flow, a buffer) to the last update: "
        f"{setting['num_data']:,} points, batches of {setting['batch_size']}, "
        "Adam with one learning rate that follows the time spent, the averaged network judged "
        f"(seed {content['seed']}). Importing packages, measuring and drawing are not counted. "
        "KL is that of the truth p from the model q = exp(−E)/Z in nats, by quadrature on a grid over "
        f"[−{HALF_WIDTH:g}, {HALF_WIDTH:g}]² with Z on the same grid; the error is the difference that cells of three times the "
        "width make. Every point belongs to the toy's likeliest component, and the chain rule splits KL exactly: between the "
        "components' shares (weights), and within the components (shape)."
    )
    if content["quick"]:
        report.paragraph("A quick run, to see that everything works: its numbers mean nothing.")
    if content["left_out"]:
        report.paragraph(content["left_out"])
    others = "; ".join(f"{name} ({what})" for name, what in content["not_applicable"].items())
    slower = "; ".join(f"{m.title} at {m.rate:g} of it" for m in METHODS.values() if m.rate != 1.0)
    report.paragraph(f"The learning rate is the same but for games in which the energy must be the slower player: {slower}.")
    report.paragraph(f"Not compared, because they do not train an energy of the plane: {others}.")
    tables = []
    if len(results) > 1:
        report.heading("KL on every toy")
        table = _overview(results)
        report.table(*table)
        tables.append(text_table(*table))
    for name, rows in results.items():
        report.heading(name)
        table = _table(rows)
        report.table(*table)
        tables.append(f"{name}\n{text_table(*table)}")
        file = out / f"{name}.png"
        _picture(truths[name], rows).savefig(file)
        samples = next((len(row.samples) for row in rows if row.samples is not None), 0)
        report.picture(
            file,
            f"The true density and {samples} points of it; then, for each objective, the learned density above {samples} ends of "
            "Langevin chains that began at a wide Gaussian and ran on the learned energy: where components lie apart, how many "
            "end in each tells where they began, and the density above what the model believes. One scale of colours.",
        )
        for reason in why(rows, truths[name].toy.num_components):
            report.paragraph(reason)
    report.heading("Machine")
    report.table(("what", "value"), [(key.replace("_", " "), str(value)) for key, value in machine.items()])
    report.write(out)
    return "\n\n".join(tables)


def why(rows: Sequence[Result], num_components: int) -> list[str]:
    """For each cause of a KL above `GOOD` a paragraph: what was measured of the objectives it holds for, and what explains it."""
    causes: dict[str, list[str]] = {}
    for row in rows:
        method, d = METHODS[row.method], row.distance
        if d is None:
            causes.setdefault(row.failure, []).append(f"{method.title} ended after {row.iterations:,} iterations")
        elif d.kl >= GOOD:
            told = f"{method.title} {d.kl:.2f} nats ({d.kl_weights:.2f} the weights of the components"
            weights = d.kl_weights > d.kl_shape
            if weights:
                told += f", {min(d.shares):.2f} to {max(d.shares):.2f} where {1.0 / num_components:.2f} is right"
            causes.setdefault(method.limit_weights if weights else method.limit_shape, []).append(
                f"{told}, {d.kl_shape:.2f} the shape within them)"
            )
    return [f"{'; '.join(told)}: {cause}." for cause, told in causes.items()]


def _overview(results: Mapping[str, Sequence[Result]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """KL of every objective on every toy."""
    found = {(row.method, toy): row.distance for toy, rows in results.items() for row in rows}
    names = dict.fromkeys(row.method for rows in results.values() for row in rows)
    cells = {key: "—" if distance is None else f"{distance.kl:.3f}" for key, distance in found.items()}
    return ("objective", *results), [(METHODS[name].title, *(cells[name, toy] for toy in results)) for name in names]


def _table(rows: Sequence[Result]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("objective", "KL", "weights", "shape", "grid error", "iterations", "seconds")
    return header, [
        (
            METHODS[row.method].title,
            *(
                ("—", "—", "—", "—")
                if row.distance is None
                else (
                    f"{row.distance.kl:.3f}",
                    f"{row.distance.kl_weights:.3f}",
                    f"{row.distance.kl_shape:.3f}",
                    f"{row.distance.grid_error:.0e}",
                )
            ),
            f"{row.iterations:,}",
            f"{row.seconds:.2f}",
        )
        for row in rows
    ]


def _picture(truth: Truth, rows: Sequence[Result]) -> Figure:
    """Panels in pairs, density above samples, `COLUMNS` to a row; the truth first."""
    from matplotlib.figure import Figure

    drawn = [row for row in rows if row.density is not None and row.samples is not None]
    side = 160 if not drawn or drawn[0].density is None else len(drawn[0].density)
    points = picture_points(side)
    count = next((len(row.samples) for row in drawn if row.samples is not None), 1000)
    panels: list[tuple[str, Tensor, Tensor]] = [
        ("the truth", truth.toy.log_prob(points).exp().view(side, side).double(), truth.toy.sample(count, seed=1))
    ]
    for row in drawn:
        assert row.density is not None and row.samples is not None and row.distance is not None
        panels.append((f"{METHODS[row.method].short}\nKL {row.distance.kl:.3f}", row.density, row.samples))
    top = panels[0][1].max().item()
    columns = min(COLUMNS, len(panels))
    blocks = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.4 * columns, 3.05 * blocks), dpi=100, layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for number, (title, density, samples) in enumerate(panels):
        block, column = divmod(number, columns)
        above, below = axes[2 * block][column], axes[2 * block + 1][column]
        sides = (-SHOWN, SHOWN)
        above.imshow(density.T.numpy(), origin="lower", extent=(*sides, *sides), cmap="Blues", vmin=0.0, vmax=top)
        above.set_title(title, fontsize=7)
        below.scatter(*samples.T.numpy(), s=0.6, color="#d1495b", linewidths=0)
        below.set(xlim=sides, ylim=sides, aspect="equal")
    for panel in axes.flat:
        _bare(panel, used=panel.has_data())
    return figure


def _bare(panel: Axes, used: bool) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    if not used:
        panel.set_axis_off()
