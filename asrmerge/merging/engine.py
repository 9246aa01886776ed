"""The streaming merge: one parameter at a time, in one order, float32 inside, one cast at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge import __version__
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible, read_finite
from asrmerge.checkpoints.writing import PROVENANCE_FILE, RECIPE_FILE, write_checkpoint
from asrmerge.errors import AsrmergeError, ConfigError
from asrmerge.merging.block import Block, Method, Parameters
from asrmerge.merging.recipe import Recipe
from asrmerge.merging.registry import get_method
from asrmerge.merging.units import Unit, plan_units


@dataclass(frozen=True, eq=False)
class _Merge:
    """A checked recipe with its checkpoints. Experts are sorted by name, so that sums round alike whatever the order listed."""

    method: Method
    parameters: Parameters
    base: Checkpoint | None
    experts: tuple[Checkpoint, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    donor: Checkpoint


def merge_tensors(recipe: Recipe, base: Checkpoint | None, experts: list[Checkpoint]) -> Iterator[tuple[str, Tensor]]:
    """The merged tensors by sorted name, each in the dtype of the base (without one, of the first expert listed).

    ``experts`` are the recipe's, in its order. Everything is checked in the call, before the first tensor is asked for.

    Raises:
        ConfigError: an unknown method, a wrong parameter, or a base that the method needs and the recipe lacks.
        IncompatibleError: checkpoints that don't fit together.
        CheckpointError: NaN or Inf in a tensor, when it is read.
    """
    merge = _check(recipe, base, experts)
    dtypes = {name: merge.donor.dtype(name) for name in merge.donor.names}
    return _stream(merge, plan_units(dtypes, merge.donor.model_type))


def merge_to_folder(recipe: Recipe, output: str | Path, *, hashes: Mapping[str, str] | None = None) -> None:
    """Merge into a folder that transformers loads, with ``merge_recipe.yaml`` and ``merge_provenance.json`` in it.

    The same inputs give the same bytes. ``output`` stays as it was on any failure. ``hashes`` of the models, where they are
    known already: by the experts' names, and ``base``.

    Raises:
        ConfigError: as ``merge_tensors``; ``output`` is one of the models to merge.
        CheckpointError: a model is missing, corrupt or not compatible, or ``output`` is something other than a checkpoint.
    """
    output = Path(output)
    base = Checkpoint.open(recipe.base) if recipe.base is not None else None
    experts = [Checkpoint.open(expert.model) for expert in recipe.experts]
    for checkpoint in (base, *experts):
        if checkpoint is not None and checkpoint.folder.resolve() == output.resolve():
            raise ConfigError(f"{output} is one of the models to merge and would be replaced: give another output folder.")
    tensors = merge_tensors(recipe, base, experts)
    extra = {
        RECIPE_FILE: recipe.to_yaml(),
        PROVENANCE_FILE: json.dumps(_provenance(recipe, base, experts, hashes or {}), indent=2, ensure_ascii=False) + "\n",
    }
    write_checkpoint(output, tensors, donor=base or experts[0], extra_files=extra)


def _check(recipe: Recipe, base: Checkpoint | None, experts: list[Checkpoint]) -> _Merge:
    method, parameters = get_method(recipe.method), recipe.method_parameters()
    if method.needs_base and base is None:
        raise ConfigError(
            f"recipe: the method {recipe.method} needs a base; add the key 'base' with the model that was fine-tuned."
        )
    pairs = sorted(zip(recipe.experts, experts, strict=True), key=lambda pair: pair[0].name)
    checkpoints = [*experts] if base is None else [base, *experts]
    labels = [expert.name for expert in recipe.experts]
    check_compatible(checkpoints, labels if base is None else ["base", *labels])
    return _Merge(
        method=method,
        parameters=parameters,
        base=base,
        experts=tuple(checkpoint for _, checkpoint in pairs),
        names=tuple(expert.name for expert, _ in pairs),
        weights=tuple(expert.weight for expert, _ in pairs),
        donor=checkpoints[0],
    )


def _stream(merge: _Merge, units: tuple[Unit, ...]) -> Iterator[tuple[str, Tensor]]:
    for unit in units:
        stored = _read(merge.donor, unit, "base" if merge.base is not None else merge.donor.label)
        if unit.copied:
            yield unit.name, stored[0]
            continue
        block = Block(
            name=unit.name,
            base=unit.compose(stored) if merge.base is not None else None,
            experts=[unit.compose(_read(expert, unit, name)) for name, expert in zip(merge.names, merge.experts, strict=True)],
            weights=merge.weights,
        )
        merged = merge_block(merge.method, block, merge.parameters)
        for name, tensor in zip(unit.members, unit.decompose(merged, stored), strict=True):
            yield name, tensor.to(merge.donor.dtype(name))


def merge_block(method: Method, block: Block, parameters: Parameters) -> Tensor:
    """What the method makes of the block, without gradients.

    Raises:
        AsrmergeError: the method returned another shape, as a faulty plugin might.
    """
    with torch.no_grad():
        merged = method.merge(block, parameters)
    if merged.shape != block.shape:
        raise AsrmergeError(
            f"the method {method.name} made {list(merged.shape)} of {block.name}, which has shape {list(block.shape)}: "
            "report it to the method's author."
        )
    return merged


def _read(checkpoint: Checkpoint, unit: Unit, label: str) -> list[Tensor]:
    return [read_finite(checkpoint, name, label) for name in unit.members]


def _provenance(recipe: Recipe, base: Checkpoint | None, experts: list[Checkpoint], hashes: Mapping[str, str]) -> dict[str, Any]:
    return {
        "asrmerge": __version__,
        "method": recipe.method,
        "parameters": recipe.method_parameters().model_dump(mode="json"),
        "recipe_sha256": recipe.hash(),
        "base": None if base is None else {"model": recipe.base, "sha256": hashes.get("base") or base.hash()},
        "experts": [
            {
                "name": expert.name,
                "model": expert.model,
                "weight": expert.weight,
                "sha256": hashes.get(expert.name) or checkpoint.hash(),
            }
            for expert, checkpoint in zip(recipe.experts, experts, strict=True)
        ],
    }
