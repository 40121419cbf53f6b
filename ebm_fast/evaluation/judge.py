"""One verdict on a set of samples, by a classifier trained on real data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .classifier import DigitClassifier
from .frechet import frechet_distance


@dataclass(frozen=True)
class SampleQuality:
    """What `judge_samples` found; its Fréchet distances are not comparable with Inception's FID."""

    classes_covered: int
    class_fractions: tuple[float, ...]
    """Share of the samples in each class, by the largest logit."""
    mean_confidence: float
    """Mean probability of that class."""
    mean_confidence_real: float
    """The same on the held-out real images."""
    frechet: float
    """Digit-feature Fréchet distance between the samples and the held-out real images."""
    frechet_floor: float
    """The same between the real training images and the held-out ones: what a perfect sampler scores."""
    nearest_train: float
    """Median Euclidean distance from a sample to its nearest training image; 0 for copies."""
    nearest_held_out: float
    """The same to its nearest held-out image: what a sampler that copies nothing scores on both."""


@torch.no_grad()
def judge_samples(
    classifier: DigitClassifier,
    samples: torch.Tensor,
    train: torch.Tensor,
    held_out: torch.Tensor,
    *,
    confidence: float = 0.8,
    min_fraction: float = 0.02,
) -> SampleQuality:
    """Classes covered, confidence and Fréchet distance of ``samples``, with the floors that real data set.

    A class counts as covered when at least ``min_fraction`` of all samples lie in it with a probability of
    ``confidence`` or more. Distances use the same number of images of each set, the first ones, as many as the
    smallest set holds, because the estimates depend on it.

    Args:
        classifier: trained on ``train``.
        samples, train, held_out: (n, C, H, W) each, at least 2, scaled to [-1, 1].
        confidence, min_fraction: as above, in (0, 1).

    Raises:
        ValueError: a set has the wrong shape, fewer than 2 images or numbers that are not finite; or a
            threshold is not in (0, 1).
    """
    for name, images in (("samples", samples), ("train", train), ("held_out", held_out)):
        if images.shape[1:] != classifier.event_shape or len(images) < 2:
            expected = ("n >= 2", *classifier.event_shape)
            raise ValueError(f"{name}: expected shape {expected}, got {tuple(images.shape)}")
        if not images.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    for name, value in (("confidence", confidence), ("min_fraction", min_fraction)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")

    top, classes = classifier(samples).softmax(1).max(1)
    num_classes = classifier.head.out_features
    sure = torch.bincount(classes[top >= confidence], minlength=num_classes) / len(samples)
    fractions = torch.bincount(classes, minlength=num_classes) / len(samples)
    n = min(len(samples), len(train), len(held_out))
    features = {
        name: classifier.features(images[:n])
        for name, images in (("samples", samples), ("train", train), ("held_out", held_out))
    }
    return SampleQuality(
        classes_covered=int((sure >= min_fraction).sum()),
        class_fractions=tuple(fractions.tolist()),
        mean_confidence=top.mean().item(),
        mean_confidence_real=classifier(held_out).softmax(1).max(1).values.mean().item(),
        frechet=frechet_distance(features["samples"], features["held_out"]),
        frechet_floor=frechet_distance(features["train"], features["held_out"]),
        nearest_train=_nearest(samples[:n], train[:n]),
        nearest_held_out=_nearest(samples[:n], held_out[:n]),
    )


def _nearest(images: torch.Tensor, real: torch.Tensor) -> float:
    return torch.cdist(images.flatten(1), real.flatten(1)).min(1).values.median().item()
