"""Mixed precision for every kind of objective, and what is said about data and parts that cannot work."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.models import ConvNetEnergy
from ebm_fast.objectives import players
from ebm_fast.training import Alternating, BatchStream, Trainer

DATA = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def objective(name: str, net: nn.Module):
    chains = {"sampler": ef.Langevin(step_size=0.01), "num_steps": 3, "seed": 1}
    noise = ef.noise.Gaussian.fit(DATA)
    buffer = ef.ReplayBuffer(32, (1, 8, 8), init=("uniform", -1.0, 1.0), seed=1)
    return {
        "pcd": lambda: ef.PersistentCD(net, buffer=buffer, **chains),
        "nce": lambda: ef.NCE(net, noise, seed=1),
        "dsm": lambda: ef.DenoisingScoreMatching(net, sigma=0.3, scaled=True, seed=1),
        "ssm": lambda: ef.SlicedScoreMatching(net, seed=1),
        "adance": lambda: ef.AdaptiveNCE(net, buffer=buffer, **chains),
    }[name]()


def trainer(batches, name: str = "pcd", **options) -> Trainer:
    torch.manual_seed(0)
    net = ConvNetEnergy(1, 8, (8, 8), (8,), activation="silu")
    made = objective(name, net)
    optimizer = options.pop("optimizer", torch.optim.Adam)
    return Trainer(net, made, optimizer(made.parameters(), 1e-3), batches, progress=False, **options)


@pytest.mark.parametrize("name", ["pcd", "nce", "dsm", "ssm", "adance"])
def test_autocast(name):
    """Layers compute in bfloat16, parameters and losses are float32, and the losses are those of float32 to bfloat16's digits."""
    losses: dict[object, list[float]] = {}
    for dtype in (None, torch.bfloat16):
        seen: set[torch.dtype] = set()
        losses[dtype] = []

        def note(t: Trainer, metrics: dict[str, torch.Tensor], kept=losses[dtype]) -> None:
            assert metrics["loss"].dtype == torch.float32
            kept += [metrics["loss"].item(), metrics.get("energy_data", metrics["loss"]).item()]

        run = trainer(BatchStream(DATA, 16), name, autocast=dtype, callbacks=[note])
        layer = next(m for m in run.module.modules() if isinstance(m, nn.Conv2d))
        layer.register_forward_hook(lambda _m, _i, out, s=seen: s.add(out.dtype))
        before = [p.clone() for p in run.module.parameters()]
        run.fit(3)
        assert seen == {dtype or torch.float32}
        assert all(p.dtype == torch.float32 for p in run.module.parameters())
        assert not all(map(torch.equal, run.module.parameters(), before))
    plain, mixed = losses.values()
    assert plain != mixed
    assert mixed == pytest.approx(plain, rel=0.05, abs=0.02)


def test_two_players_under_autocast_use_the_weights_of_each_turn():
    """Generator and energy after several turns in one autocast block are those of float32 to bfloat16's digits."""
    found = []
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1), nn.Flatten(0))
        generator = players.Generator(nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 2)), 2, std=0.5)
        game = Alternating(
            ef.VariationalMLE(net, generator, seed=1), torch.optim.SGD(generator.parameters(), 0.3), steps=5
        )
        points = torch.randn(64, 2, generator=torch.Generator("cpu").manual_seed(0)) + torch.tensor([3.0, 0.0])
        run = Trainer(
            nn.ModuleList([net, generator]), game, torch.optim.SGD(net.parameters(), 0.1), BatchStream(points, 32),
            autocast=dtype, progress=False, callbacks=[lambda _, metrics: found[-1].append(metrics["loss"].item())],
        )  # fmt: skip
        found.append([])
        run.fit(4)
        found[-1] += generator.draw(500, seed=9).x.detach().mean(0).tolist()
    plain, mixed = found
    assert plain != mixed
    assert mixed == pytest.approx(plain, rel=0.05, abs=0.02)


def test_a_batch_with_a_nan_is_named():
    data = DATA.clone()
    data[40, 0, 3, 3] = math.nan
    for name in ("pcd", "nce", "dsm", "ssm", "adance"):
        with pytest.raises(FloatingPointError, match="not finite: batch"):
            trainer(BatchStream(data, 16), name).fit(4)


class Ending:
    def __init__(self, count: int) -> None:
        self.left = count

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return DATA[:16]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("count", [0, 2])
def test_batches_that_end(count):
    with pytest.raises(ValueError, match=f"batches: ended after iteration {count}; expected endless batches"):
        trainer(Ending(count)).fit(4)


def test_parts_that_lack_what_a_trainer_needs():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(DATA), 16)
    with pytest.raises(TypeError, match=r"batches: expected an object with .*DataLoader; wrap the data in a BatchStream"):
        trainer(loader)
    net = ConvNetEnergy(1, 8, (8,), (8,))
    with pytest.raises(TypeError, match=r"objective: expected an object with .*finish_checks, got function"):
        Trainer(net, lambda batch: None, torch.optim.SGD(net.parameters(), 0.1), BatchStream(DATA, 16))
    with pytest.raises(TypeError, match=r"optimizer: expected one whose step\(\) needs no closure, .* got LBFGS"):
        trainer(BatchStream(DATA, 16), optimizer=torch.optim.LBFGS)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(ValueError, match="autocast"):
            trainer(BatchStream(DATA, 16), autocast=dtype)


def test_a_plateau_of_the_loss_lowers_the_rate_and_is_resumed(tmp_path):
    """A loss that is never better by 1e6: from the second iteration on each one halves the rate."""

    def build() -> Trainer:
        torch.manual_seed(0)
        net = ConvNetEnergy(1, 8, (8,), (8,), activation="silu")
        optimizer = torch.optim.Adam(net.parameters(), 1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=1e6, threshold_mode="abs"
        )
        batches = BatchStream(DATA, 8, seed=0)
        return Trainer(net, objective("dsm", net), optimizer, batches, scheduler=schedule, directory=tmp_path, progress=False)

    first = build()
    first.fit(4)
    second = build()
    assert second.resume() and first.optimizer.param_groups[0]["lr"] == 2.0**-3
    second.fit(6)
    assert second.optimizer.param_groups[0]["lr"] == 2.0**-5


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    made = trainer(BatchStream(DATA, 8, seed=0), "dsm", directory=tmp_path)
    made.fit(2)
    other = trainer(BatchStream(DATA, 8, seed=0), "dsm", directory=tmp_path, optimizer=torch.optim.SGD)
    before = {name: p.clone() for name, p in other.module.state_dict().items()}
    with pytest.raises(ValueError, match="expected the state of a SGD as optimizer, found that of a Adam"):
        other.resume()
    assert all(torch.equal(before[name], p) for name, p in other.module.state_dict().items())
    assert trainer(BatchStream(DATA, 8, seed=0), "dsm", directory=tmp_path).resume()
