"""The compiled backends `cpu` and `cuda`: the flat signature of each op, turned into pointers and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..reference.adapt import adapt_
from ..reference.norm import add_norms
from .backend import native
from .chain import PRECISIONS, TRANSITIONS

_C: Any = native()

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.int32: 4}
WORD = 2**64 - 1
threads = torch.get_num_threads


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _at(tensor: Tensor | None) -> tuple[int, int]:
    """Address and stride of a coefficient # () or (n,)."""
    return (0, 0) if tensor is None else (tensor.data_ptr(), tensor.ndim)


# torch's own objects for a device and its stream cost more than a launch; a build without CUDA has neither function.
_current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
_raw_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", lambda index: torch.cuda.current_stream(index).cuda_stream
)


def _on_cuda(device: torch.device, function: Callable[..., None], *args: Any) -> None:
    """function(*args, stream), on the device."""
    index = device.index
    if _current_device() == index:
        function(*args, _raw_stream(index))
    else:
        with torch.cuda.device(index):
            function(*args, _raw_stream(index))


def _shape(x: Tensor) -> tuple[int, int]:
    chains = x.size(0)
    return chains, x.numel() // chains


def _noise_args(out: Tensor, rng: Tensor | None, kind: int, purpose: int, seed: int, step: int, chain_offset: int) -> tuple:
    return (out.data_ptr(), *_shape(out), DTYPES[out.dtype], kind, seed & WORD, step & WORD, purpose, chain_offset, address(rng))


def noise_cpu(out: Tensor, *args: Any) -> None:
    _C.noise_cpu(*_noise_args(out, *args), threads())


def noise_cuda(out: Tensor, *args: Any) -> None:
    _on_cuda(out.device, _C.noise_cuda, *_noise_args(out, *args))


def _langevin_args(
    x: Tensor, grad: Tensor | None, velocity: Tensor | None, norm_sum: Tensor | None, step_size_at: Tensor | None,
    noise_std_at: Tensor | None, grad_scale: Tensor | None, active: Tensor | None, scale: Tensor | None, rng: Tensor | None,
    step_size: float, noise_std: float, momentum: float, prior_precision: float, grad_clip: float, step_lo: float,
    step_hi: float, noise_lo: float, noise_hi: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> tuple:  # fmt: skip
    return (
        x.data_ptr(), address(grad), address(velocity), address(norm_sum), *_shape(x), DTYPES[x.dtype], step_size, noise_std,
        *_at(step_size_at), *_at(noise_std_at), address(grad_scale), address(active), address(scale), momentum, prior_precision,
        grad_clip, step_lo, step_hi, noise_lo, noise_hi, seed & WORD, step & WORD, purpose, chain_offset, address(rng),
    )  # fmt: skip


def langevin_step_cpu(x: Tensor, *args: Any) -> None:
    _C.langevin_cpu(*_langevin_args(x, *args), threads())


def langevin_step_cuda(
    x: Tensor, grad: Tensor | None, velocity: Tensor | None, norm_sum: Tensor | None, step_size_at: Tensor | None,
    noise_std_at: Tensor | None, grad_scale: Tensor | None, active: Tensor | None, *args: Any,
) -> None:  # fmt: skip
    if norm_sum is not None and grad is not None:
        add_norms(norm_sum, event_norm_cuda(grad), active)
    packed = _langevin_args(x, grad, velocity, None, step_size_at, noise_std_at, grad_scale, active, *args)
    _on_cuda(x.device, _C.langevin_cuda, *packed)


def _norm_args(x: Tensor) -> tuple[Tensor, tuple]:
    out = x.new_empty(x.shape[0], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return out, (x.data_ptr(), out.data_ptr(), *_shape(x), DTYPES[x.dtype])


def event_norm_cpu(x: Tensor) -> Tensor:
    out, args = _norm_args(x)
    _C.norm_cpu(*args, threads())
    return out


def event_norm_cuda(x: Tensor) -> Tensor:
    out, args = _norm_args(x)
    _on_cuda(x.device, _C.norm_cuda, *args)
    return out


def _guard_args(
    x: Tensor, grad: Tensor, momentum: Tensor | None, energy: Tensor | None, divergence_step: Tensor | None,
    active: Tensor | None, norm_sum: Tensor | None, step_size_at: Tensor | None, noise_std_at: Tensor | None,
    stretch_at: Tensor | None, rng: Tensor | None, step_size: float, noise_std: float, stretch: float, heavy_ball: float,
    prior_precision: float, grad_clip: float, grad_clip_norm: float, kinetic: bool, step: int,
) -> tuple:  # fmt: skip
    return (
        x.data_ptr(), grad.data_ptr(), address(momentum), address(energy), address(divergence_step), address(active),
        address(norm_sum), *_shape(x), DTYPES[x.dtype], step_size, *_at(step_size_at), noise_std, *_at(noise_std_at), stretch,
        *_at(stretch_at), heavy_ball, prior_precision, grad_clip, grad_clip_norm, kinetic, step, address(rng),
    )  # fmt: skip


def guard_cpu(x: Tensor, *args: Any) -> None:
    _C.guard_cpu(*_guard_args(x, *args), threads())


def guard_cuda(x: Tensor, *args: Any) -> None:
    _on_cuda(x.device, _C.guard_cuda, *_guard_args(x, *args))


def _propose_args(
    x: Tensor, proposal: Tensor | None, momentum: Tensor | None, grad: Tensor | None, scale: Tensor | None,
    factor: Tensor | None, kinetic: Tensor | None, kick_at: Tensor | None, drift_at: Tensor | None,
    persistence_at: Tensor | None, fresh_at: Tensor | None, rng: Tensor | None, kick: float, drift: float, persistence: float,
    fresh: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> tuple:  # fmt: skip
    return (
        x.data_ptr(), address(proposal), address(momentum), address(grad), address(scale), address(factor), address(kinetic),
        *_shape(x), DTYPES[x.dtype], kick, *_at(kick_at), drift, *_at(drift_at), persistence, *_at(persistence_at), fresh,
        *_at(fresh_at), seed & WORD, step & WORD, purpose, chain_offset, address(rng),
    )  # fmt: skip


def propose_cpu(x: Tensor, *args: Any) -> None:
    _C.proposal_cpu(*_propose_args(x, *args), threads())


def propose_cuda(x: Tensor, *args: Any) -> None:
    _on_cuda(x.device, _C.proposal_cuda, *_propose_args(x, *args))


def _leapfrog_args(
    x: Tensor, momentum: Tensor, grad: Tensor, scale: Tensor | None, kick_at: Tensor | None, drift_at: Tensor | None,
    kick: float, drift: float,
) -> tuple:  # fmt: skip
    return (
        x.data_ptr(), momentum.data_ptr(), grad.data_ptr(), address(scale), *_shape(x), DTYPES[x.dtype], kick, *_at(kick_at),
        drift, *_at(drift_at),
    )  # fmt: skip


def leapfrog_cpu(x: Tensor, *args: Any) -> None:
    _C.leapfrog_cpu(*_leapfrog_args(x, *args), threads())


def leapfrog_cuda(x: Tensor, *args: Any) -> None:
    _on_cuda(x.device, _C.leapfrog_cuda, *_leapfrog_args(x, *args))


def _metropolis_args(
    x: Tensor, proposal: Tensor, energy: Tensor, proposal_energy: Tensor, grad: Tensor | None, proposal_grad: Tensor | None,
    momentum: Tensor | None, momentum_before: Tensor | None, kinetic: Tensor | None, scale: Tensor | None,
    log_ratio: Tensor | None, counters: Tensor | None, kick_at: Tensor | None, beta_at: Tensor | None, rng: Tensor | None,
    kick: float, beta: float, max_error: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> tuple:  # fmt: skip
    return (
        x.data_ptr(), proposal.data_ptr(), energy.data_ptr(), proposal_energy.data_ptr(), address(grad), address(proposal_grad),
        address(momentum), address(momentum_before), address(kinetic), address(scale), address(log_ratio), address(counters),
        *_shape(x), DTYPES[x.dtype], kick, *_at(kick_at), beta, *_at(beta_at), max_error, seed & WORD, step & WORD, purpose,
        chain_offset, address(rng),
    )  # fmt: skip


def metropolis_cpu(x: Tensor, *args: Any) -> None:
    _C.metropolis_cpu(*_metropolis_args(x, *args), threads())


def metropolis_cuda(x: Tensor, *args: Any) -> None:
    _on_cuda(x.device, _C.metropolis_cuda, *_metropolis_args(x, *args))


def _baoab_args(
    x: Tensor, momentum: Tensor, grad: Tensor, scale: Tensor | None, active: Tensor | None, kick_at: Tensor | None,
    drift_at: Tensor | None, persistence_at: Tensor | None, noise_std_at: Tensor | None, rng: Tensor | None, kick: float,
    drift: float, persistence: float, noise_std: float, kicks: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> tuple:  # fmt: skip
    return (
        x.data_ptr(), momentum.data_ptr(), grad.data_ptr(), address(scale), address(active), *_shape(x), DTYPES[x.dtype], kick,
        *_at(kick_at), drift, *_at(drift_at), persistence, *_at(persistence_at), noise_std, *_at(noise_std_at), kicks,
        seed & WORD, step & WORD, purpose, chain_offset, address(rng),
    )  # fmt: skip


def baoab_cpu(x: Tensor, *args: Any) -> None:
    _C.baoab_cpu(*_baoab_args(x, *args), threads())


def baoab_cuda(x: Tensor, *args: Any) -> None:
    _on_cuda(x.device, _C.baoab_cuda, *_baoab_args(x, *args))


def _swap_args(
    x: Tensor, energy: Tensor, betas: Tensor, grad: Tensor | None, labels: Tensor | None, counters: Tensor | None,
    rng: Tensor | None, parity: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> tuple:  # fmt: skip
    chains, replicas = energy.shape
    return (
        x.data_ptr(), energy.data_ptr(), betas.data_ptr(), address(grad), address(labels), address(counters), chains, replicas,
        x.numel() // energy.numel(), DTYPES[x.dtype], parity, seed & WORD, step & WORD, purpose, chain_offset, address(rng),
    )  # fmt: skip


def swap_cpu(x: Tensor, *args: Any) -> None:
    _C.swap_cpu(*_swap_args(x, *args), threads())


def swap_cuda(x: Tensor, *args: Any) -> None:
    _on_cuda(x.device, _C.swap_cuda, *_swap_args(x, *args))


def _moments_args(x: Tensor, mean: Tensor, squares: Tensor, count_at: Tensor | None, count: int) -> tuple:
    return x.data_ptr(), mean.data_ptr(), squares.data_ptr(), *_shape(x), DTYPES[x.dtype], address(count_at), count


def moments_cpu(x: Tensor, *args: Any) -> None:
    _C.moments_cpu(*_moments_args(x, *args), threads())


def moments_cuda(x: Tensor, *args: Any) -> None:
    _on_cuda(x.device, _C.moments_cuda, *_moments_args(x, *args))


def _perturb_args(
    out: Tensor, noise: Tensor | None, x: Tensor, scale: Tensor | None, sigma_at: Tensor | None, rng: Tensor | None,
    sigma: float, purpose: int, seed: int, step: int, chain_offset: int,
) -> tuple:  # fmt: skip
    return (
        out.data_ptr(), address(noise), x.data_ptr(), address(scale), *_shape(out), DTYPES[out.dtype], sigma, *_at(sigma_at),
        out.size(0) // x.size(0), seed & WORD, step & WORD, purpose, chain_offset, address(rng),
    )  # fmt: skip


def perturb_cpu(out: Tensor, *args: Any) -> None:
    _C.perturb_cpu(*_perturb_args(out, *args), threads())


def perturb_cuda(out: Tensor, *args: Any) -> None:
    _on_cuda(out.device, _C.perturb_cuda, *_perturb_args(out, *args))


def _randperm_args(
    out: Tensor, index: Tensor | None, group: Tensor | None, rng: Tensor | None, size: int, purpose: int, seed: int, step: int,
    chain_offset: int,
) -> tuple:  # fmt: skip
    return (
        out.data_ptr(), address(index), address(group), out.size(0), size, math.isqrt(size - 1) + 1, seed & WORD, step & WORD,
        purpose, chain_offset, address(rng),
    )  # fmt: skip


def randperm_cpu(out: Tensor, *args: Any) -> None:
    _C.randperm_cpu(*_randperm_args(out, *args), threads())


def randperm_cuda(out: Tensor, *args: Any) -> None:
    _on_cuda(out.device, _C.randperm_cuda, *_randperm_args(out, *args))


def _gather_args(
    out: Tensor, source: Tensor, slots: Tensor, rows: Tensor | None, fresh: Tensor | None, rng: Tensor | None, kind: int,
    rate: float, shift: float, spread: float, coin: int, purpose: int, seed: int, step: int, chain_offset: int,
) -> tuple:  # fmt: skip
    return (
        out.data_ptr(), source.data_ptr(), slots.data_ptr(), address(rows), address(fresh), *_shape(out), source.size(0),
        0 if rows is None else rows.size(0), DTYPES[out.dtype], kind, rate, shift, spread, seed & WORD, step & WORD, coin,
        purpose, chain_offset, address(rng),
    )  # fmt: skip


def gather_cpu(out: Tensor, *args: Any) -> None:
    _C.gather_cpu(*_gather_args(out, *args), threads())


def gather_cuda(out: Tensor, *args: Any) -> None:
    _on_cuda(out.device, _C.gather_cuda, *_gather_args(out, *args))


def _scatter_args(target: Tensor, slots: Tensor, x: Tensor) -> tuple:
    return target.data_ptr(), slots.data_ptr(), x.data_ptr(), *_shape(x), target.size(0), DTYPES[x.dtype]


def scatter_cpu(target: Tensor, *args: Any) -> None:
    _C.scatter_cpu(*_scatter_args(target, *args), threads())


def scatter_cuda(target: Tensor, *args: Any) -> None:
    _on_cuda(target.device, _C.scatter_cuda, *_scatter_args(target, *args))


MOST_SUMMED = 2**16  # chains: torch sums over more by more thread blocks than one for every few elements


def _adapt_args(
    x: Tensor, counters: Tensor, average: Tensor | None, average_count: Tensor | None, step_size: Tensor | None,
    mean: Tensor | None, squares: Tensor | None, count: Tensor | None, search: Tensor | None, length: Tensor | None,
    before: Tensor | None, space: Tensor | None, proposal: Tensor | None, momentum: Tensor | None, scale: Tensor | None,
    target: float, shrinkage: float, longest: float, least: float, fraction: float,
) -> tuple:  # fmt: skip
    return (
        x.data_ptr(), counters.data_ptr(), address(average), address(average_count), address(step_size), address(mean),
        address(squares), address(count), address(search), address(length), address(before), address(proposal),
        address(momentum), address(scale), address(space), *_shape(x), DTYPES[x.dtype],
        1 if average is None else average.size(1), target, shrinkage, least, fraction, longest,
    )  # fmt: skip


def adapt_cpu(x: Tensor, *args: Any) -> None:
    _C.adapt_cpu(*_adapt_args(x, *args), threads())


def adapt_cuda(x: Tensor, *args: Any) -> None:
    if x.size(0) > MOST_SUMMED:
        return adapt_(x, *args)
    _on_cuda(x.device, _C.adapt_cuda, *_adapt_args(x, *args))


ENERGIES = ("gaussian_diagonal", "gaussian_dense", "mixture", "gamma", "double_well", "rosenbrock", "funnel", "ring", "phi_four",
            "logistic_regression", "eight_schools", "mlp")  # fmt: skip


def _schedule(number: float, at: Tensor | None) -> Any:
    """# (), (n,), (steps, 1) or (steps, n)"""
    if at is None:
        return _C.Schedule(number, 0, 0, 0)
    chain_stride = at.stride(-1) if at.ndim and at.shape[-1] > 1 else 0
    return _C.Schedule(number, at.data_ptr(), chain_stride, at.stride(0) if at.ndim == 2 else 0)


def _chain_args(
    x: Tensor, parameters: Tensor, energy: Tensor | None, grad: Tensor | None, momentum: Tensor | None,
    proposal: Tensor | None, scale: Tensor | None, step_size_at: Tensor | None, noise_std_at: Tensor | None,
    beta_at: Tensor | None, persistence_at: Tensor | None, leapfrogs_at: Tensor | None, divergence_step: Tensor | None,
    norm_sum: Tensor | None, samples: Tensor | None, energies: Tensor | None, hamiltonians: Tensor | None,
    counters: Tensor | None, mean: Tensor | None, squares: Tensor | None, rng: Tensor | None, energy_kind: str,
    integers: list[int], transition: str, steps: int, thin: int, count: int, leapfrogs: int, carried: bool, finish: bool,
    flip: bool, noise_first: bool, guard: bool, step_size: float, noise_std: float, beta: float, persistence: float,
    numbers: list[float], seed: int, step: int, chain_offset: int, precision: str,
) -> tuple:  # fmt: skip
    pointers = (x, parameters, energy, grad, momentum, proposal, scale, leapfrogs_at, divergence_step, norm_sum, samples,
                energies, hamiltonians, counters, mean, squares, rng)  # fmt: skip
    return (
        *map(address, pointers), _schedule(step_size, step_size_at), _schedule(noise_std, noise_std_at),
        _schedule(beta, beta_at), _schedule(persistence, persistence_at), *_shape(x), ENERGIES.index(energy_kind),
        list(integers), TRANSITIONS.index(transition), steps, thin, count, leapfrogs, carried, finish, flip, noise_first, guard,
        list(numbers), seed & WORD, step & WORD, chain_offset, PRECISIONS.index(precision),
    )  # fmt: skip


def chain_in_lanes(energy_kind: str, dim: int) -> bool:
    """Whether a vector of the CPU holds elements of one chain of this energy, not one element of each of its chains."""
    return _C.chain_in_lanes(ENERGIES.index(energy_kind), dim)


def chain_cpu(x: Tensor, *args: Any) -> None:
    _C.chain_cpu(*_chain_args(x, *args), threads())


def chain_cuda(x: Tensor, *args: Any) -> None:
    native_args = _chain_args(x, *args)

    def launch(stream: int) -> None:
        space = _C.chain_cuda_space(*native_args)
        # torch's allocator makes it safe to free at once, in a captured graph too: memory is reused in the stream's order
        workspace = torch.empty(space, dtype=torch.uint8, device=x.device) if space else None
        _C.chain_cuda(*native_args, _C.CudaPlace(address(workspace), stream))

    _on_cuda(x.device, launch)
