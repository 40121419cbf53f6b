"""A run as NumPy arrays, and in ArviZ's own container."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .summary import refreshed_hamiltonian


def _array(t: Tensor) -> np.ndarray:
    """On the host, 16-bit floats widened, since NumPy has no bfloat16."""
    t = t.detach()
    if t.is_floating_point() and t.itemsize < 4:
        t = t.float()
    return t.cpu().numpy()


def _host(t: Tensor) -> np.ndarray:
    """(draws, chains, ...) -> (chains, draws, ...)."""
    return _array(t.transpose(0, 1))


def to_numpy(run: Any) -> dict[str, np.ndarray]:
    """Everything that a run recorded, by name, for `numpy.savez(file, **to_numpy(run))`.

    `samples` (draws, chains, *event) where there are some, `final` (chains, *event), and every statistic of `run.stats` under its
    own name; what the warm-up settled on under "adapted_step_size" and the like. Copies, on the host.

    Args:
        run: what `ebm_fast.sample` returns.
    """
    stats = vars(run.stats)
    named = {"samples": run.samples, "final": run.final, **stats}
    named |= {f"adapted_{name}": value for name, value in stats["adapted"].items()}
    return {name: np.array(_array(value)) for name, value in named.items() if isinstance(value, Tensor)}


def to_arviz(run: Any) -> Any:
    """InferenceData (ArviZ before 1.0) or DataTree (from 1.0 on) with the groups `posterior` and `sample_stats`.

    `posterior["x"]` has dimensions (chain, draw, x_dim_0, ...). `sample_stats` has, where the run recorded it, per draw: `lp`
    (minus the energy), `energy` (the Hamiltonian, of which ArviZ computes E-BFMI; not where the momentum persists, since E-BFMI
    says nothing then); per chain: `acceptance` (mean probability) and `divergences` (number of proposals).

    Args:
        run: what `ebm_fast.sample` returns, with samples.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: the run holds no samples.
    """
    if getattr(run, "samples", None) is None:
        raise ValueError("run holds no samples (record=False)")
    try:
        import arviz
        import xarray
    except ImportError:
        raise ImportError("to_arviz needs ArviZ: pip install 'ebm_fast[arviz]'") from None
    stats = run.stats
    energy, hamiltonian = getattr(stats, "energy", None), refreshed_hamiltonian(run)
    per_draw: dict[str, np.ndarray] = {}
    if energy is not None:
        per_draw["lp"] = -_host(energy)
    if hamiltonian is not None:
        per_draw["energy"] = _host(hamiltonian)
    groups = {"posterior": {"x": _host(run.samples)}}
    if per_draw:
        groups["sample_stats"] = per_draw
    attributes = {"inference_library": "ebm_fast"}
    from_dict: Any = arviz.from_dict
    if int(arviz.__version__.partition(".")[0]) >= 1:
        tree = from_dict(groups, attrs=dict.fromkeys(groups, attributes))
    else:
        tree = from_dict(**groups, attrs=attributes)
    if per_draw:
        for name in ("acceptance", "divergences"):
            value = getattr(stats, name, None)
            if value is not None:
                tree["sample_stats"][name] = xarray.DataArray(_array(value), dims=("chain",))
    return tree
