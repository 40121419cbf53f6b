from __future__ import annotations

import pytest
import torch

from ebm_fast.evaluation import DigitClassifier, judge_samples, train_classifier
from ebm_fast.training.data import Split, load_digits


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_digits()


@pytest.fixture(scope="module")
def classifier(digits) -> DigitClassifier:
    return train_classifier(*digits.train)


def noisy(images: torch.Tensor, std: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + std * noise).clamp(-1, 1)


def test_it_reads_held_out_digits(digits, classifier):
    accuracy = (classifier(digits.held_out.images).argmax(1) == digits.held_out.labels).float().mean()
    assert accuracy > 0.97


def test_the_seed_decides_everything(digits, monkeypatch):
    """And the global generators are left alone, of GPUs too."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds every GPU"))
    images, labels = digits.train
    before = torch.get_rng_state()
    one, same, other = (train_classifier(images, labels, seed=seed, steps=3) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_28x28_and_colour():
    images = torch.randn(20, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    model = train_classifier(images, torch.arange(20) % 4, steps=2)
    assert model(images).shape == (20, 4)
    assert model.features(images).shape == (20, 64)


def test_real_digits_score_the_floor(digits, classifier):
    train, held_out = digits.train.images, digits.held_out.images
    quality = judge_samples(classifier, train, train, held_out)
    assert quality.classes_covered == 10
    assert sum(quality.class_fractions) == pytest.approx(1.0)
    assert min(quality.class_fractions) > 0.05
    assert quality.frechet == pytest.approx(quality.frechet_floor, rel=0.02)
    assert quality.mean_confidence > 0.9
    assert quality.mean_confidence_real > 0.9
    assert quality.nearest_train == 0.0
    assert quality.nearest_held_out > 1.0


def test_worse_samples_score_worse(digits, classifier):
    train, held_out = digits.train.images, digits.held_out.images
    scores = [judge_samples(classifier, noisy(train, std), train, held_out) for std in (0.0, 0.3, 0.6)]
    assert scores[0].frechet < 0.7 * scores[1].frechet < 0.35 * scores[2].frechet
    assert scores[0].mean_confidence > scores[1].mean_confidence > scores[2].mean_confidence
    assert scores[0].nearest_held_out < scores[1].nearest_held_out < scores[2].nearest_held_out


def test_samples_that_copy_nothing_are_as_near_to_either_half(digits, classifier):
    (train, _), (held_out, _) = digits
    new = torch.cat([(train[:400] + train[1:401]) / 2, (held_out[:400] + held_out[1:401]) / 2])
    quality = judge_samples(classifier, new[torch.randperm(800)], train, held_out)
    assert quality.nearest_train == pytest.approx(quality.nearest_held_out, rel=0.05)


def test_noise_covers_no_class(digits, classifier):
    noise = 2 * torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    quality = judge_samples(classifier, noise, digits.train.images, digits.held_out.images)
    assert quality.classes_covered == 0
    assert quality.mean_confidence < 0.6
    assert quality.frechet > 20 * quality.frechet_floor


def test_a_collapsed_sampler_is_caught(digits, classifier):
    train, labels = digits.train
    quality = judge_samples(classifier, train[labels <= 1], train, digits.held_out.images)
    assert quality.classes_covered == 2
    assert quality.class_fractions[0] + quality.class_fractions[1] > 0.95
    assert quality.frechet > 3 * quality.frechet_floor


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": torch.zeros(5, 1, 28, 28)}, r"samples.*\(5, 1, 28, 28\)"),
        ({"held_out": torch.zeros(1, 1, 8, 8)}, "held_out.*n >= 2"),
        ({"train": torch.full((5, 1, 8, 8), torch.inf)}, "train.*finite"),
        ({"confidence": 1.0}, "confidence.*1.0"),
        ({"min_fraction": 0.0}, "min_fraction.*0.0"),
    ],
)
def test_wrong_sets_are_named(change, words):
    arguments = dict.fromkeys(("samples", "train", "held_out"), torch.zeros(5, 1, 8, 8)) | change
    with pytest.raises(ValueError, match=words):
        judge_samples(DigitClassifier(1, 8), **arguments)


@pytest.mark.parametrize(
    ("images", "labels", "steps", "words"),
    [
        (torch.zeros(5, 1, 8, 6), torch.zeros(5, dtype=torch.int64), 1, r"images.*\(5, 1, 8, 6\)"),
        (torch.zeros(5, 1, 6, 6), torch.zeros(5, dtype=torch.int64), 1, "image_size.*6"),
        (torch.zeros(5, 1, 8, 8), torch.zeros(4, dtype=torch.int64), 1, r"labels.*\(4,\)"),
        (torch.zeros(5, 1, 8, 8), torch.zeros(5), 1, "labels.*float32"),
        (torch.zeros(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64), 0, "steps.*0"),
    ],
)
def test_wrong_training_data_is_named(images, labels, steps, words):
    with pytest.raises(ValueError, match=words):
        train_classifier(images, labels, steps=steps)
