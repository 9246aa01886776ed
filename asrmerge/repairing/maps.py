"""The maps of a live model that can be repaired, and in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asrmerge.checkpoints.names import canonical_name
from asrmerge.errors import ConfigError
from asrmerge.merging.recipe import has_part
from asrmerge.merging.structure import Place, matches, plan_places
from asrmerge.merging.units import Unit, plan_units, unit_shapes
from asrmerge.repairing.moments import Correction, fuse
from asrmerge.repairing.settings import RepairSettings
from asrmerge.statistics.watching import Look
from asrmerge.validation import suggest

# What gives logits: their spread is how sure the model is, which is not the mean of how sure its experts are.
_LOGITS = ("head", "embedding")


@dataclass(frozen=True, eq=False)
class LiveMap:
    """A linear layer or convolution of a live model.

    Attributes:
        unit: its weight, as merges see it: where that is weight-normed, of two tensors.
        weight: the model's own tensors of that unit.
        bias: the model's own; None where it has none.
    """

    name: str
    unit: Unit
    place: Place
    weight: tuple[Tensor, ...]
    bias: Tensor | None

    @torch.no_grad()
    def repair(self, correction: Correction) -> dict[str, Tensor]:
        """Correct it in the model; what was written, by the names of a checkpoint, float32 on the processor."""
        weight, bias = fuse(self.unit.compose(self.weight), self.bias, correction)
        written = dict(zip(self.unit.members, self.unit.decompose(weight, self.weight), strict=True))
        for target, member in zip(self.weight, self.unit.members, strict=True):
            target.copy_(written[member])
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
            written[f"{self.name}.bias"] = bias
        return {name: tensor.cpu().clone() for name, tensor in written.items()}


def find_maps(model: nn.Module, model_type: str) -> dict[str, LiveMap]:
    """Linear layers and convolutions by name, of any kind; weights that two modules share count as the first's."""
    tensors = {canonical_name(name): parameter for name, parameter in model.named_parameters()}
    units = {unit.name: unit for unit in plan_units({name: one.dtype for name, one in tensors.items()}, model_type)}
    places = plan_places(unit_shapes([*units.values()], {name: one.shape for name, one in tensors.items()}), model_type)
    found = {}
    for name, module in model.named_modules():
        unit = units.get(f"{name}.weight")
        if unit is not None and isinstance(module, (nn.Linear, nn.Conv1d)):
            weight = tuple(tensors[member] for member in unit.members)
            found[name] = LiveMap(name, unit, places[unit.name], weight, tensors.get(f"{name}.bias"))
    return found


def choose_maps(maps: Mapping[str, LiveMap], settings: RepairSettings) -> dict[str, LiveMap]:
    """Those that the settings ask for.

    Raises:
        ConfigError: a group or a part of a name that no map has, or nothing is left.
    """
    for group in settings.groups:
        if not any(matches(one.place.group, group) for one in maps.values()):
            known = {re.sub(r"\.\d+", ".*", one.place.group) for one in maps.values()}
            raise ConfigError(f"repair: no linear map of this model is in the group '{group}'; {suggest(group, known)}.")
    for part in settings.skip:
        if not any(has_part(name, part) for name in maps):
            known = {segment for name in maps for segment in name.split(".") if not segment.isdigit()}
            raise ConfigError(f"repair: no linear map of this model has '{part}' as a part of its name; {suggest(part, known)}.")
    chosen = {name: one for name, one in maps.items() if _is_asked_for(one, settings)}
    if not chosen:
        raise ConfigError("repair: all linear maps of these groups are skipped: skip less.")
    return chosen


def _is_asked_for(one: LiveMap, settings: RepairSettings) -> bool:
    if any(has_part(one.name, part) for part in settings.skip):
        return False
    if settings.groups:
        return any(matches(one.place.group, group) for group in settings.groups)
    return one.place.group not in _LOGITS


def plan_stages(maps: Sequence[str], look: Look) -> list[tuple[str, ...]]:
    """The maps in the order of the forward pass, those of the same inputs together: none of them hangs on another."""
    found: dict[str, list[str]] = {}
    for name in sorted(maps, key=look.place):
        found.setdefault(look.shares.get(name, name), []).append(name)
    return [tuple(names) for names in found.values()]
