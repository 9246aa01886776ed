"""Weight files: which ones a folder has, and lazy reading of one tensor at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import CheckpointError

_SINGLE = ("model.safetensors", "pytorch_model.bin")


class WeightFile(Protocol):
    """One file of weights, opened: names are known, values are read on demand."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def read(self, name: str) -> Tensor: ...

    def read_elements(self, name: str, start: int, stop: int) -> Tensor: ...


def find_weight_files(folder: Path) -> tuple[Path, ...]:
    """The folder's weight files, sorted; safetensors before pickles, as transformers chooses.

    Raises:
        CheckpointError: no weights, an unreadable index, or a shard of the index that is missing.
    """
    for name in _SINGLE:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise CheckpointError(f"{folder} has no weights: it needs {' or '.join(_SINGLE)}, whole or sharded with an index.")


def open_weight_file(path: Path) -> WeightFile:
    """``path`` opened for lazy reading.

    Raises:
        CheckpointError: the file is truncated, or is not of the kind that its name says.
    """
    return SafetensorsReader(path) if path.suffix == ".safetensors" else _Pickle(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``.

    Raises:
        CheckpointError: the file is missing or corrupt.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: give a folder that save_pretrained wrote.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): copy it again from where the model came from.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(content).__name__}: copy it again.")
    return content


def _shards(index: Path) -> tuple[Path, ...]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"{index} has no weight_map: copy it again from where the model came from.")
    files = tuple(index.parent / name for name in sorted({str(name) for name in mapping.values()}))
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, but {index.name} lists it: copy the missing shard into the folder.")
    return files


class _Pickle:
    def __init__(self, path: Path) -> None:
        try:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files from before PyTorch 1.6 are no zip archives and cannot be mapped
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds here: UnpicklingError, EOFError, RuntimeError, OSError, …
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
            raise CheckpointError(
                f"{path} is truncated or no plain state dict ({reason}): copy it again, or save the model as safetensors."
            ) from error
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise CheckpointError(f"{path} holds more than tensors: save the model again with save_pretrained.")
        self._state: dict[str, Tensor] = state

    def names(self) -> list[str]:
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._state[name].dtype

    def read(self, name: str) -> Tensor:
        # A copy: entries of a pickle may share storage with each other and with the mapped file.
        return self._state[name].detach().clone()

    def read_elements(self, name: str, start: int, stop: int) -> Tensor:
        return self._state[name].detach().flatten()[start:stop].clone()
