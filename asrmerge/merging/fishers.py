"""Fisher files of a recipe's experts: the diagonal of the Fisher information of each parameter, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.ctc_vocabulary import is_head
from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.checkpoints.vocabulary_alignment import AlignedCheckpoint
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging.recipe import RecipeExpert


@dataclass(frozen=True, eq=False)
class Fisher:
    """One expert's file. Rows of a CTC head are put where the expert's own are; tokens that it lacks have zero."""

    file: SafetensorsReader
    expert: Checkpoint

    def read(self, name: str) -> Tensor:
        """The diagonal of a parameter, float32, in the shape that the merge gives it."""
        diagonal = self.file.read(name).to(torch.float32)
        return self.expert.spread(name, diagonal) if isinstance(self.expert, AlignedCheckpoint) else diagonal

    def read_elements(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened diagonal, float32: [stop − start]."""
        if is_head(name):
            return self.read(name).flatten()[start:stop]
        return self.file.read_elements(name, start, stop).to(torch.float32)


def open_fishers(
    experts: Sequence[RecipeExpert], checkpoints: Sequence[Checkpoint], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Fisher, ...]:
    """One per expert, in their order, or none at all; ``shapes``: of the parameters that are merged.

    Raises:
        ConfigError: some experts have a file and others don't.
        CheckpointError: a file is missing, truncated or no safetensors file.
        IncompatibleError: a file lacks a parameter, or has another shape for it.
    """
    lacking = [expert.name for expert in experts if expert.fisher is None]
    if len(lacking) == len(experts):
        return ()
    if lacking:
        raise ConfigError(
            f"recipe: the expert {lacking[0]} has no Fisher file but others have; give 'fisher' for all or for none."
        )
    found = []
    for expert, checkpoint in zip(experts, checkpoints, strict=True):
        path = Path(str(expert.fisher)).expanduser()
        if not path.is_file():
            raise CheckpointError(f"{path}, the Fisher file of the expert {expert.name}, does not exist: correct 'fisher' there.")
        fisher = Fisher(SafetensorsReader(path), checkpoint)
        for name, shape in shapes.items():
            _check(fisher, name, shape)
        found.append(fisher)
    return tuple(found)


def _check(fisher: Fisher, name: str, shape: tuple[int, ...]) -> None:
    path = fisher.file.path
    if name not in fisher.file.names():
        raise IncompatibleError(f"{path} has no tensor {name}: compute the Fisher of this expert again.")
    given = fisher.file.shape(name)
    own = fisher.expert.source.shape(name) if isinstance(fisher.expert, AlignedCheckpoint) and is_head(name) else shape
    if given not in (shape, own):
        raise IncompatibleError(
            f"{name} has shape {list(given)} in {path} and {list(own)} in the model: compute the Fisher of this expert again."
        )
