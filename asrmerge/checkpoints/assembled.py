"""A checkpoint put together from the tensors of others, under names of its own, read like one on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Part:
    """A tensor of another checkpoint, multiplied by ``scale``."""

    checkpoint: Checkpoint
    name: str
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class AssembledCheckpoint(Checkpoint):
    """Tensors of several checkpoints; ``folder``, with vocabulary and processor, is one of theirs.

    Scaled tensors are read in float32, so that a merge rounds to the stored dtype once; all others come bit for bit.
    """

    parts: Mapping[str, Part] = field(kw_only=True, repr=False)

    @classmethod
    def join(cls, donor: Checkpoint, config: Mapping[str, Any], parts: Mapping[str, Part], label: str) -> AssembledCheckpoint:
        """``parts`` by their new names, with ``config`` and with everything else from ``donor``."""
        files = {path: None for part in parts.values() for path in part.checkpoint.weight_files}
        return cls(label, donor.folder, config, tuple(files), {}, parts=parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, sorted."""
        return tuple(sorted(self.parts))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter, from its file's header."""
        part = self._part(name)
        return part.checkpoint.shape(part.name)

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of a parameter, from its file's header."""
        part = self._part(name)
        return part.checkpoint.dtype(part.name)

    def read(self, name: str) -> Tensor:
        """The parameter's values: in the stored dtype, or float32 where they are scaled.

        Raises:
            CheckpointError: no such parameter, or as the source's ``read``.
        """
        part = self._part(name)
        return _scaled(part.checkpoint.read(part.name), part.scale)

    def read_elements(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened parameter: [stop − start].

        Raises:
            CheckpointError: as :meth:`read`.
        """
        part = self._part(name)
        return _scaled(part.checkpoint.read_elements(part.name, start, stop), part.scale)

    def hash(self) -> str:
        """SHA-256 of which tensors these are, and of their checkpoints' hashes."""
        sources = {id(part.checkpoint): part.checkpoint for part in self.parts.values()}
        hashes = {key: checkpoint.hash() for key, checkpoint in sources.items()}
        lines = [
            f"{name} {hashes[id(part.checkpoint)]} {part.name} {part.scale!r}\n" for name, part in sorted(self.parts.items())
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _part(self, name: str) -> Part:
        try:
            return self.parts[name]
        except KeyError:
            raise CheckpointError(f"{self.label} has no tensor {name}: it has {len(self.parts)} others.") from None


def _scaled(tensor: Tensor, scale: float) -> Tensor:
    return tensor if scale == 1 or not tensor.is_floating_point() else tensor.to(torch.float32) * scale
