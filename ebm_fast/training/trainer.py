"""A short training loop that can be killed at any time and resumed to the bit-identical model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ebm_fast.ops import checks
from ebm_fast.training import distributed
from ebm_fast.training.checkpoint import latest_checkpoint, number_of
from ebm_fast.training.ema import EMA
from ebm_fast.training.log import RunLog, Writer
from ebm_fast.training.monitor import DivergenceMonitor
from ebm_fast.training.parts import (
    held_by,
    is_finite,
    load_all,
    not_finite,
    require_methods,
    require_one_player,
    require_step,
    require_trained,
    warn_of_left_out,
)
from ebm_fast.training.snapshots import Snapshots


class Stateful(Protocol):
    """What a checkpoint keeps: anything with `state_dict` and `load_state_dict`."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Objective(Stateful, Protocol):
    """`objective(batch) -> (loss, metrics)`, the metrics detached scalars."""

    def __call__(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]: ...
    def finish_checks(self) -> None: ...


class Batches(Stateful, Protocol):
    """Endless batches that remember their position; `BatchStream` is one."""

    def __next__(self) -> Any: ...


class Trainer:
    """theta <- optimizer(theta, grad L(batch)) for the loss of any objective, then learning-rate schedule and EMA.

    `module`: the energy whose parameters `optimizer` holds. `scheduler`: a step an iteration, of ReduceLROnPlateau by the loss.
    `grad_clip`: bound on the norm of the gradient of all parameters that the optimiser holds. `directory`: where `log.csv` (a row
    every `log_every` iterations) and `iteration-N/` (a checkpoint every `checkpoint_every` iterations and at the end, the last
    `keep` of them) go; None writes nothing.
    `tensorboard`: True draws the same numbers in `directory`/tensorboard/; or a SummaryWriter of your own, after `resume()` made
    with purge_step=trainer.iteration + 1. `monitor`: what tells that a run diverges and returns it to its last snapshot,
    which is a checkpoint, or a copy in memory where there is no directory. `autocast`: torch.bfloat16 runs the objective
    under torch.autocast; parameters, states of chains and losses stay in float32.
    `callbacks`: called as f(trainer, metrics) after each iteration, before its checkpoint, which keeps what they have changed;
    where they leave parameters that are not finite there is none, and the iteration counts as a failed one.
    `resume()` continues from the last checkpoint: model, optimiser, schedule, EMA, objective (buffer, counters),
    batches, torch's generators, monitor and log are then those of the uninterrupted run, bit for bit.
    In several processes (`training.distributed`) each trains on its share of the batch and averages the gradients that no
    DistributedDataParallel has averaged; each has `directory`/rank-N of its own, and a log of means over all.
    Raises TypeError or ValueError naming the argument; warns of parameters of the objective that `optimizer` lacks.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        *,
        ema: EMA | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        grad_clip: float | None = None,
        directory: str | Path | None = None,
        checkpoint_every: int = 1000,
        keep: int = 2,
        log_every: int = 10,
        tensorboard: bool | Writer = False,
        monitor: DivergenceMonitor | None = None,
        autocast: torch.dtype | None = None,
        callbacks: Sequence[Callable[[Trainer, dict[str, Tensor]], None]] = (),
        progress: bool = True,
    ) -> None:
        for name, value in (("checkpoint_every", checkpoint_every), ("keep", keep), ("log_every", log_every)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: expected an int >= 1, got {value!r}")
        if grad_clip is not None and not checks.number(grad_clip, "grad_clip", infinite=True) > 0.0:
            raise ValueError(f"grad_clip: expected None or > 0, got {grad_clip}")
        if autocast not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast: expected None or torch.bfloat16 (float16 needs a gradient scaler), got {autocast}"
            )
        if not isinstance(directory, (str, PathLike, NoneType)):
            raise TypeError(f"directory: expected a path or None, got {directory!r}")
        if not isinstance(callbacks, (tuple, list)) or not all(map(callable, callbacks)):
            raise TypeError(f"callbacks: expected a list of functions f(trainer, metrics), got {callbacks!r}")
        self.module, self.objective, self.optimizer, self.batches = module, objective, optimizer, batches
        self.ema, self.scheduler, self.grad_clip = ema, scheduler, grad_clip
        self.directory = None if directory is None else Path(directory)
        if distributed.world_size() > 1:
            if monitor is not None:
                raise ValueError("monitor: a roll-back is the decision of one process alone; several train without a monitor")
            if self.directory is not None:
                self.directory /= f"rank-{distributed.index()}"
            progress = progress and distributed.index() == 0
        self.checkpoint_every, self.keep, self.log_every = checkpoint_every, keep, log_every
        self.monitor, self.autocast = monitor, autocast
        self.callbacks, self.progress = tuple(callbacks), progress
        self.iteration = 0
        named = {"module": module, "objective": objective, "optimizer": optimizer, "batches": batches}
        optional = {"ema": ema, "scheduler": scheduler, "monitor": monitor}
        self._parts: dict[str, Any] = named | {
            name: part for name, part in optional.items() if part is not None
        }
        for name, part in self._parts.items():
            require_methods(name, part)
        require_step("optimizer", optimizer)
        require_one_player(objective)
        require_trained(self._optimizers(), module=module, ema=ema, scheduler=scheduler)
        warn_of_left_out(module, objective, optimizer)
        self._log = RunLog(self.directory, tensorboard)
        self._snapshots = Snapshots(self.directory, keep)
        self._begun = False  # once the run owns what is in its directory
        self._rolled_back = False  # since the last snapshot

    def fit(self, num_iterations: int) -> None:
        """Train until `num_iterations` iterations are done in all, those before a resume included.

        Raises FileExistsError rather than mix a new run with the checkpoints of another, and FloatingPointError where numbers
        are not finite, parameters and gradients before a checkpoint among them, with a monitor only where its roll-backs did not
        help. What is on the disk is then the last good checkpoint.
        """
        from tqdm.auto import tqdm

        if type(num_iterations) is not int:
            raise TypeError(f"num_iterations: expected an int, got {num_iterations!r}")
        if num_iterations < self.iteration:
            raise ValueError(f"num_iterations: {self.iteration} are done already, got {num_iterations}")
        self._begin()
        bar = tqdm(total=num_iterations, initial=self.iteration, disable=not self.progress, unit="it")
        with bar, self._log:
            while self.iteration < num_iterations:
                batch = next(self.batches, None)
                if batch is None:
                    raise ValueError(f"batches: ended after iteration {self.iteration}; expected endless batches")
                due = (self.iteration + 1) % self.checkpoint_every == 0 or self.iteration + 1 == num_iterations
                try:
                    metrics = self._step(batch)
                    self._check(metrics, due)
                except FloatingPointError as error:
                    self._roll_back(error, batch)
                    bar.n = self.iteration
                    continue
                self.iteration += 1
                if self.iteration % self.log_every == 0:
                    values = distributed.average(metrics)
                    self._log.write(self.iteration, values)
                    bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
                bar.update()
                for callback in self.callbacks:
                    callback(self, metrics)
                if due and self.callbacks and (wrong := self._wrong()):
                    self.iteration -= 1  # not counted, as any other that fails
                    message = f"not finite: {wrong}, after the callbacks of iteration {self.iteration + 1}, which is not kept"
                    self._roll_back(FloatingPointError(message), batch)
                    bar.n = self.iteration
                elif due:
                    self.save()

    def _step(self, batch: Any) -> dict[str, Tensor]:
        parameters = self._parameters()
        device = parameters[0].device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            loss, metrics = self.objective(batch)
        self.optimizer.zero_grad()
        loss.backward()
        averaged = distributed.in_parallel(self.objective, getattr(self.objective, "objective", None))
        distributed.average_gradients(p for p in parameters if id(p) not in averaged)
        if self.grad_clip is not None:
            norm = nn.utils.clip_grad_norm_(parameters, self.grad_clip)
            metrics = {**metrics, "parameter_grad_norm": norm}
        self.optimizer.step()
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(distributed.average({"loss": loss})["loss"])
        elif self.scheduler is not None:
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update()
        return {"loss": loss.detach(), **metrics}

    def _parameters(self) -> list[Tensor]:
        return held_by([self.optimizer])

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """That of the loop, and those that the objective steps by itself."""
        return [self.optimizer, *getattr(self.objective, "optimizers", ())]

    def _check(self, metrics: dict[str, Tensor], due: bool) -> None:
        """FloatingPointError where this iteration is not to be built upon; a snapshot only ever follows a look."""
        looks = self.monitor is not None and (self.iteration + 1) % self.monitor.check_every == 0
        if due or looks:
            self.objective.finish_checks()
        if self.monitor is not None and (due or looks):
            self.monitor.check(metrics, self._parameters())
        # A loss that is finite may have a gradient that is not; the next iteration would notice, behind the checkpoint.
        if due and (wrong := self._wrong()):
            raise FloatingPointError(f"not finite: {wrong}, after iteration {self.iteration + 1}, which is not kept")

    def _wrong(self) -> str:
        """Parameters that are not finite, or whose gradients are not; empty where all are."""
        wrong = not_finite(self.module, self.objective, self._optimizers())
        return ", ".join(wrong[:3] + ["..."] * (len(wrong) > 3))

    def _roll_back(self, error: FloatingPointError, batch: Any) -> None:
        """Return to the last snapshot, or to the one before where that was tried already, and begin again with new seeds."""
        monitor, failed = self.monitor, self.iteration + 1
        if monitor is None or not is_finite(batch):
            raise error
        count, history = monitor.num_rollbacks + 1, monitor.history
        if count > monitor.max_rollbacks:
            raise FloatingPointError(
                f"iteration {failed} diverged after {monitor.max_rollbacks} roll-backs (max_rollbacks): {error}"
            ) from error
        while not _finishes(self.objective):  # answers still under way about iterations that no longer count
            pass
        if self._rolled_back:
            self._snapshots.drop_latest()
        # Batches go on: other data is another chance, and their order is not the model's.
        self._load(self._snapshots.latest(), but=("batches",))
        monitor.begin_again(count, self.objective, self.optimizer, self.scheduler)
        monitor.history = [*history, (failed, self.iteration, str(error))]
        self._rolled_back = True
        self._log.rewind(self.iteration)
        warnings.warn(
            f"iteration {failed} diverged ({error}); back to {self.iteration}, roll-back {count} of {monitor.max_rollbacks}",
            RuntimeWarning,
            stacklevel=3,
        )

    def _begin(self) -> None:
        if not self._begun and self.directory is not None and latest_checkpoint(self.directory):
            raise FileExistsError(
                f"{self.directory}: holds checkpoints; call resume() first or choose another"
            )
        distributed.require_equal(self._parameters())
        self._log.rewind(self.iteration)
        if not self._begun and self.monitor is not None:
            self.save()
        self._begun = True

    def save(self) -> Path | None:
        """Write the checkpoint of this iteration and delete the oldest; returns its directory."""
        if self.directory is None and self.monitor is None:
            return None
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            generators |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
        state = {name: part.state_dict() for name, part in self._parts.items()}
        self._log.flush()
        self._rolled_back = False
        return self._snapshots.save(
            {"iteration": self.iteration, "generators": generators, "parts": state, "classes": self._classes()}
        )

    def _classes(self) -> dict[str, str]:
        """Of the parts whose state does not tell: Adam's numbers would be taken by SGD, and fail or mislead it later."""
        return {name: type(part).__name__ for name, part in self._parts.items() if name in ("optimizer", "scheduler")}

    def resume(self) -> bool:
        """Continue from the last checkpoint in `directory` (of several processes: that all of them have); False where there is
        none."""
        path = None if self.directory is None else latest_checkpoint(self.directory)
        if distributed.world_size() > 1:
            last = distributed.least(-1 if path is None else number_of(path))
            if last < 0:
                return False
            self._snapshots.drop_after(last)
        elif path is None:
            return False
        self._load(self._snapshots.latest())
        self._snapshots.prune()
        self._begun = True
        return True

    def _load(self, state: Any, but: Iterable[str] = ()) -> None:
        if state["parts"].keys() != self._parts.keys():
            raise ValueError(
                f"{self.directory}: expected the state of {sorted(self._parts)}, found {sorted(state['parts'])}"
            )
        for name, saved in state.get("classes", self._classes()).items():
            if saved != (ours := self._classes()[name]):
                raise ValueError(f"{self.directory}: expected the state of a {ours} as {name}, found that of a {saved}")
        try:
            load_all({name: part for name, part in self._parts.items() if name not in but}, state["parts"])
        except ValueError as error:
            raise ValueError(f"{self.directory}: {error}") from error
        for device, generator in state["generators"].items():
            torch.set_rng_state(generator) if device == "cpu" else torch.cuda.set_rng_state(generator, device)
        self.iteration = state["iteration"]


def _finishes(objective: Objective) -> bool:
    try:
        objective.finish_checks()
    except FloatingPointError:
        return False
    return True
