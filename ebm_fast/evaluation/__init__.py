"""Judging samples: a small classifier trained on the spot and a Fréchet distance in its features."""

from __future__ import annotations

from .classifier import DigitClassifier, train_classifier
from .frechet import frechet_distance, gaussian_frechet
from .judge import SampleQuality, judge_samples

__all__ = [
    "DigitClassifier",
    "SampleQuality",
    "frechet_distance",
    "gaussian_frechet",
    "judge_samples",
    "train_classifier",
]
