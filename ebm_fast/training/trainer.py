"""A short training loop that can be killed at any time and resumed to the bit-identical model."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ebm_fast.training.checkpoint import (
    complete_checkpoints,
    delete_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from ebm_fast.training.ema import EMA


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

    `module`: the energy whose parameters `optimizer` holds. `grad_clip`: bound on the norm of the whole gradient.
    `directory`: where `log.csv` (a row every `log_every` iterations) and `iteration-N/` (a checkpoint every
    `checkpoint_every` iterations and at the end, the last `keep` of them) go; None writes nothing.
    `callbacks`: called as f(trainer, metrics) after each iteration, before its checkpoint.
    `resume()` continues from the last checkpoint: model, optimiser, schedule, EMA, objective (buffer, counters),
    batches, torch's generators and log are then those of the uninterrupted run, bit for bit.
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
        callbacks: Sequence[Callable[[Trainer, dict[str, Tensor]], None]] = (),
        progress: bool = True,
    ) -> None:
        for name, value in (("checkpoint_every", checkpoint_every), ("keep", keep), ("log_every", log_every)):
            if value < 1:
                raise ValueError(f"{name}: expected >= 1, got {value}")
        if grad_clip is not None and not grad_clip > 0.0:
            raise ValueError(f"grad_clip: expected None or > 0, got {grad_clip}")
        self.module, self.objective, self.optimizer, self.batches = module, objective, optimizer, batches
        self.ema, self.scheduler, self.grad_clip = ema, scheduler, grad_clip
        self.directory = None if directory is None else Path(directory)
        self.checkpoint_every, self.keep, self.log_every = checkpoint_every, keep, log_every
        self.callbacks, self.progress = tuple(callbacks), progress
        self.iteration = 0
        named = {"module": module, "objective": objective, "optimizer": optimizer, "batches": batches}
        optional = {"ema": ema, "scheduler": scheduler}
        self._parts: dict[str, Any] = named | {
            name: part for name, part in optional.items() if part is not None
        }

    def fit(self, num_iterations: int) -> None:
        """Train until `num_iterations` iterations are done in all, those before a resume included.

        Raises FileExistsError rather than mix a new run with the checkpoints of another.
        """
        from tqdm.auto import tqdm

        if num_iterations < self.iteration:
            raise ValueError(f"num_iterations: {self.iteration} are done already, got {num_iterations}")
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            if self.iteration == 0 and latest_checkpoint(self.directory):
                raise FileExistsError(
                    f"{self.directory}: holds checkpoints; call resume() first or choose another"
                )
            self._trim_log(self.directory / "log.csv")
        with tqdm(total=num_iterations, initial=self.iteration, disable=not self.progress, unit="it") as bar:
            while self.iteration < num_iterations:
                metrics = self._step(next(self.batches))
                self.iteration += 1
                if self.iteration % self.log_every == 0:
                    values = {name: value.item() for name, value in metrics.items()}
                    self._append_log({"iteration": self.iteration, **values})
                    bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
                bar.update()
                for callback in self.callbacks:
                    callback(self, metrics)
                if self.iteration % self.checkpoint_every == 0 or self.iteration == num_iterations:
                    self.objective.finish_checks()
                    self.save()

    def _step(self, batch: Any) -> dict[str, Tensor]:
        loss, metrics = self.objective(batch)
        self.optimizer.zero_grad()
        loss.backward()
        if self.grad_clip is not None:
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.grad_clip)
            metrics = {**metrics, "parameter_grad_norm": norm}
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update()
        return {"loss": loss.detach(), **metrics}

    def save(self) -> Path | None:
        """Write the checkpoint of this iteration and delete the oldest; returns its directory."""
        if self.directory is None:
            return None
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            generators |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
        state = {name: part.state_dict() for name, part in self._parts.items()}
        path = self.directory / f"iteration-{self.iteration}"
        save_checkpoint(path, {"iteration": self.iteration, "generators": generators, "parts": state})
        for old in complete_checkpoints(self.directory)[: -self.keep]:
            delete_checkpoint(old)
        return path

    def resume(self) -> bool:
        """Continue from the last checkpoint in `directory`; False where there is none."""
        path = None if self.directory is None else latest_checkpoint(self.directory)
        if path is None:
            return False
        state = load_checkpoint(path)
        if state["parts"].keys() != self._parts.keys():
            raise ValueError(
                f"{path}: expected the state of {sorted(self._parts)}, found {sorted(state['parts'])}"
            )
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        for device, generator in state["generators"].items():
            torch.set_rng_state(generator) if device == "cpu" else torch.cuda.set_rng_state(generator, device)
        self.iteration = state["iteration"]
        return True

    def _append_log(self, row: dict[str, float]) -> None:
        if self.directory is not None:
            with (self.directory / "log.csv").open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)

    def _trim_log(self, path: Path) -> None:
        """Drop the rows that a killed run wrote after its last checkpoint, a half-written one among them."""
        rows = list(csv.reader(path.read_text().splitlines())) if path.is_file() else []
        kept = [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) <= self.iteration]
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows[:1] + kept if kept else [])
        write_atomically(path, text.getvalue().encode())
