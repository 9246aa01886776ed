"""A model's parameters in stages: a layer each, and each module outside of layers, in the order of the forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asrmerge.merging.live import Resident
from asrmerge.statistics.modules import layers
from asrmerge.statistics.watching import Look


@dataclass(frozen=True, eq=False)
class Stage:
    """Parameters of a part of a live model, as they were loaded; ``name`` is that of its module."""

    name: str
    residents: tuple[Resident, ...]

    @torch.no_grad()
    def put(self, expert: str) -> None:
        """Write one expert's own parameters into the model."""
        for one in self.residents:
            write(one, one.base + one.deltas[expert])

    def parameters(self) -> set[int]:
        """Identities of the model's own tensors."""
        return {id(target) for one in self.residents for target in one.targets}


def plan_stages(model: nn.Module, residents: Sequence[Resident], look: Look) -> list[Stage]:
    """The stages that these parameters are in, those of one layer together; what is never called comes last."""
    names = tuple(layers(model))
    found: dict[str, list[Resident]] = {}
    for one in residents:
        layer = next((name for name in names if f"{one.module}.".startswith(f"{name}.")), one.module)
        found.setdefault(layer, []).append(one)
    return [Stage(name, tuple(found[name])) for name in sorted(found, key=lambda name: (look.place(name), name))]


@torch.no_grad()
def write(resident: Resident, value: Tensor) -> dict[str, Tensor]:
    """Write a unit into the model; what was written, by the names of a checkpoint, float32 on the processor."""
    stored = resident.unit.decompose(value, resident.stored)
    for target, tensor in zip(resident.targets, stored, strict=True):
        target.copy_(tensor)
    return {name: tensor.cpu().clone() for name, tensor in zip(resident.unit.members, stored, strict=True)}


def shares_within(shares: Mapping[str, str], modules: Sequence[str]) -> dict[str, str]:
    """Which of these modules are given the same inputs as one before them, and which: the first one among them."""
    first: dict[str, str] = {}
    found = {}
    for name in modules:
        leader = first.setdefault(shares.get(name, name), name)
        if leader != name:
            found[name] = leader
    return found
