"""What every objective says of batches, energies and noise that it cannot work with, and of data that are only odd."""

from __future__ import annotations

import math

import pytest
import torch
from every_objective import EVERY, Net, make
from torch import Tensor, nn

from ebm_fast import noise
from ebm_fast.training import BatchStream, Trainer

OWN_ENERGY = [name for name in EVERY if name not in ("ImplicitVAE", "LatentMLE", "LatentEBM")]
SCORES = [name for name in EVERY if "ScoreMatching" in name]


def data(n: int = 8) -> Tensor:
    return torch.randn(n, 2)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_that_is_not_finite_is_named(name):
    """And nothing of it is kept: the next batch is fine, with finite gradients."""
    objective = make(name)
    for bad in (math.nan, math.inf):
        x = data()
        x[3, 1] = bad
        with pytest.raises(FloatingPointError, match=r"^not finite: batch\b"):
            objective(x)
    assert objective.iteration == 0
    loss, metrics = objective(data())
    loss.backward()
    assert loss.isfinite() and all(bool(value.isfinite()) for value in metrics.values())
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", EVERY)
def test_batches_that_are_none(name):
    objective = make(name)
    for bad, told in ((data(0), r"n >= 1, .*got torch.float32 \(0, 2\)"), (data().long(), "floating-point .*int64"),
                      (torch.randn(()), r"\(n, \*event\)"), ([], "got a list of 0"), (None, "got NoneType"),
                      ((data(), torch.arange(5)), "a label for each of 8 states, got 5")):  # fmt: skip
        with pytest.raises(ValueError, match=f"^batch: expected .*{told}"):
            objective(bad)
    assert objective.iteration == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_feature_that_does_not_vary(name):
    """Is no error of an objective, nor are batches of equal states: losses and gradients are finite."""
    one = data()
    one[:, 1] = 0.3
    for x in (one, torch.ones(8, 2)):
        objective = make(name)
        loss, metrics = objective(x)
        loss.backward()
        assert loss.isfinite() and all(bool(value.isfinite()) for value in metrics.values())
        assert all(bool(p.grad.isfinite().all()) for p in objective.parameters() if p.grad is not None)


def test_noise_fitted_to_a_feature_that_does_not_vary():
    """Has no density: the fit says which feature, and takes a floor."""
    x = data(50)
    x[:, 1] = 0.3
    fits = {"Gaussian": noise.Gaussian.fit, "Uniform": noise.Uniform.fit}
    for name, fit in fits.items():
        with pytest.raises(ValueError, match=r"data: .*1.*floor"):
            fit(x)
        fitted = fit(x, floor=0.1)
        loss, _ = make("NCE", noise=fitted)(x)
        assert loss.isfinite(), name


@pytest.mark.parametrize("name", OWN_ENERGY)
def test_energies_of_a_wrong_shape(name):
    wanted = "model: expected energies" if name in SCORES else r"energy(:| must return)"
    with pytest.raises(ValueError, match=rf"^{wanted}.*\(\d+,\).*got .*\(\d+, 1\)"):
        make(name, Net(flat=False))(data())


class Unnormalised:
    """Samples alone."""

    def sample(self, n: int) -> Tensor:
        return torch.randn(n, 2)


class Sampler(nn.Module):
    """The same of a module with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def rsample(self, n: int) -> Tensor:
        return torch.randn(n, 2) + self.shift


@pytest.mark.parametrize(("name", "argument", "given"), [
    ("NCE", "noise", Unnormalised()), ("RankingNCE", "noise", Unnormalised()), ("BregmanRatioMatching", "noise", Unnormalised()),
    ("NCE", "noise", nn.Linear(2, 2)), ("RankingNCE", "noise", Net()), ("AdversarialContrastive", "base", Unnormalised()),
    ("AdversarialContrastive", "generator", Sampler()), ("FlowContrastive", "flow", Sampler()),
    ("VariationalMLE", "generator", Sampler()), ("FlowContrastive", "flow", Unnormalised()),
])  # fmt: skip
def test_noise_without_a_density(name, argument, given):
    """An unnormalised model has samples and no log_prob: every contrast against noise needs it."""
    with pytest.raises(TypeError, match=r"^(noise|generator): .*(log_prob|torch module)"):
        make(name, **{argument: given})


@pytest.mark.parametrize("name", EVERY)
def test_events_of_another_shape(name):
    """Where buffer, noise or generator know the event it is named; else the network's own error tells."""
    whose = {
        "like the buffer's": ("PersistentCD", "AdaptiveNCE", "AdaptiveBregman"),
        "like those of the noise": ("NCE", "RankingNCE", "BregmanRatioMatching", "AdversarialContrastive"),
        "^generator: .*like the batch": ("FlowContrastive", "VariationalMLE"),
        "^network: ": ("LatentMLE", "LatentEBM"),
    }
    known = {each: told for told, names in whose.items() for each in names}
    with pytest.raises(ValueError if name in known else RuntimeError, match=known.get(name, "shapes cannot be multiplied")):
        make(name)(torch.randn(8, 3))


def test_data_that_are_empty_or_end():
    for empty in (torch.empty(0, 2), (torch.empty(0, 2), torch.empty(0))):
        with pytest.raises(ValueError, match=r"^tensors: expected data with at least one row, got lengths \[0"):
            BatchStream(empty, 4)
    net, loader = Net(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.empty(0, 2)), 4)
    objective = make("NCE", net)
    with pytest.raises(TypeError, match=r"^batches: expected .*got DataLoader; wrap the data in a BatchStream"):
        Trainer(net, objective, torch.optim.SGD(net.parameters(), 0.1), loader, progress=False)
