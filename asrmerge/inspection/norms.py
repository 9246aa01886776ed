"""Norms of a merged model's weights and task vectors beside its experts', one parameter in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.inspection.activations import ratio
from asrmerge.inspection.diagnosis import GroupNorms
from asrmerge.inspection.groups import depth, layer_of, read_unit
from asrmerge.merging.structure import plan_places
from asrmerge.merging.units import plan_units

_CHUNK = 1 << 18  # entries that are held in float64 at a time


@dataclass(frozen=True)
class Norms:
    """Of the structural groups from the input to the output, of each layer as a whole by its name, and of the whole model."""

    groups: tuple[GroupNorms, ...]
    layers: Mapping[str, GroupNorms]
    overall: GroupNorms


def measure_norms(
    merged: Checkpoint,
    experts: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Norms:
    """Compare norms; the models are known to fit each other. ``on_tensor`` is told the parameters done and their number.

    Raises:
        CheckpointError: NaN or Inf in a tensor, or a file that cannot be read.
    """
    units = plan_units({name: merged.dtype(name) for name in merged.names}, merged.model_type)
    merging = [unit for unit in units if not unit.copied]
    places = plan_places({unit.name: merged.shape(unit.members[-1]) for unit in merging}, merged.model_type)
    groups: dict[str, Tensor] = {}
    layers: dict[str, Tensor] = {}
    for done, unit in enumerate(merging, start=1):
        models = [read_unit(unit, merged, "merged"), *(read_unit(unit, one, name) for name, one in experts.items())]
        found = squares(None if base is None else read_unit(unit, base, "base"), models)
        place = places[unit.name]
        groups[place.group] = groups.get(place.group, torch.zeros_like(found)) + found
        if (layer := layer_of(place)) is not None:
            layers[layer] = layers.get(layer, torch.zeros_like(found)) + found
        on_tensor(done, len(merging))
    return Norms(
        groups=tuple(_summarize(name, groups[name], base is not None) for name in sorted(groups, key=depth)),
        layers={name: _summarize(name, total, base is not None) for name, total in layers.items()},
        overall=_summarize("all", torch.stack([*groups.values()]).sum(0), base is not None),
    )


def squares(base: Tensor | None, models: Sequence[Tensor]) -> Tensor:
    """Σθ² and Στ² of one parameter, float64 [2, models]; without a base, the latter is 0. Shapes: all the same."""
    flat = [model.reshape(-1) for model in models]
    start = None if base is None else base.reshape(-1)
    total = torch.zeros(2, len(models), dtype=torch.float64)
    for first in range(0, flat[0].numel(), _CHUNK):
        piece = slice(first, first + _CHUNK)
        for at, model in enumerate(flat):
            values = model[piece].to(torch.float64)
            total[0, at] += values @ values
            if start is not None:
                moved = values - start[piece].to(torch.float64)
                total[1, at] += moved @ moved
    return total


def _summarize(group: str, total: Tensor, has_base: bool) -> GroupNorms:
    """From the sums of squares [2, models], the merged model first."""
    norms = total.sqrt()
    (norm, moved), (expert_norm, expert_moved) = norms[:, 0].tolist(), norms[:, 1:].mean(dim=1).tolist()
    return GroupNorms(
        group=group,
        norm=norm,
        expert_norm=expert_norm,
        norm_ratio=ratio(norm, expert_norm),
        task_vector=moved if has_base else None,
        expert_task_vector=expert_moved if has_base else None,
        task_vector_ratio=ratio(moved, expert_moved) if has_base else None,
    )
