"""Training: data, replay buffer, weight averages, checkpoints, and a loop that resumes exactly."""

from ebm_fast.training import distributed
from ebm_fast.training.alternating import Alternating
from ebm_fast.training.buffer import Draw, ReplayBuffer
from ebm_fast.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from ebm_fast.training.data import (
    BatchStream,
    Images,
    Split,
    load_cifar10,
    load_digits,
    load_fashion_mnist,
    load_idx,
    load_mnist,
)
from ebm_fast.training.ema import EMA
from ebm_fast.training.monitor import Diverged, DivergenceMonitor
from ebm_fast.training.toys import TOYS, make_toy
from ebm_fast.training.trainer import Trainer

__all__ = [
    "EMA",
    "TOYS",
    "Alternating",
    "BatchStream",
    "Diverged",
    "DivergenceMonitor",
    "Draw",
    "Images",
    "ReplayBuffer",
    "Split",
    "Trainer",
    "distributed",
    "latest_checkpoint",
    "load_checkpoint",
    "load_cifar10",
    "load_digits",
    "load_fashion_mnist",
    "load_idx",
    "load_mnist",
    "make_toy",
    "save_checkpoint",
]
