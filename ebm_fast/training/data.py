"""Data: scikit-learn's digits, IDX files (MNIST, Fashion-MNIST), CIFAR-10, and a resumable stream of batches."""

from __future__ import annotations

import gzip
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebm_fast.training.distributed import Rank
from ebm_fast.training.shuffle import shuffle_keys

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMS = 8
_CHUNK = 1 << 20
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane, row by row


class Images(NamedTuple):
    """Images (n, channels, height, width), float32 in [-1, 1], and labels (n,), int64."""

    images: Tensor
    labels: Tensor


class Split(NamedTuple):
    """Two disjoint parts of one data set."""

    train: Images
    held_out: Images


def load_digits(split_seed: int = 0) -> Split:
    """x = pixel / 8 - 1: the 1797 digits of scikit-learn, images (n, 1, 8, 8) in [-1, 1], split in two halves.

    The split (899 train, 898 held out) depends on `split_seed` alone. Source: UCI, Optical Recognition of
    Handwritten Digits, as bundled with scikit-learn (nothing is downloaded).
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    images = torch.from_numpy(bunch.images).float().div_(8.0).sub_(1.0).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    order = shuffle_keys(len(images), seed=split_seed, step=0, purpose="shuffle", device="cpu").argsort()
    half = (len(images) + 1) // 2
    first, second = order[:half], order[half:]
    return Split(Images(images[first], labels[first]), Images(images[second], labels[second]))


def load_idx(path: str | Path) -> Tensor:
    """The tensor in an IDX file, plain or gzip (told apart by content), in the file's own type and shape.

    Layout: bytes 0, 0, type, number of dimensions; each dimension as a big-endian uint32; then the elements,
    big-endian, last dimension fastest. Types: uint8, int8, int16, int32, float32, float64.
    Raises FileNotFoundError, and ValueError naming the file, what was expected and what came, for a wrong magic
    number, more than 8 dimensions, a truncated or overlong payload, and a corrupt gzip stream. Source: http://yann.lecun.com/exdb/mnist.
    """
    path = Path(path)
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            magic = stream.read(4)
            if (
                len(magic) < 4
                or magic[:2] != b"\0\0"
                or magic[2] not in _IDX_DTYPES
                or not 1 <= magic[3] <= _MAX_DIMS
            ):
                raise ValueError(
                    f"{path}: expected an IDX file, which starts with 00 00, a type of "
                    f"{{{', '.join(f'{t:02x}' for t in _IDX_DTYPES)}}} and a number of dimensions in 1..{_MAX_DIMS}; "
                    f"it starts with {magic.hex(' ') or 'nothing (empty file)'}"
                )
            dtype = np.dtype(_IDX_DTYPES[magic[2]])
            header = stream.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise ValueError(
                    f"{path}: truncated: expected {magic[3]} dimensions of 4 bytes, got {len(header)} bytes"
                )
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
            expected = math.prod(shape) * dtype.itemsize
            # In pieces, because the size that a corrupt header claims must not be allocated.
            payload = bytearray()
            while len(payload) <= expected and (piece := stream.read(_CHUNK)):
                payload += piece
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path}: expected a whole gzip stream; it is corrupt or truncated: {error}"
            ) from error
    if len(payload) != expected:
        found = f"at least {len(payload)}" if len(payload) > expected else f"only {len(payload)}"
        raise ValueError(f"{path}: expected {expected} bytes of data for {dtype.name} {shape}, found {found}")
    # Without elements the length says nothing about the other sizes, which a tensor's strides must be able to hold.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 1 << 63:
        raise ValueError(f"{path}: expected sizes whose product is below 2^63 bytes, got {shape}")
    array = np.frombuffer(payload, dtype).reshape(shape)
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=True))


def load_mnist(root: str | Path, train: bool = True) -> Images:
    """x = pixel / 127.5 - 1: MNIST from its four IDX files in the folder `root`, images (n, 1, 28, 28).

    The files keep their standard names, with or without .gz. Raises FileNotFoundError naming what was looked for
    and where to get it, ValueError for corrupt files. Source: LeCun, Cortes, Burges.
    """
    return _load_idx_images(Path(root), train, "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/")


def load_fashion_mnist(root: str | Path, train: bool = True) -> Images:
    """x = pixel / 127.5 - 1: Fashion-MNIST, files and errors as in `load_mnist`. Source: Xiao, Rasul, Vollgraf 2017."""
    return _load_idx_images(
        Path(root), train, "Fashion-MNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    )


def _load_idx_images(root: Path, train: bool, name: str, url: str) -> Images:
    part = "train" if train else "t10k"
    files = [_find(root, f"{part}-{kind}-ubyte", name, url) for kind in ("images-idx3", "labels-idx1")]
    images, labels = load_idx(files[0]), load_idx(files[1])
    for path, tensor, dims in ((files[0], images, 3), (files[1], labels, 1)):
        if tensor.dtype != torch.uint8 or tensor.dim() != dims:
            raise ValueError(
                f"{path}: expected uint8 of {dims} dimension(s) for {name}, got {tensor.dtype} {tuple(tensor.shape)}"
            )
    if len(images) != len(labels):
        raise ValueError(f"{files[0]} holds {len(images)} images, but {files[1]} holds {len(labels)} labels")
    return Images(images.unsqueeze(1).float().div_(127.5).sub_(1.0), labels.long())


def _find(root: Path, stem: str, name: str, url: str) -> Path:
    candidates = [root / stem, root / f"{stem}.gz"]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{name}: found neither {candidates[0]} nor {candidates[1]}; download {stem}.gz from {url} into {root}"
    )


def load_cifar10(root: str | Path, train: bool = True) -> Images:
    """x = pixel / 127.5 - 1: CIFAR-10 from its binary files, images (n, 3, 32, 32) in RGB.

    `root` is the folder of data_batch_1.bin ... data_batch_5.bin and test_batch.bin, or the one that holds it as
    cifar-10-batches-bin. Warns where only a part of the five training files is there, and reads that part.
    Raises FileNotFoundError naming what was looked for and where to get it, ValueError for a file that is no whole number of
    records (label, 3072 bytes) or has a label above 9. Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    root = Path(root)
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] if train else ["test_batch.bin"]
    folders = [root, root / "cifar-10-batches-bin"]
    files = next((found for folder in folders if (found := [folder / n for n in names if (folder / n).is_file()])), [])
    if not files:
        raise FileNotFoundError(
            f"CIFAR-10: found {names[0]} neither in {root} nor in {folders[1]}; download {_CIFAR_URL} and unpack it there"
        )
    if len(files) < len(names):
        warnings.warn(
            f"CIFAR-10: {files[0].parent} holds {len(files)} of the {len(names)} training files, {len(files)} are read",
            UserWarning, stacklevel=2,
        )  # fmt: skip
    records = np.concatenate([_cifar_records(path) for path in files])
    images = torch.from_numpy(records[:, 1:]).float().div_(127.5).sub_(1.0).view(-1, 3, 32, 32)
    return Images(images, torch.from_numpy(records[:, 0]).long())


def _cifar_records(path: Path) -> np.ndarray:  # (n, 3073) uint8
    content = path.read_bytes()
    if not content or len(content) % _CIFAR_RECORD:
        raise ValueError(
            f"{path}: expected records of {_CIFAR_RECORD} bytes (label, 32x32 RGB image), got {len(content)} bytes, which is "
            f"{len(content) // _CIFAR_RECORD} records and {len(content) % _CIFAR_RECORD} bytes"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    wrong = np.flatnonzero(records[:, 0] > 9)
    if len(wrong):
        raise ValueError(f"{path}: expected labels in 0..9, record {wrong[0]} has label {records[wrong[0], 0]}")
    return records


class BatchStream(Iterator[Any]):
    """Endless shuffled batches; the order of an epoch is a function of (seed, epoch) alone.

    `tensors`: one tensor (n, ...), which yields tensors (batch, ...), or a sequence of tensors of equal n, which
    yields tuples. Batches stay on the device of the data. With `drop_last` every batch has `batch_size` rows, else
    an epoch ends with a smaller one. `rank`: the batch is that of all processes, of which this one gets its share of rows.
    `state_dict()` holds the epoch and the position for an exact resume.
    Raises TypeError for what is no tensor, ValueError for empty data, unequal lengths, a bad batch size, a foreign state.
    """

    def __init__(
        self,
        tensors: Tensor | Sequence[Tensor],
        batch_size: int,
        seed: int = 0,
        drop_last: bool = True,
        *,
        rank: Rank | None = None,
    ) -> None:
        self.single = isinstance(tensors, Tensor)
        parts = tensors if isinstance(tensors, (tuple, list)) else (tensors,)
        if wrong := [type(part).__name__ for part in parts if not isinstance(part, Tensor)]:
            raise TypeError(f"tensors: expected a tensor or several, got {', '.join(wrong[:4])} (see torch.as_tensor)")
        self.tensors: tuple[Tensor, ...] = tuple(parts)
        lengths = [len(t) if t.dim() else 0 for t in self.tensors]
        if not lengths or min(lengths) == 0:
            raise ValueError(f"tensors: expected data with at least one row, got lengths {lengths}")
        if len(set(lengths)) > 1:
            raise ValueError(f"tensors: expected equal lengths, got {lengths}")
        self.num_rows = lengths[0]
        if type(batch_size) is not int or batch_size < 1 or (drop_last and batch_size > self.num_rows):
            bound = f"1..{self.num_rows} (drop_last=True leaves no batch otherwise)" if drop_last else ">= 1"
            raise ValueError(f"batch_size: expected an int, {bound}, got {batch_size!r}")
        if type(seed) is not int or not 0 <= seed < 1 << 64:
            raise ValueError(f"seed: expected an integer in 0..2**64-1, got {seed!r}")
        if rank is not None and rank.world > 1 and not drop_last:
            raise ValueError("drop_last: expected True with several processes, whose last batch could not be shared evenly")
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        rank = rank or Rank()
        self.share = slice(rank.offset(batch_size, "batch_size"), rank.offset(batch_size) + rank.share(batch_size))
        self.epoch = self.position = 0
        self._order: Tensor | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the data."""
        return self.num_rows // self.batch_size if self.drop_last else -(-self.num_rows // self.batch_size)

    def __next__(self) -> Any:
        if self.position >= self.batches_per_epoch:
            self.epoch, self.position, self._order = self.epoch + 1, 0, None
        if self._order is None:
            keys = shuffle_keys(
                self.num_rows,
                seed=self.seed,
                step=self.epoch,
                purpose="shuffle",
                device=self.tensors[0].device,
            )
            self._order = keys.argsort()
        start = self.position * self.batch_size
        rows = self._order[start : start + self.batch_size][self.share]
        self.position += 1
        batch = tuple(t[rows.to(t.device)] for t in self.tensors)
        return batch[0] if self.single else batch

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "batch_size": self.batch_size, "num_rows": self.num_rows}

    def state_dict(self) -> dict[str, int]:
        """The position, and what it belongs to."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a recorded position of the same stream."""
        found = {name: state.get(name) for name in self._identity()}
        if found != self._identity():
            raise ValueError(f"state: belongs to a stream with {found}, this one has {self._identity()}")
        self.epoch, self.position, self._order = int(state["epoch"]), int(state["position"]), None
