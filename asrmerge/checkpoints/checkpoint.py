"""Checkpoints on disk, read lazily: one tensor at a time, one name per parameter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge.checkpoints.hub import locate
from asrmerge.checkpoints.names import canonical_name, tied_names
from asrmerge.checkpoints.storage import WeightFile, find_weight_files, open_weight_file, read_json
from asrmerge.checkpoints.vocabulary import read_vocabulary
from asrmerge.errors import CheckpointError


@dataclass(frozen=True)
class _Stored:
    """Where a parameter lies, under which name; and the same tensor's other name, where a tied weight was stored twice."""

    file: WeightFile
    name: str
    tied: tuple[WeightFile, str] | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights on disk with their configuration. Files stay mapped while the object lives; values are read on demand."""

    label: str  # as the user wrote it: a path or a hub id
    folder: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    _tensors: Mapping[str, _Stored] = field(repr=False)

    @classmethod
    def open(cls, source: str | Path, revision: str | None = None) -> Checkpoint:
        """Open a local folder or a hub id: safetensors or ``pytorch_model.bin``, whole or sharded; or a LoRA adapter, over the
        base that it names.

        Raises:
            CheckpointError: missing, incomplete or corrupt; the message names the file and the remedy.
        """
        folder = locate(source, revision)
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            from asrmerge.adapters import open_adapted  # here, because adapters are built on checkpoints

            return open_adapted(source, revision=revision)
        config = read_json(folder / "config.json")
        files = find_weight_files(folder)
        return cls(str(source), folder, config, files, _index(files, tied_names(config)))

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, sorted; tied weights once."""
        return tuple(sorted(self._tensors))

    @property
    def model_type(self) -> str:
        """The transformers model type, such as ``whisper`` or ``wav2vec2``; empty where the configuration has none."""
        return str(self.config.get("model_type", ""))

    def vocabulary(self) -> dict[int, str] | None:
        """Row of the head or of the embedding → token; None where no file says it.

        Raises:
            CheckpointError: the tokenizer's files are corrupt.
        """
        rows = self.config.get("vocab_size")
        return read_vocabulary(self.folder, rows if isinstance(rows, int) else None)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter, from the file's header."""
        stored = self._stored(name)
        return stored.file.shape(stored.name)

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of a parameter, from the file's header."""
        stored = self._stored(name)
        return stored.file.dtype(stored.name)

    def read(self, name: str) -> Tensor:
        """The parameter's values, in the stored dtype.

        Raises:
            CheckpointError: no such parameter, or a tied weight stored twice with different values.
        """
        stored = self._stored(name)
        tensor = stored.file.read(stored.name)
        if stored.tied is not None:
            file, other = stored.tied
            if not torch.equal(tensor, file.read(other)):
                raise CheckpointError(
                    f"{stored.name} and {other} in {self.folder} are tied in config.json but differ: set tie_word_embeddings to "
                    "false if they were trained apart, else save the model again."
                )
        return tensor

    def read_elements(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened parameter, in the stored dtype: [stop − start].

        Raises:
            CheckpointError: as :meth:`read`.
        """
        stored = self._stored(name)
        if stored.tied is not None:  # both are compared as a whole
            return self.read(name).flatten()[start:stop]
        return stored.file.read_elements(stored.name, start, stop)

    def hash(self) -> str:
        """SHA-256 of the weight files' bytes in the order of their names; of a single file, what sha256sum prints.

        They are read once: of large models, that is minutes.
        """
        return self._hash

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        for path in self.weight_files:
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    def _stored(self, name: str) -> _Stored:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.folder} has no tensor {name}: it has {len(self._tensors)} others.") from None


def _index(files: tuple[Path, ...], ties: Mapping[str, str]) -> dict[str, _Stored]:
    tensors: dict[str, _Stored] = {}
    seconds: dict[str, _Stored] = {}
    for path in files:
        file = open_weight_file(path)
        for name in file.names():
            canonical = canonical_name(name)
            chosen = seconds if canonical in ties else tensors
            if canonical in chosen:
                raise CheckpointError(f"{path} holds {canonical} a second time: save the model again with save_pretrained.")
            chosen[canonical] = _Stored(file, name)
    for second, stored in seconds.items():
        first = tensors.get(ties[second])
        # Only the second name may be stored: then it stands for the parameter.
        tensors[ties[second]] = stored if first is None else _Stored(first.file, first.name, (stored.file, stored.name))
    return tensors
