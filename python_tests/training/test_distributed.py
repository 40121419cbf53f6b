"""Two processes with gloo: their chains are those of one, their parameters too, and a run killed between them resumes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import ebm_fast as ef
from ebm_fast.energies import MLPEnergy
from ebm_fast.training import BatchStream, Trainer, distributed, latest_checkpoint, load_checkpoint
from ebm_fast.training.distributed import Rank

BATCH, ITERATIONS = 32, 16
DATA = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)) + 1.0
CHAINS = {"sampler": ef.Langevin(step_size=0.05), "num_steps": 5, "seed": 3}
NOISE = ef.noise.Gaussian(torch.zeros(2), 2.0)
PARALLEL = ("short_run", "adance", "nce", "recovery", "without_offset")  # whose energy is in DistributedDataParallel


def buffer(rank: Rank) -> ef.ReplayBuffer:
    return ef.ReplayBuffer(rank.share(64), (2,), init=("normal", 2.0), seed=3, chain_offset=rank.offset(64))


OBJECTIVES = {
    "short_run": lambda net, rank, at: ef.ShortRunMLE(net, init=("normal", 2.0), chain_offset=at, **CHAINS),
    "cd": lambda net, rank, at: ef.ContrastiveDivergence(net, chain_offset=at, data_noise=0.1, kl_weight=0.1, **CHAINS),
    "nce": lambda net, rank, at: ef.NCE(net, NOISE, num_noise=2, log_z=0.5, seed=3, chain_offset=at),
    "cnce": lambda net, rank, at: ef.ConditionalNCE(net, 0.5, num_noise=2, seed=3, chain_offset=at),
    "dsm": lambda net, rank, at: ef.DenoisingScoreMatching(net, 0.3, seed=3, chain_offset=at),
    "ssm": lambda net, rank, at: ef.SlicedScoreMatching(net, seed=3, chain_offset=at),
    "adance": lambda net, rank, at: ef.AdaptiveNCE(net, buffer=buffer(rank), interval=3, chain_offset=at, **CHAINS),
    "recovery": lambda net, rank, at: ef.DiffusionRecoveryLikelihood(
        net, (0.3, 0.6, 0.85), ef.Langevin(0.1), num_steps=3, seed=3, chain_offset=at
    ),
    "without_offset": lambda net, rank, at: ef.ShortRunMLE(net, init=("normal", 2.0), **CHAINS),
}


def build(name: str, rank: Rank, directory: Path | None = None) -> Trainer:
    torch.manual_seed(0)
    net: nn.Module = ef.models.LevelEnergy(2, 3, (16,)) if name == "recovery" else MLPEnergy(2, (16,))
    energy = nn.parallel.DistributedDataParallel(net) if name in PARALLEL and rank.world > 1 else net
    objective = OBJECTIVES[name](energy, rank, rank.offset(BATCH))
    return Trainer(
        net, objective, torch.optim.SGD(objective.parameters(), 3e-2, 0.9), BatchStream(DATA, BATCH, seed=1, rank=rank),
        ema=ef.EMA(net, 0.9), grad_clip=1.0, directory=directory, checkpoint_every=4, log_every=1, progress=False,
    )  # fmt: skip


def trained(trainer: Trainer) -> list[torch.Tensor]:
    trainer.fit(ITERATIONS)
    return [p.detach().clone() for p in trainer.optimizer.param_groups[0]["params"]]


def chains(rank: Rank) -> torch.Tensor:
    """20 native steps of 10 chains of an MLP, of which this process has its share."""
    torch.manual_seed(0)
    n, at = rank.share(10), rank.offset(10)
    x0 = ef.ops.normal_(torch.empty(n, 2), seed=5, purpose="init", chain_offset=at)
    return ef.sample(MLPEnergy(2, (32,)), ef.HMC(0.3, 3), x0, num_steps=20, seed=5, chain_offset=at).final


def work(directory: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    rank = distributed.start()
    found: dict[str, object] = {"rank": (rank.index, rank.world), "chains": chains(rank)}
    for name in OBJECTIVES:
        found[name] = trained(build(name, rank, directory / name))
    # Killed when the second process had not yet written the checkpoint that the first one has.
    whole, part = directory / "adance", directory / "killed"
    build("adance", rank, part).fit(8)
    if rank.index:
        for file in (part / "rank-1" / "iteration-8").iterdir():
            file.unlink()
    resumed = build("adance", rank, part)
    assert resumed.resume() and resumed.iteration == 4
    trained(resumed)
    states = [load_checkpoint(latest_checkpoint(d / f"rank-{rank.index}"))["parts"] for d in (part, whole)]  # type: ignore[arg-type]
    settings = [parts["objective"].pop("settings") for parts in states]
    assert settings[0] == settings[1]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    torch.manual_seed(rank.index)
    net = MLPEnergy(2, (4,))
    objective = OBJECTIVES["cd"](net, rank, 0)
    unlike = Trainer(net, objective, torch.optim.SGD(net.parameters(), 0.1), BatchStream(DATA, BATCH, rank=rank), progress=False)
    with pytest.raises(ValueError, match="processes begin with different parameters"):
        unlike.fit(1)
    with pytest.raises(ValueError, match="monitor: a roll-back"):
        Trainer(net, objective, unlike.optimizer, unlike.batches, monitor=ef.training.DivergenceMonitor())
    torch.save(found, directory / f"found-{rank.index}.pt")
    distributed.stop()


def fork_two(directory: Path, port: int) -> None:
    """Two processes of one that has imported torch, as torchrun would set them up."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    build("cd", Rank())  # imports what an optimiser needs once for both
    children = []
    for index in range(2):
        children.append(os.fork())
        if not children[-1]:
            os.environ["RANK"] = str(index)
            try:
                work(directory)
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:  # it would wait for this one
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


def run(code: str, seconds: float) -> None:
    """A process that has the names of this file; it and its children are killed after so many seconds."""
    search = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", f"from test_distributed import *; {code}"], env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    late = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    late.start()
    try:
        printed = process.stdout.read()  # type: ignore[union-attr]
        assert process.wait() == 0, printed
    finally:
        late.cancel()


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(f"fork_two(Path({str(path)!r}), {port})", 120)
    return path


@pytest.fixture(scope="module")
def found(directory) -> list[dict]:
    return [torch.load(directory / f"found-{i}.pt") for i in range(2)]


def test_chains_of_two_processes_are_those_of_one_bit_for_bit(found):
    assert [part["rank"] for part in found] == [(0, 2), (1, 2)]
    whole = chains(Rank())
    assert torch.equal(torch.cat([part["chains"] for part in found]), whole)
    assert not torch.equal(found[0]["chains"], found[1]["chains"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parameters_are_those_of_one_process_with_the_whole_batch(found, name):
    """To rounding, 2e-6; chains without their offset are off by more than 0.01."""
    expected = trained(build(name, Rank()))
    for part in found:
        torch.testing.assert_close(part[name], found[0][name], rtol=0, atol=0)
    distance = max((p - q).abs().max().item() for p, q in zip(found[0][name], expected, strict=True))
    if name == "without_offset":
        assert distance > 0.01
    elif name != "adance":  # where each process draws from its own part of the buffer: another run of the same law
        assert distance < 2e-6


def test_logs_hold_means_over_both(directory, tmp_path):
    logs = [(directory / "short_run" / f"rank-{i}" / "log.csv").read_text() for i in range(2)]
    assert logs[0] == logs[1]
    trained(build("short_run", Rank(), tmp_path))
    rows = [[float(x) for x in text.splitlines()[1].split(",")] for text in (logs[0], (tmp_path / "log.csv").read_text())]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4, abs=1e-5)


def test_shares():
    assert [Rank(i, 4).offset(12) for i in range(4)] == [0, 3, 6, 9] and Rank(2, 4).share(12) == 3
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes, got 32"):
        BatchStream(DATA, BATCH, rank=Rank(0, 3))
    with pytest.raises(ValueError, match="drop_last"):
        BatchStream(DATA, BATCH, drop_last=False, rank=Rank(0, 2))
    with pytest.raises(ValueError, match="device: expected cpu or cuda"):
        distributed.start("meta")
    streams = [BatchStream(DATA, BATCH, seed=4, rank=Rank(i, 2)) for i in range(2)]
    whole = BatchStream(DATA, BATCH, seed=4)
    for _ in range(10):
        assert torch.equal(torch.cat([next(s) for s in streams]), next(whole))
    assert distributed.start() == Rank() and distributed.world_size() == 1
    distributed.stop()


def leave(times: int) -> None:
    """With an interpreter that no thread gets unasked, and a module in parallel that outlives its group."""
    sys.setswitchinterval(100)
    for _ in range(times):
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        net = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        torch.distributed.all_reduce(torch.ones(3))
        distributed.stop()
        del net


def test_a_parallel_module_may_outlive_the_processes():
    """Without the group that `stop` keeps, this hangs within a few rounds."""
    run("leave(50)", 60)
