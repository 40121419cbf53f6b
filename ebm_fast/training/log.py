"""What a run measured: rows of log.csv and scalars for TensorBoard, every iteration once, also after a resume or roll-back."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Protocol

from ebm_fast.training.checkpoint import write_atomically


class Writer(Protocol):
    """What is asked of a TensorBoard writer; torch.utils.tensorboard.SummaryWriter is one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...
    def flush(self) -> Any: ...


class RunLog:
    """`write(iteration, values)` adds a row to `directory`/log.csv and a point to every curve in `directory`/tensorboard/.

    Metrics that come later, with another objective after a resume, get columns of their own; what a row does not know is empty.
    `tensorboard`: True, or a writer of the user's own, which is given each point and never closed. Without a directory there is
    no log.csv. Raises ValueError for True without a directory, TypeError for no writer, ModuleNotFoundError where the
    package tensorboard is missing.
    """

    def __init__(self, directory: Path | None, tensorboard: bool | Writer = False) -> None:
        if tensorboard is True and directory is None:
            raise ValueError("tensorboard: True writes into directory, which is None; give a directory or a writer")
        if not isinstance(tensorboard, bool) and not callable(getattr(tensorboard, "add_scalar", None)):
            raise TypeError(
                f"tensorboard: expected True, False or a writer with add_scalar, got {type(tensorboard).__name__}"
            )
        self.directory = directory
        self._columns: list[str] = []  # of log.csv, once they are known
        self._makes_writer = tensorboard is True
        self._writer: Any = None if isinstance(tensorboard, bool) else tensorboard
        if self._makes_writer:
            _summary_writer()

    def rewind(self, iteration: int) -> None:
        """Drop what is known of later iterations: a killed run's rows, a half-written one among them, or a roll-back's."""
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._columns = _trim(self.directory / "log.csv", iteration)
        if self._makes_writer:
            self.close()
            assert self.directory is not None
            # A new file that tells TensorBoard to forget the points from that step on in the files before it.
            self._writer = _summary_writer()(str(self.directory / "tensorboard"), purge_step=iteration + 1)

    def write(self, iteration: int, values: dict[str, float]) -> None:
        """One row, one point of each curve."""
        if self.directory is not None:
            row = {"iteration": iteration, **values}
            path = self.directory / "log.csv"
            if new := [name for name in row if name not in self._columns]:
                self._columns = _widen(path, new)
            with path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)

    def flush(self) -> None:
        """On the disk, before a checkpoint counts on it."""
        if self._writer is not None and hasattr(self._writer, "flush"):
            self._writer.flush()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the writer, if it was made here."""
        if self._makes_writer and self._writer is not None:
            self._writer.close()
            self._writer = None


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError("tensorboard=True needs the package: pip install 'ebm_fast[tensorboard]'") from error
    return SummaryWriter


def _trim(path: Path, iteration: int) -> list[str]:
    """Drop the rows of later iterations, and what is no whole row; the columns that are left."""
    rows = _rows(path)
    kept = [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) <= iteration]
    table = rows[:1] + kept if kept else []
    _replace(path, table)
    return table[0] if table else []


def _widen(path: Path, new: list[str]) -> list[str]:
    """Add columns, empty in the rows that are there; all columns."""
    rows = _rows(path)
    columns = list(dict.fromkeys([*(rows[0] if rows else []), *new]))
    _replace(path, [columns, *(row + [""] * (len(columns) - len(row)) for row in rows[1:])])
    return columns


def _rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines())) if path.is_file() else []


def _replace(path: Path, table: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    write_atomically(path, text.getvalue().encode())
