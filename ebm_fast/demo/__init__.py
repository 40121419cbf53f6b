"""The main job: train an energy-based model on real images, sample, judge, time and report."""

from __future__ import annotations

from .run import run

__all__ = ["run"]
