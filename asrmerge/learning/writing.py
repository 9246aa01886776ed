"""Writing merged weights that no recipe of coefficients gives: a folder that transformers loads, with its provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge import __version__
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.safetensors_file import TensorSpec
from asrmerge.checkpoints.writing import PROVENANCE_FILE, checkpoint_writer
from asrmerge.learning.method import LearnedWeights
from asrmerge.learning.recipe import LearningRecipe


def write_weights(
    recipe: LearningRecipe, learned: LearnedWeights, base: Checkpoint, experts: Mapping[str, Checkpoint], output: Path
) -> None:
    """Write what was learnt, and the base's tensors where nothing was, in the recipe's dtype, by default the base's.

    Raises:
        CheckpointError: a value leaves the range of the dtype, or there is no room.
    """
    donor = base if recipe.donor in (None, "base") else experts[recipe.donor]
    specs = {name: TensorSpec(_dtype(base.dtype(name), recipe.dtype), base.shape(name)) for name in base.names}
    config = None
    if recipe.dtype is not None:
        config = {**donor.config, "dtype" if "dtype" in donor.config else "torch_dtype": recipe.dtype}
    provenance = json.dumps(_provenance(recipe, learned, base, experts), indent=2, ensure_ascii=False) + "\n"
    extra = {PROVENANCE_FILE: provenance}
    with checkpoint_writer(output, specs, donor=donor.folder, extra_files=extra, config=config) as writer:
        for name, tensor in _tensors(learned, base):
            writer.write(name, tensor)


def _tensors(learned: LearnedWeights, base: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name in base.names:
        found = learned.tensors.get(name)
        yield name, base.read(name) if found is None else found


def _dtype(stored: torch.dtype, wanted: str | None) -> torch.dtype:
    if wanted is None or not stored.is_floating_point:
        return stored
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def _provenance(
    recipe: LearningRecipe, learned: LearnedWeights, base: Checkpoint, experts: Mapping[str, Checkpoint]
) -> dict[str, Any]:
    return {
        "asrmerge": __version__,
        "method": recipe.method,
        "parameters": recipe.method_parameters().model_dump(mode="json"),
        "recipe_sha256": recipe.hash(),
        "base": {"model": recipe.base, "sha256": base.hash()},
        "experts": [
            {
                "name": one.name,
                "model": one.model,
                "weight": 1.0 if one.weight is None else one.weight,
                "sha256": experts[one.name].hash(),
            }
            for one in recipe.experts
        ],
        **({"records": dict(sorted(learned.records.items()))} if learned.records else {}),
    }
