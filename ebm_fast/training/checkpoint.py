"""Checkpoints: safetensors plus JSON in one directory, replaced atomically, checked on loading, nothing unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FORMAT = 1
_STATE = "state.json"


def save_checkpoint(path: str | Path, state: Any) -> Path:
    """Write `state` to the directory `path`; returns the directory.

    `state` is any nesting of dict (any str, int, float, bool or None keys), list and tuple over tensors, numbers,
    strings, booleans and None, such as `optimizer.state_dict()`. Tensors go to `tensors-<digest>.safetensors`, the
    rest to `state.json`, which names the digest. Both files are written beside their final names and flushed to the
    disk; the renaming of `state.json` is the single atomic moment at which the new checkpoint replaces an older one,
    so that a kill at any time leaves the one or the other whole. Raises TypeError naming the entry that cannot be kept.
    """
    from safetensors.torch import save

    path = Path(path)
    tensors: dict[str, Tensor] = {}
    encoded = _encode(state, "state", tensors)
    payload = save(tensors)
    digest = _digest(payload, encoded)
    document = json.dumps({"format": _FORMAT, "sha256": digest, "state": encoded}, indent=1, allow_nan=False)

    path.mkdir(parents=True, exist_ok=True)
    tensor_file = _tensor_file(path, digest)
    write_atomically(tensor_file, payload)
    write_atomically(path / _STATE, document.encode())
    for stale in path.glob("tensors-*"):
        if stale != tensor_file:
            stale.unlink(missing_ok=True)
    return path


def load_checkpoint(path: str | Path) -> Any:
    """The state that `save_checkpoint` wrote to the directory `path`, bit for bit, its tensors on the CPU.

    Raises FileNotFoundError where there is no complete checkpoint, and ValueError naming the file where one is
    truncated, altered (SHA-256 over both files), nested too deeply or of a later format.
    """
    try:
        return _load(Path(path))
    except RecursionError as error:
        raise ValueError(
            f"{Path(path) / _STATE}: nested too deeply for a checkpoint's JSON: {error}"
        ) from error


def _load(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    state_file = path / _STATE
    if not state_file.is_file():
        raise FileNotFoundError(f"{path}: expected a checkpoint directory with {_STATE}, found none")
    try:
        document = json.loads(state_file.read_bytes())
        version, digest, encoded = document["format"], document["sha256"], document["state"]
        tensor_file = _tensor_file(path, digest)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{state_file}: expected a checkpoint's JSON; it is corrupt or truncated: {error}"
        ) from error
    if version != _FORMAT:
        raise ValueError(f"{state_file}: expected checkpoint format {_FORMAT}, got {version!r}")
    if not tensor_file.is_file():
        raise FileNotFoundError(f"{tensor_file}: the checkpoint's tensors are missing")
    payload = tensor_file.read_bytes()
    if _digest(payload, encoded) != digest:
        raise ValueError(
            f"{path}: SHA-256 differs from the recorded one: the checkpoint is corrupt or truncated"
        )
    try:
        return _decode(encoded, load(payload))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{tensor_file}: not readable as safetensors: {error}") from error


def latest_checkpoint(directory: str | Path) -> Path | None:
    """The complete checkpoint in `directory` whose name ends in the greatest number, or None.

    Directories that a kill left without their `state.json` do not count.
    """
    found = complete_checkpoints(directory)
    return found[-1] if found else None


def complete_checkpoints(directory: str | Path) -> list[Path]:
    """The checkpoints in `directory` whose names end in a number, by that number."""
    found = [entry for entry in Path(directory).glob("*") if re.search(r"\d$", entry.name) and (entry / _STATE).is_file()]
    return sorted(found, key=lambda path: (number_of(path), path))


def number_of(path: Path) -> int:
    """What the name of a checkpoint ends in."""
    return int(re.findall(r"\d+$", path.name)[0])


def delete_checkpoint(path: str | Path) -> None:
    """Remove a checkpoint so that a kill meanwhile leaves nothing that looks complete."""
    (Path(path) / _STATE).unlink(missing_ok=True)
    shutil.rmtree(path)


def _tensor_file(path: Path, digest: str) -> Path:
    return path / f"tensors-{digest[:16]}.safetensors"


def _digest(payload: bytes, encoded: Any) -> str:
    text = json.dumps(encoded, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(payload + text.encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write and flush `<path>.partial`, then rename it to `path`."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    if os.name == "posix":  # the renaming itself is durable only once the directory is flushed
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """JSON that tells apart what JSON does not: a one-key object `{"$kind": ...}` marks everything not plain JSON."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise TypeError(f"{where}: expected a dense real tensor, got {value.dtype} {value.layout}")
        name = f"{len(tensors)}:{where}"
        # A copy, because safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": name}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, f"{where}[{i}]", tensors) for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_encode(item, f"{where}[{i}]", tensors) for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if key is not None and type(key) not in (bool, int, float, str):
                raise TypeError(f"{where}: expected keys of type str, int, float, bool or None, got {key!r}")
        items = {key: _encode(item, f"{where}[{key!r}]", tensors) for key, item in value.items()}
        if all(type(key) is str and not key.startswith("$") for key in items):
            return items
        return {"$dict": [[_encode(key, where, tensors), item] for key, item in items.items()]}
    raise TypeError(
        f"{where}: expected dict, list, tuple, tensor, int, float, str, bool or None, got {type(value).__name__}"
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if not kind.startswith("$"):
        return {key: _decode(item, tensors) for key, item in value.items()}
    content = value[kind]
    if kind == "$tensor":
        return tensors[content]
    if kind == "$float":
        return float(content)
    if kind == "$tuple":
        return tuple(_decode(item, tensors) for item in content)
    if kind == "$dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in content}
    raise ValueError(f"unknown entry {kind}")
