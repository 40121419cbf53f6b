"""Several processes under torchrun: which one this is, its share of rows and chains, and what they tell each other.

Row i of a batch of n, and chain i, belong to process i // (n / world): with `chain_offset=rank.offset(n)` it draws the numbers
that it would draw in a single process, whatever their count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rank:
    """Process `index` of `world`, and the device that it works on."""

    index: int = 0
    world: int = 1
    device: torch.device = _CPU

    def share(self, n: int, name: str = "n") -> int:
        """Rows of each process, of n in all; ValueError unless they are equally many."""
        if n % self.world:
            raise ValueError(f"{name}: expected a multiple of the {self.world} processes, got {n}")
        return n // self.world

    def offset(self, n: int, name: str = "n") -> int:
        """Index of this process's first row, of n in all: the `chain_offset` of its share."""
        return self.index * self.share(n, name)


def start(device: torch.device | str = "cpu") -> Rank:
    """Join the processes that torchrun has started (gloo on the CPU, nccl on CUDA); without torchrun a single one.

    On CUDA each process takes the device of its LOCAL_RANK. Raises ValueError for a device of another kind.
    """
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda, got {device}")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not world_size() > 1:
        return Rank(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Rank(dist.get_rank(), dist.get_world_size(), device)


def stop() -> None:
    """Leave the processes that `start` joined; nothing for a single one.

    The last group stays in memory. Otherwise a DistributedDataParallel that outlives it would be the one to end gloo's threads,
    and wait for them forever: it holds the interpreter, which they need to let go of the last message's tensor.
    """
    global _left
    if dist.is_available() and dist.is_initialized():
        _left = dist.group.WORLD
        dist.destroy_process_group()


_left: object = None


def world_size() -> int:
    """Processes that have joined; 1 where none have."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """Of this process."""
    return dist.get_rank() if world_size() > 1 else 0


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """grad <- mean over processes of grad, in one message; parameters without a gradient must be the same ones everywhere."""
    if world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    for kind in dict.fromkeys((g.dtype, g.device) for g in grads):
        of_kind = [g for g in grads if (g.dtype, g.device) == kind]
        flat = torch.cat([g.reshape(-1) for g in of_kind])
        dist.all_reduce(flat)
        flat /= world_size()
        for g, mean in zip(of_kind, flat.split([g.numel() for g in of_kind])):
            g.copy_(mean.view(g.shape))


def average(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean over processes of each metric, as numbers."""
    if world_size() == 1 or not values:
        return {name: value.item() for name, value in values.items()}
    told = torch.stack([value.detach().double().reshape(()) for value in values.values()])
    dist.all_reduce(told)
    return dict(zip(values, (told / world_size()).tolist()))


def least(number: int) -> int:
    """The smallest of the processes' numbers."""
    if world_size() == 1:
        return number
    told = torch.tensor(number, dtype=torch.int64, device=_device())
    dist.all_reduce(told, dist.ReduceOp.MIN)
    return int(told)


def require_equal(parameters: Iterable[Tensor]) -> None:
    """ValueError where a process begins with other parameters than the first one."""
    if world_size() == 1:
        return
    sums = [torch.stack((p.detach().double().sum(), p.detach().double().square().sum())) for p in parameters]
    mine = torch.cat(sums).to(_device())
    first = mine.clone()
    dist.broadcast(first, 0)
    if least(int(torch.equal(mine, first))) == 0:
        raise ValueError(
            "module: the processes begin with different parameters; call torch.manual_seed with one seed before making it, or "
            "wrap it in DistributedDataParallel first"
        )


def in_parallel(*owners: object) -> set[int]:
    """ids of the parameters that a DistributedDataParallel among the owners' attributes averages by itself."""
    held = [value for owner in owners for value in getattr(owner, "__dict__", {}).values()]
    return {id(p) for m in held if isinstance(m, nn.parallel.DistributedDataParallel) for p in m.parameters()}


def _device() -> torch.device:
    """Where messages lie."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
