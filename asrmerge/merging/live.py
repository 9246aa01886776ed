"""Merging into a model in memory: what the search uses, so that no candidate touches the disk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asrmerge.checkpoints.finite import is_finite
from asrmerge.checkpoints.names import canonical_name, tied_names
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging.block import (
    Additive,
    Block,
    Method,
    Parameters,
    Preparing,
    RestoredExperts,
    add_scaled,
    needed_statistics,
)
from asrmerge.merging.engine import merge_block
from asrmerge.merging.gradients import at_position
from asrmerge.merging.registry import get_method
from asrmerge.merging.statistics import ModelStatistics, with_statistics
from asrmerge.merging.structure import Place, matches, plan_places
from asrmerge.merging.units import LINEAR_ROLES, Unit, affine_units, is_variance, plan_units, unit_shapes
from asrmerge.validation import suggest, validate


@dataclass(frozen=True, eq=False)
class Resident:
    """One unit in memory: the model's own tensors, the base's values of them, float32 base and task vectors."""

    unit: Unit
    place: Place
    targets: tuple[Tensor, ...]
    stored: tuple[Tensor, ...]  # the base as the model holds it; decomposing again would not restore it to the bit
    base: Tensor
    deltas: Mapping[str, Tensor]

    @property
    def module(self) -> str:
        """Name of the module that it is a parameter of."""
        return self.unit.name.rpartition(".")[0]


class LiveMerge:
    """Holds base and task vectors in float32 beside a live model, and writes merges into its parameters.

    The base is what ``model`` holds when this is made. Methods are the engine's own; blocks come with their task vectors, so
    linear and task arithmetic are one fused multiply-add per expert, and values equal the engine's to float32 rounding. An
    additive method's parts are kept until another computes its own, or parameters or experts change: only the first merge is
    slow.
    Memory, on the model's device: (1 + number of experts) × the model in float32, and a copy of a base that is not in float32;
    with an additive method, number of experts × the matrices in float32 more.
    """

    def __init__(
        self,
        model: nn.Module,
        experts: Mapping[str, Mapping[str, Tensor]],
        statistics: Mapping[str, ModelStatistics] | None = None,
        base_statistics: ModelStatistics | None = None,
    ) -> None:
        """Args:
            experts: name → state, as of ``model.state_dict()`` or read from a checkpoint; old spellings are understood.
            statistics: of every expert, for methods that need them; read from their files at each merge.
            base_statistics: the base's, for methods that use its Fisher information.

        Raises:
            ConfigError: no experts.
            IncompatibleError: an expert lacks a tensor, has one too many, or one of another shape.
            CheckpointError: NaN or Inf in an expert or in the model.
        """
        self._residents = load_residents(model, experts)
        self._joined: list[Resident] | None = None
        self._names = tuple(sorted(experts))
        self._statistics, self._base_statistics = dict(statistics or {}), base_statistics
        # By unit: of what they are the parts, and the parts; those that are task vectors, which take no memory, apart.
        self._parts: dict[str, tuple[Any, Sequence[Tensor] | None]] = {}
        self._lent: dict[str, tuple[Any, Sequence[Tensor] | None]] = {}

    @torch.no_grad()
    def apply(
        self,
        method: str,
        weights: Mapping[str, Any],
        parameters: Mapping[str, Any] | Parameters | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write the merge of the experts named in ``weights`` into the model; the others take no part.

        Args:
            weights: of each expert a number, or a list of numbers over the depth as recipes have them.
            groups: structural group → the weights that hold there, by expert; later groups go before earlier ones.

        Raises:
            ConfigError: an unknown method, parameter, group or expert, or no weights.
        """
        chosen = get_method(method)
        if isinstance(parameters, Parameters):
            parameters = parameters.model_dump()
        checked = validate(chosen.parameters, dict(parameters or {}), f"parameters of {method}")
        names = self._check_names(weights, groups or {})
        for kind in needed_statistics(chosen):
            if any(name not in self._statistics or kind not in self._statistics[name].files for name in names):
                raise ConfigError(f"{method} needs the {kind} of each expert: collect them with asrmerge stats.")
        residents = self._residents_of(chosen)
        values = [_weights_at(one.place, names, weights, groups or {}) for one in residents]
        prepared = chosen.prepare(lambda: self._blocks(chosen, values), checked) if isinstance(chosen, Preparing) else None
        additive = chosen if isinstance(chosen, Additive) else None  # asked once: looking through a protocol takes its time
        for resident, own, block in zip(residents, values, self._blocks(chosen, values, prepared), strict=True):
            used = tuple(name for name, value in own.items() if value != 0)
            parts = None if additive is None else self._find_parts(additive, checked, resident, block, used)
            if parts is None:
                _write(resident.targets, resident.unit.decompose(merge_block(chosen, block, checked), resident.stored))
            else:
                _write_sum(resident, parts, [own[name] for name in used])

    @torch.no_grad()
    def restore(self) -> None:
        """Put the base back, to the bit."""
        for resident in self._residents:
            _write(resident.targets, resident.stored)

    def _blocks(self, method: Method, weights: Sequence[Mapping[str, float]], prepared: Any = None) -> Iterator[Block]:
        needed = needed_statistics(method)
        names = list(weights[0]) if weights else []
        statistics = [self._statistics[name] for name in names] if needed else []
        for resident, own in zip(self._residents_of(method), weights, strict=True):
            deltas = [resident.deltas[name] for name in names]
            experts = RestoredExperts(resident.base, deltas)
            values = list(own.values())
            block = Block(resident.unit.name, resident.base, experts, values, deltas, names, resident.place, prepared=prepared)
            yield with_statistics(block, needed, resident.unit, statistics, self._base_statistics) if needed else block

    def _find_parts(
        self, method: Additive, parameters: Parameters, resident: Resident, block: Block, used: tuple[str, ...]
    ) -> Sequence[Tensor] | None:
        """An additive method's parts of these experts, None where it has none; kept until another computes its own."""
        if not used or is_variance(block.name):  # a sum may be a negative variance
            return None
        name, key = resident.unit.name, (method, parameters, used)
        for store in (self._lent, self._parts):
            if name in store and store[name][0] == key:
                return store[name][1]
        deltas = [resident.deltas[expert] for expert in used]
        experts = RestoredExperts(resident.base, deltas)
        alone = replace(block, experts=experts, weights=[1.0] * len(used), deltas=deltas, expert_names=used)
        parts = method.parts(alone, parameters)
        (self._lent if parts is deltas else self._parts)[name] = key, parts
        return parts

    def _residents_of(self, method: Method) -> list[Resident]:
        """As the method sees them; linear maps are joined when a method first asks, because that takes their memory again."""
        if not getattr(method, "affine", False):
            return self._residents
        if self._joined is None:
            self._joined = join_affine(self._residents)
        return self._joined

    def _check_names(self, weights: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
        known = {one.place.group for one in self._residents}
        for group, own in groups.items():
            if not any(matches(one, group) for one in known):
                raise ConfigError(f"no parameter of this model is in the group '{group}'; {suggest(group, known)}.")
            for name in own:
                if name not in weights:
                    raise ConfigError(f"the group '{group}' has a weight for '{name}'; {suggest(name, list(weights))}.")
        for name in weights:
            if name not in self._names:
                raise ConfigError(f"unknown expert '{name}' in the weights; {suggest(name, self._names)}.")
        if not weights:
            raise ConfigError("no weights to merge with: give one per expert.")
        for own in (weights, *groups.values()):
            for name, weight in own.items():
                numbers = weight if isinstance(weight, (list, tuple)) else [weight]
                if not numbers or not all(math.isfinite(number) for number in numbers):
                    raise ConfigError(f"the weight of '{name}' is {weight}: give a finite number.")
        return sorted(weights)  # the engine's order, so that sums round alike


def _weights_at(
    place: Place, names: Sequence[str], weights: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The weights that hold at ``place``, as a recipe chooses them."""
    chosen = {name: weights[name] for name in names}
    for group, own in groups.items():
        if matches(place.group, group):
            chosen |= own
    return {name: float(value) for name, value in at_position(chosen, place.position).items()}


def load_residents(model: nn.Module, experts: Mapping[str, Mapping[str, Tensor]]) -> list[Resident]:
    """Every unit of ``model`` that a merge changes, with base and task vectors; arguments and errors as of ``LiveMerge``."""
    if not experts:
        raise ConfigError("a live merge needs at least one expert: give one.")
    config = _config(model)
    targets = _float_tensors(model)
    known = {canonical_name(name) for name in model.state_dict()} | set(tied_names(config))
    states = {name: _checked_state(name, state, targets, known) for name, state in sorted(experts.items())}
    model_type = str(config.get("model_type", ""))
    units = plan_units({name: tensor.dtype for name, tensor in targets.items()}, model_type)
    places = plan_places(unit_shapes(units, {name: tensor.shape for name, tensor in targets.items()}), model_type)
    return [_resident(unit, places[unit.name], targets, states) for unit in units if not unit.copied]


def _resident(unit: Unit, place: Place, targets: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Tensor]]) -> Resident:
    live = tuple(targets[name] for name in unit.members)
    stored = tuple(tensor.detach().clone() for tensor in live)
    base = unit.compose(stored)
    _check_finite(unit.name, base, "the model")
    deltas: dict[str, Tensor] = {}
    for name, state in states.items():
        expert = unit.compose([state[member].detach().to(base.device) for member in unit.members])
        _check_finite(unit.name, expert, name)
        deltas[name] = expert - base
    return Resident(unit, place, live, stored, base, deltas)


def join_affine(residents: Sequence[Resident]) -> list[Resident]:
    """The residents with the weight and bias of every linear map in one, as methods see them that are ``affine``."""
    by_name = {one.unit.name: one for one in residents}
    linear = [one.unit for one in residents if one.place.role in LINEAR_ROLES]
    joined = {unit.name: unit for unit in affine_units(linear, {one.unit.name: one.base.shape for one in residents})}
    biases = {name for unit in joined.values() for name in unit.members[1:]}
    found = []
    for one in residents:
        if (unit := joined.get(one.unit.name)) is not None:
            parts = [by_name[name] for name in unit.members]
            deltas = {name: unit.compose([part.deltas[name] for part in parts]) for name in one.deltas}
            targets = tuple(target for part in parts for target in part.targets)
            stored = tuple(tensor for part in parts for tensor in part.stored)
            found.append(Resident(unit, one.place, targets, stored, unit.compose([part.base for part in parts]), deltas))
        elif one.unit.name not in biases:
            found.append(one)
    return found


def _float_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point parameters and saved buffers by canonical name; tied ones once, under their first name."""
    saved = set(model.state_dict())
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {canonical_name(name): tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def _checked_state(expert: str, state: Mapping[str, Tensor], targets: Mapping[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    canonical = {canonical_name(name): tensor for name, tensor in state.items()}
    for name in sorted(canonical.keys() - known):
        raise IncompatibleError(f"{name} is in the expert {expert} but not in the model: merge fine-tunes of one base only.")
    for name, target in targets.items():
        if name not in canonical:
            raise IncompatibleError(f"{name} is in the model but not in the expert {expert}: merge fine-tunes of one base only.")
        if canonical[name].shape != target.shape:
            raise IncompatibleError(
                f"{name} has shape {list(target.shape)} in the model and {list(canonical[name].shape)} in the expert {expert}: "
                "merge fine-tunes of one base only."
            )
    return canonical


def _check_finite(name: str, tensor: Tensor, place: str) -> None:
    if not is_finite(tensor):
        raise CheckpointError(f"{name} in {place} holds NaN or Inf: the training diverged; take an earlier checkpoint.")


def _config(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return dict(config.to_dict()) if config is not None else {}


def _write_sum(resident: Resident, parts: Sequence[Tensor], coefficients: Sequence[float]) -> None:
    """Base plus parts into the model, where it can be without any copy."""
    unit, target = resident.unit, resident.targets[0].detach()
    if unit.weight_normed or unit.affine or target.dtype != resident.base.dtype:
        merged = add_scaled(resident.base.clone(), parts, coefficients)
        _write(resident.targets, unit.decompose(merged, resident.stored))
    else:
        torch.add(resident.base, parts[0], alpha=coefficients[0], out=target)
        add_scaled(target, parts[1:], coefficients[1:])


def _write(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.detach().copy_(value)
