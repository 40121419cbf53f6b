"""Noise-contrastive estimation against a static noise model: binary, and by ranking."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ebm_fast.engine.run import check_count
from ebm_fast.noise import NoiseModel, as_noise
from ebm_fast.objectives.contrastive import Batch, _split
from ebm_fast.objectives.counted import CountedObjective
from ebm_fast.objectives.numerics import softplus, wide
from ebm_fast.objectives.saved import require_fits
from ebm_fast.ops import checks


def nce_loss(
    log_ratio_data: Tensor, log_ratio_noise: Tensor, *, num_noise: float = 1.0
) -> Tensor:  # (n,), (m,) -> ()
    """L = mean softplus(log nu - r_data) + nu mean softplus(r_noise - log nu), r = log p_model - log p_noise, nu = num_noise.

    The cross-entropy of telling data from nu times as much noise, per datum: (1 + nu) times (2.13) of the thesis, whose v is
    1/nu. m need not be nu n: the second mean estimates its expectation whatever m is. Raises ValueError unless both are
    vectors, n, m >= 1, and nu > 0. Source: Gutmann and Hyvarinen 2012.
    """
    for name, r in (("log_ratio_data", log_ratio_data), ("log_ratio_noise", log_ratio_noise)):
        if r.dim() != 1 or len(r) == 0:
            raise ValueError(
                f"{name}: expected one log ratio a state, (n,) with n >= 1, got {tuple(r.shape)}"
            )
    if not checks.number(num_noise, "num_noise", low=0.0) > 0.0:
        raise ValueError(f"num_noise must be above 0, got {num_noise}")
    shift = math.log(num_noise)
    data = softplus(shift - wide(log_ratio_data)).mean()
    return data + num_noise * softplus(wide(log_ratio_noise) - shift).mean()


def ranking_nce_loss(
    log_ratio_data: Tensor, log_ratio_noise: Tensor
) -> Tensor:  # (n,), (n, L-1) or (L-1,) -> ()
    """L = mean_i [log(e^{r_i} + sum_l e^{r_il}) - r_i]: which of L states is the datum; log Z cancels.

    One row of noise (L-1,) serves every datum. Raises ValueError for other shapes. Source: Jozefowicz et al. 2016; thesis (2.16).
    """
    data, noise = wide(log_ratio_data), wide(log_ratio_noise)
    fits = noise.shape[:-1] in ((), data.shape) and noise.shape[-1:].numel() >= 1 and noise.dim() >= 1
    if data.dim() != 1 or len(data) == 0 or not fits:
        raise ValueError(
            "log_ratio_data, log_ratio_noise: expected (n,) and (n, L-1) or (L-1,), n >= 1, L >= 2, got "
            f"{tuple(data.shape)} and {tuple(noise.shape)}"
        )
    # The noise first, so that a shared row is reduced once and not n times.
    return softplus(noise.logsumexp(-1) - data).mean()


def learnable_log_z(
    energy: Callable[..., Tensor], start: float, shape: tuple[int, ...] = ()
) -> nn.Parameter:  # (*shape)
    """log Z as a parameter that starts at `start`, of the energy's dtype (float32 at least) and on its device."""
    start = checks.number(start, "log_z")
    parameters = list(energy.parameters()) if isinstance(energy, nn.Module) else []
    like = next((p for p in parameters if p.is_floating_point()), torch.empty(0))
    dtype = torch.promote_types(like.dtype, torch.float32)
    return nn.Parameter(torch.full(shape, start, dtype=dtype, device=like.device))


def check_log_z(log_z: nn.Parameter | None, state: dict[str, Any]) -> None:
    """ValueError where a saved state has another log Z than this one, or none."""
    shapes = ["none" if z is None else tuple(z.shape) for z in (log_z, state.get("log_z"))]
    if shapes[0] != shapes[1]:
        raise ValueError(f"state: expected log_z {shapes[0]}, got {shapes[1]}")


def load_log_z(log_z: nn.Parameter | None, state: dict[str, Any]) -> None:
    """log Z of a saved state."""
    if log_z is not None:
        with torch.no_grad():
            log_z.copy_(state["log_z"])


def require_like(noise: NoiseModel, data: Tensor) -> None:
    """ValueError for a batch of other events than those of the noise, where it knows them."""
    event = getattr(noise, "event_shape", None)
    if event is not None and data.shape[1:] != event:
        wanted = ", ".join(("n", *map(str, event)))
        raise ValueError(f"batch: expected states ({wanted}) like those of the noise, got {tuple(data.shape)}")


class NoiseObjective(CountedObjective):
    """Log ratios r = -E(x) - log Z - log p_n(x) of a batch and of noise drawn for it; what they are used for is the subclass's.

    `noise`: a model of `ebm_fast.noise`, an analytic energy with exact draws and known log Z, a torch distribution, a flow,
    or any object with `sample(n)` and `log_prob(x)`. `log_z`: None for an energy that normalises itself (log Z = 0), or where
    a learnable log Z starts; with `num_classes` there is one for each class of labels. Other arguments as `CountedObjective`.
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        noise: Any,
        *,
        num_noise: int = 1,
        log_z: float | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
        chain_offset: int = 0,
        check: bool = False,
    ) -> None:
        super().__init__(energy, num_noise, seed=seed, chain_offset=chain_offset, check=check)
        self.noise = as_noise(noise)
        self.log_z: nn.Parameter | None = None
        if num_classes is not None:
            check_count(num_classes, "num_classes", 1)
            if log_z is None:
                raise ValueError(f"num_classes: has a meaning for a learnable log_z alone, got {num_classes}")
        if log_z is not None:
            self.log_z = learnable_log_z(energy, log_z, () if num_classes is None else (num_classes,))

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        data, y = _split(batch)
        if y is None and self.log_z is not None and self.log_z.dim():
            raise ValueError("batch: expected (x, y), because log_z has classes; got x alone")
        states, labels, known = self._states(data, y)
        n, m = len(data), len(states) - len(data)
        with torch.no_grad():
            log_noise = self.noise.log_prob(states) if known is None else torch.cat([self.noise.log_prob(data), known])
        e_data, e_noise = self._energies(states, labels, [n, m])
        n_data, n_noise = log_noise.split([n, m])
        self._require_finite(
            batch=data,
            energy_data=e_data,
            energy_noise=e_noise,
            noise_log_prob_of_batch=n_data,
            noise_log_prob_of_noise=n_noise,
        )
        r_data, r_noise = -e_data - n_data, -e_noise - n_noise
        if self.log_z is not None:
            z = self.log_z if labels is None or not self.log_z.dim() else self.log_z[labels]
            z_data, z_noise = (z, z) if z.dim() == 0 else z.split([n, m])
            r_data, r_noise = r_data - z_data, r_noise - z_noise
        loss, metrics = self._contrast(r_data, r_noise)
        metrics = {
            "energy_data": e_data.detach().mean(),
            "energy_noise": e_noise.detach().mean(),
            "log_ratio_data": r_data.detach().mean(),
            "log_ratio_noise": r_noise.detach().mean(),
            **metrics,
        }
        if self.log_z is not None:
            metrics["log_z"] = self.log_z.detach().mean()
        self.iteration += 1
        return loss, metrics

    def _noise_rows(self, n: int) -> int:
        """How many noise samples n data need."""
        return n * self.num_noise

    def _states(self, data: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Data and noise in one tensor, the noise written where it is drawn; labels of both; log p_n of the noise if known."""
        n = len(data)
        require_like(self.noise, data)
        states = data.new_empty(n + self._noise_rows(n), *data.shape[1:])
        states[:n] = data
        known = self.noise.draw_(
            states[n:], seed=self.seed, step=self.iteration, chain_offset=self.chain_offset * self.num_noise
        )
        return states, None if y is None else torch.cat([y, y.repeat_interleave(self.num_noise, 0)]), known

    def _contrast(self, r_data: Tensor, r_noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of log ratios (n,) and (m,)."""
        raise NotImplementedError

    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser is to train: the energy's parameters, where it is a module, and log Z."""
        yield from super().parameters()
        if self.log_z is not None:
            yield self.log_z

    def state_dict(self) -> dict[str, Any]:
        """Seed, iteration, log Z, and the noise model."""
        state = {**super().state_dict(), "noise": dict(self.noise.state_dict())}
        return state if self.log_z is None else {**state, "log_z": self.log_z.detach().clone()}

    def _check_state(self, state: dict[str, Any]) -> None:
        super()._check_state(state)
        checks.entries(state, "noise")
        check_log_z(self.log_z, state)
        require_fits(self.noise, state["noise"], "the noise model")

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        load_log_z(self.log_z, state)
        self.noise.load_state_dict(state["noise"])


class NCE(NoiseObjective):
    """L = E_data softplus(log nu - r) + nu E_noise softplus(r - log nu), r = log p_theta - log p_n.

    The cross-entropy of telling data from nu times as much noise.

    `objective(batch)` returns (loss, metrics); batch is x (n, *event), or (x, y) for an energy E(x, y=labels), whose noise
    gets the labels of its data. `num_noise` is nu, a whole number. Its minimum over all normalised and unnormalised models
    is the data's density itself: the energy then normalises itself (`log_z=None`), or `log_z=0.0` learns log Z beside it.
    metrics: energies and log ratios of data and noise, `accuracy` (of r > 0, data and noise weighed alike), `log_z`.
    FloatingPointError on `noise_log_prob_of_batch` means data where the noise has density 0.
    Source: Gutmann and Hyvarinen 2010, 2012; thesis (2.13).
    """

    def _contrast(self, r_data: Tensor, r_noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = nce_loss(r_data, r_noise, num_noise=float(self.num_noise))
        right = (r_data.detach() > 0).to(loss.dtype).mean() + (r_noise.detach() < 0).to(loss.dtype).mean()
        return loss, {"accuracy": 0.5 * right}


class RankingNCE(NoiseObjective):
    """L = E [logsumexp over a datum and its L-1 noise samples of r - r_datum], r = -E - log p_n: log Z cancels.

    `num_noise` is L - 1. With `shared=True` the same L - 1 samples serve every datum of the batch: n + L - 1 energies
    instead of n L, an estimate as unbiased, of more variance; not for labels. metrics: `accuracy` is how often the datum
    comes first. Learns the density up to its constant. Source: Jozefowicz et al. 2016, Ma and Collins 2018; thesis (2.16).
    """

    _settings = ("shared",)

    def __init__(
        self,
        energy: Callable[..., Tensor],
        noise: Any,
        *,
        num_noise: int,
        shared: bool = False,
        **options: Any,
    ) -> None:
        if options.get("log_z") is not None or options.get("num_classes") is not None:
            raise ValueError(
                "log_z: cancels in the ranking and cannot be learned; leave it and num_classes out"
            )
        super().__init__(energy, noise, num_noise=num_noise, **options)
        self.shared = shared

    def _noise_rows(self, n: int) -> int:
        return self.num_noise if self.shared else n * self.num_noise

    def _states(self, data: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self.shared and y is not None:
            raise ValueError(
                "batch: shared=True cannot give one noise sample the labels of several data; expected x alone"
            )
        return super()._states(data, y)

    def _contrast(self, r_data: Tensor, r_noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows = r_noise if self.shared else r_noise.view(len(r_data), self.num_noise)
        loss = ranking_nce_loss(r_data, rows)
        first = r_data.detach() > rows.detach().amax(-1)
        return loss, {"accuracy": first.to(loss.dtype).mean()}
