"""A run in ArviZ's own container."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .summary import refreshed_hamiltonian


def _host(t: Tensor) -> np.ndarray:
    """(draws, chains, ...) -> (chains, draws, ...), on the host, bfloat16 widened."""
    t = t.detach()
    if t.is_floating_point() and t.itemsize < 4:
        t = t.float()
    return t.transpose(0, 1).cpu().numpy()


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
                tree["sample_stats"][name] = xarray.DataArray(value.detach().cpu().numpy(), dims=("chain",))
    return tree
