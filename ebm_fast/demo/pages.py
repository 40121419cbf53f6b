"""Pictures, tables and the report page of a finished demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ebm_fast.evaluation import SampleQuality
from ebm_fast.plotting import chains_over_time, grids_side_by_side, training_curves

from .recipe import Recipe
from .report import Report, text_table
from .speed import Speed

_SHOWN = 100


def write_pages(
    out: Path,
    recipe: Recipe,
    metrics: dict[str, Any],
    quality: SampleQuality,
    speed: Speed,
    log: list[dict[str, float]],
    samples: torch.Tensor,  # (n, C, H, W)
    train: torch.Tensor,  # (m, C, H, W)
    frames: torch.Tensor,  # (T, chains, C, H, W)
    steps: list[int],
) -> str:
    """Write the three pictures, report.md and report.html into ``out``; returns the tables for a terminal."""
    titles = ("samples, from noise", "real images")
    grids_side_by_side(samples[:_SHOWN], train[:_SHOWN], titles).savefig(out / "samples.png")
    chains_over_time(frames, steps).savefig(out / "chains.png")
    training_curves(log).savefig(out / "curves.png")

    quality_table, speed_table = _quality_table(quality), _speed_table(speed)
    verdict = _speed_verdict(speed)
    machine, seconds = metrics["machine"], metrics["seconds"]
    resumed_at = metrics["resumed_at"]
    part = f"The part after iteration {resumed_at:,}, where it was resumed," if resumed_at else "Training"
    report = Report(f"An energy-based model of {recipe.title}")
    report.paragraph(
        "A convolutional network E(x) was trained by maximum likelihood, p(x) ∝ exp(−E(x)), with persistent "
        f"chains of Langevin sampling: {metrics['iterations']:,} iterations, each with {recipe.config.optimizer.batch_size} "
        f"chains that take {recipe.config.chains.num_steps} steps (seed {metrics['seed']}). {part} took "
        f"{seconds['training']:.0f} seconds on {machine['threads']} threads of {machine['cpu']}."
    )
    report.heading("Samples")
    report.picture(
        out / "samples.png",
        f"Left: the first {min(_SHOWN, len(samples))} samples, none left out; each chain began at uniform "
        f"noise and took {steps[-1]:,} steps. Right: real images.",
    )
    report.picture(
        out / "chains.png",
        f"The first {frames.shape[1]} chains on their way from noise. Over the last {steps[-1] - steps[-2]} "
        "steps the noise falls to nothing.",
    )
    report.heading("Quality")
    report.table(*quality_table)
    report.table(*_class_table(quality))
    report.paragraph(
        "The judge is a small convolutional network trained on the real training images, with an accuracy of "
        f"{metrics['quality']['classifier_accuracy']:.1%} on the held-out ones. A class is covered when at "
        "least 2 % of the samples lie in it with a probability of 80 % or more. The Fréchet distance is "
        "taken in the features of this classifier, against held-out real images; it is not comparable with "
        "FID in Inception's features. Its floor is what real training images score. The nearest images "
        "are a check for copying (median Euclidean distances): a model that copied training images would "
        "score 0 there, one that knows no more of them than of the held-out ones the same in both rows."
    )
    report.heading("Speed")
    report.table(*speed_table)
    report.paragraph(verdict)
    report.heading("Training")
    report.picture(
        out / "curves.png",
        "Mean energies of data and samples, their gap, and the mean gradient norm along the chains.",
    )
    report.heading("Machine")
    report.table(("what", "value"), [(key.replace("_", " "), str(value)) for key, value in machine.items()])
    report.write(out)
    return "\n\n".join([text_table(*quality_table), text_table(*speed_table), verdict])


def _quality_table(quality: SampleQuality) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    classes = len(quality.class_fractions)
    confidence, real = f"{quality.mean_confidence:.3f}", f"{quality.mean_confidence_real:.3f}"
    return ("quality", "samples", "real images"), [
        ("classes covered", f"{quality.classes_covered} of {classes}", ""),
        ("mean confidence of the classifier", confidence, real),
        ("digit-feature Fréchet distance", f"{quality.frechet:.2f}", f"{quality.frechet_floor:.2f} (floor)"),
        ("distance to nearest training image", f"{quality.nearest_train:.2f}", ""),
        ("distance to nearest held-out image", f"{quality.nearest_held_out:.2f}", ""),
    ]


def _class_table(quality: SampleQuality) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("class", *map(str, range(len(quality.class_fractions))))
    return header, [("share of the samples", *(f"{share:.0%}" for share in quality.class_fractions))]


def _speed_table(speed: Speed) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    def row(name: str, seconds: float, ratio: float | None) -> tuple[str, ...]:
        factor = "" if ratio is None else f"{ratio:.2f}x"
        return name, f"{seconds * 1e6:,.0f}", f"{speed.num_chains / seconds:,.0f}", factor

    header = (f"one step of {speed.num_chains} chains", "µs", "chain-steps/s", "speed-up")
    return header, [
        row("loop in plain PyTorch", speed.plain, 1.0),
        row("ef.langevin_", speed.library, speed.ratio),
        row("  gradient of the network alone", speed.gradient, None),
        row("  noise and update alone, plain PyTorch", speed.plain_update, 1.0),
        row("  noise and update alone, ef.ops.langevin_step_", speed.library_update, speed.update_ratio),
    ]


def _speed_verdict(speed: Speed) -> str:
    share = min(1.0, speed.gradient / speed.library)
    return (
        f"The network's gradient takes {share:.0%} of the time of ef.langevin_, and both loops need it: no "
        "sampler around this network can gain more than the rest. Medians of "
        f"{speed.rounds} interleaved rounds, each ratio taken within a round. From one seed, ef.langevin_ "
        f"and its reference in plain PyTorch agree to {speed.difference:.0e}."
    )
