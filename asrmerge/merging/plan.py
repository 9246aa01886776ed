"""A checked merge: every parameter with its place, its method, its parameters and its weights, before any work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible, read_finite
from asrmerge.checkpoints.safetensors_file import TensorSpec
from asrmerge.checkpoints.vocabulary_alignment import aligned
from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Method, Parameters, Preparing, RestoredExperts, needed_statistics
from asrmerge.merging.layers import Layout, assemble, plan_layout, select_layers
from asrmerge.merging.recipe import PASSTHROUGH, Choice, GroupRule, Recipe, RecipeExpert, has_part
from asrmerge.merging.statistics import ModelStatistics, known_utterances, open_base_statistics, open_statistics, with_statistics
from asrmerge.merging.structure import Place, matches, plan_places
from asrmerge.merging.units import LINEAR_ROLES, Unit, affine_shape, affine_units, plan_units, unit_shapes
from asrmerge.validation import suggest


@dataclass(frozen=True, eq=False)
class PlannedUnit:
    """One parameter and what is done with it; ``weights`` in the order of the plan's experts."""

    unit: Unit
    place: Place
    shape: tuple[int, ...]
    method: Method
    parameters: Parameters
    weights: tuple[float, ...]

    @property
    def elements(self) -> int:
        return TensorSpec(torch.float32, self.shape).elements

    @property
    def elementwise(self) -> bool:
        """Whether pieces of it may be merged by themselves."""
        return (
            bool(getattr(self.method, "elementwise", False)) and self.unit.members == (self.unit.name,) and not self.unit.copied
        )


@dataclass(frozen=True, eq=False)
class MergePlan:
    """The models, and what becomes of each parameter.

    Experts are sorted by name, so that sums round alike whatever the order listed. With passthrough there is one expert, the
    model put together.
    """

    base: Checkpoint | None
    experts: tuple[Checkpoint, ...]
    names: tuple[str, ...]
    statistics: tuple[ModelStatistics, ...]  # one per expert, or none at all
    base_statistics: ModelStatistics | None
    donor: Checkpoint  # what names and dtypes are taken from: the base, or the first expert listed
    units: tuple[PlannedUnit, ...]
    specs: Mapping[str, TensorSpec]
    layout: Layout | None = None  # the layers, where they are not the models' own

    def block(self, planned: PlannedUnit, stored: Sequence[Tensor], prepared: object = None) -> Block:
        """The block of a whole unit; ``stored``: the donor's tensors of it."""
        unit = planned.unit
        own = unit.compose(stored)
        experts = [
            own if expert is self.donor else unit.compose(self._read(expert, unit, name))
            for name, expert in zip(self.names, self.experts, strict=True)
        ]
        block = self._block(planned, own if self.base is not None else None, experts, prepared)
        return with_statistics(block, needed_statistics(planned.method), planned.unit, self.statistics, self.base_statistics)

    def piece(self, planned: PlannedUnit, start: int, stop: int, prepared: object = None) -> Block:
        """The block of elements ``start`` to ``stop`` of an elementwise unit, flattened."""

        def read(checkpoint: Checkpoint, label: str) -> Tensor:
            return read_finite(checkpoint, planned.unit.name, label, (start, stop)).to(torch.float32)

        base = read(self.base, "base") if self.base is not None else None
        experts = [read(expert, name) for name, expert in zip(self.names, self.experts, strict=True)]
        block = self._block(planned, base, experts, prepared)
        if "fisher" not in needed_statistics(planned.method):
            return block
        found = [one.fisher_elements(planned.unit.name, start, stop) for one in self.statistics]
        known = self.base_statistics
        of_base = None if known is None else known.fisher_elements(planned.unit.name, start, stop)
        return replace(block, fishers=found, base_fisher=of_base, utterances=known_utterances(self.statistics))

    def read_donor(self, unit: Unit) -> list[Tensor]:
        """The stored tensors of a unit, from the base or, without one, from the first expert listed."""
        return self._read(self.donor, unit, "base" if self.base is not None else self.donor.label)

    def blocks(self, planned: Sequence[PlannedUnit]) -> Iterator[Block]:
        """One pass over the blocks of these units; each is read while the one before it is looked at."""
        if not planned:
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._whole, planned[0])
            for following in planned[1:]:
                block, coming = coming.result(), reader.submit(self._whole, following)
                yield block
            yield coming.result()

    def _whole(self, planned: PlannedUnit) -> Block:
        return self.block(planned, self.read_donor(planned.unit))

    def prepare(self) -> dict[int, object]:
        """What methods want to know of the whole model, by the identity of their parameters (as in ``PlannedUnit``)."""
        found: dict[int, object] = {}
        for planned in self.units:
            key = id(planned.parameters)
            if key not in found and isinstance(planned.method, Preparing):
                same = [one for one in self.units if one.parameters is planned.parameters and not one.unit.copied]
                found[key] = planned.method.prepare(lambda same=same: self.blocks(same), planned.parameters)  # type: ignore[misc]
        return found

    def _block(self, planned: PlannedUnit, base: Tensor | None, experts: list[Tensor], prepared: object) -> Block:
        deltas = None
        if base is not None and planned.method.needs_base:
            # In place: the tensors were read for this block alone, and an embedding takes 160 MB per model.
            deltas = [expert.sub_(base) for expert in experts]
        return Block(
            name=planned.unit.name,
            base=base,
            experts=experts if deltas is None or base is None else RestoredExperts(base, deltas),
            weights=planned.weights,
            deltas=deltas,
            expert_names=self.names,
            place=planned.place,
            prepared=prepared,
        )

    @staticmethod
    def _read(checkpoint: Checkpoint, unit: Unit, label: str) -> list[Tensor]:
        return [read_finite(checkpoint, name, label) for name in unit.members]


def plan_merge(
    recipe: Recipe, base: Checkpoint | None, experts: Sequence[Checkpoint], hashes: Mapping[str, str] | None = None
) -> MergePlan:
    """Check that recipe and models fit together, and say what becomes of each parameter.

    ``experts`` are the recipe's, in its order; ``hashes`` of the models' weights, by the experts' names and ``base``, where
    they are known already.

    Raises:
        ConfigError: an unknown method, a wrong parameter, or a base that a method needs and the recipe lacks.
        IncompatibleError: checkpoints, or statistics, that don't fit.
    """
    recipe.check()
    base, experts, labels, layout = _arrange(recipe, base, experts)
    base, experts = _with_one_vocabulary(recipe, base, experts, labels)
    order = sorted(range(len(experts)), key=labels.__getitem__)
    names = tuple(labels[index] for index in order)
    checkpoints = [*experts] if base is None else [base, *experts]
    units = _plan_units(recipe, checkpoints[0], names)
    for method in {planned.method.name: planned.method for planned in units}.values():
        if method.needs_base and base is None:
            raise ConfigError(
                f"recipe: the method {method.name} needs a base; add the key 'base' with the model that was fine-tuned."
            )
    check_compatible(checkpoints, labels if base is None else ["base", *labels])
    ordered = tuple(experts[index] for index in order)
    known = hashes or {}
    return MergePlan(
        base=base,
        experts=ordered,
        names=names,
        statistics=_open_statistics(units, [recipe.experts[index] for index in order], ordered, known),
        base_statistics=_open_base_statistics(units, recipe.base_statistics, base, known.get("base")),
        donor=checkpoints[0],
        units=units,
        specs=_specs(checkpoints[0], recipe),
        layout=layout,
    )


def _arrange(
    recipe: Recipe, base: Checkpoint | None, experts: Sequence[Checkpoint]
) -> tuple[Checkpoint | None, Sequence[Checkpoint], list[str], Layout | None]:
    """The base, the experts and their names, with the layers that the recipe asks for, and these layers."""
    names = [expert.name for expert in recipe.experts]
    models = dict(zip(names, experts, strict=True)) | ({"base": base} if base is not None else {})
    if recipe.method == PASSTHROUGH:
        layout = plan_layout(recipe.layers or {}, models, names[0])
        rest = base if base is not None and layout else experts[0]
        outside, donor = (None if name is None else models[name] for name in (recipe.outside, recipe.donor))
        return None, [assemble(layout, models, rest, outside, donor)], [PASSTHROUGH], layout or None
    if recipe.layers is None:
        return base, experts, names, None
    layout = plan_layout(recipe.layers, models, "base" if base is not None else names[0])
    base = None if base is None else select_layers(recipe.layers, base, "base")
    selected = [select_layers(recipe.layers, expert, name) for name, expert in zip(names, experts, strict=True)]
    return base, selected, names, layout


def _with_one_vocabulary(
    recipe: Recipe, base: Checkpoint | None, experts: Sequence[Checkpoint], names: Sequence[str]
) -> tuple[Checkpoint | None, Sequence[Checkpoint]]:
    """CTC heads matched by token: the tokens of the model whose tokenizer the output takes come first."""
    labels, models = ([*names], [*experts]) if base is None else (["base", *names], [base, *experts])
    donor = labels.index(recipe.donor) if recipe.donor in labels else 0
    models = aligned(models, labels, has_base=base is not None, donor=donor)
    return (None, models) if base is None else (models[0], models[1:])


def _plan_units(recipe: Recipe, donor: Checkpoint, names: Sequence[str]) -> tuple[PlannedUnit, ...]:
    units = plan_units({name: donor.dtype(name) for name in donor.names}, donor.model_type)
    shapes = unit_shapes(units, {name: donor.shape(name) for name in donor.names})
    places = plan_places(shapes, donor.model_type)
    choices: dict[tuple[str, float, tuple[int, ...]], Choice] = {}
    planned: list[PlannedUnit] = []
    for unit in units:
        place = places[unit.name]
        rules = recipe.rules(place, unit.name)
        key = place.group, place.position, tuple(map(id, rules))
        if key not in choices:
            choices[key] = recipe.choose(place, rules)
        choice = choices[key]
        # Equal parameters become one object, by which blocks that are surveyed together are told.
        parameters = next((one.parameters for one in planned if one.parameters == choice.parameters), choice.parameters)
        weights = tuple(choice.weights.get(name, 1.0) for name in names)
        if recipe.method == choice.method.name == PASSTHROUGH and getattr(parameters, "scale", 1.0) == 1:
            unit = replace(unit, copied=True)
        planned.append(PlannedUnit(unit, place, tuple(shapes[unit.name]), choice.method, parameters, weights))
    for rule in recipe.groups:
        _check_rule(rule, planned)
    stored = {name: donor.shape(name) for name in donor.names}
    return tuple(_with_affine(planned, stored))


def _with_affine(planned: Sequence[PlannedUnit], shapes: Mapping[str, Sequence[int]]) -> Iterator[PlannedUnit]:
    """The units, where a method sees linear maps as [W | b], with weight and bias in one."""
    by_name = {one.unit.name: one for one in planned}
    joined = {unit.name: unit for unit in affine_units([one.unit for one in planned if _is_affine(one)], shapes)}
    taken = set()
    for unit in joined.values():
        weight, *rest = (by_name[member] for member in unit.members)
        for bias in rest:
            if bias.method is not weight.method or bias.parameters is not weight.parameters or bias.weights != weight.weights:
                joined[unit.name] = replace(unit, members=unit.members[:1])  # a rule of the recipe holds for one of the two
            else:
                taken.add(bias.unit.name)
    for one in planned:
        if one.unit.name in joined:
            unit = joined[one.unit.name]
            yield replace(one, unit=unit, shape=affine_shape(unit, shapes))
        elif one.unit.name not in taken:
            yield one


def _is_affine(planned: PlannedUnit) -> bool:
    return bool(getattr(planned.method, "affine", False)) and not planned.unit.copied and planned.place.role in LINEAR_ROLES


def _open_statistics(
    units: Sequence[PlannedUnit], experts: Sequence[RecipeExpert], checkpoints: Sequence[Checkpoint], hashes: Mapping[str, str]
) -> tuple[ModelStatistics, ...]:
    kinds = tuple(dict.fromkeys(kind for one in units for kind in needed_statistics(one.method)))
    needing = [one.unit for one in units if needed_statistics(one.method) and not one.unit.copied]
    return open_statistics(experts, checkpoints, kinds, needing, hashes) if kinds else ()


def _open_base_statistics(
    units: Sequence[PlannedUnit], folder: str | None, base: Checkpoint | None, hash: str | None
) -> ModelStatistics | None:
    needing = [one.unit for one in units if "fisher" in needed_statistics(one.method) and not one.unit.copied]
    if folder is None or base is None or not needing:
        return None
    return open_base_statistics(folder, base, needing, hash)


def _check_rule(rule: GroupRule, planned: Sequence[PlannedUnit]) -> None:
    if not any(matches(one.place.group, rule.group) for one in planned):
        known = {re.sub(r"\.\d+", ".*", one.place.group) for one in planned}
        raise ConfigError(f"recipe: no parameter of this model is in the group '{rule.group}'; {suggest(rule.group, known)}.")
    for part in rule.tensor or ():
        if not any(has_part(one.unit.name, part) for one in planned):
            known = {segment for one in planned for segment in one.unit.name.split(".") if not segment.isdigit()}
            raise ConfigError(
                f"recipe: no tensor of this model has '{part}' as a whole part of its name; {suggest(part, known)}."
            )


def _specs(donor: Checkpoint, recipe: Recipe) -> dict[str, TensorSpec]:
    wanted: torch.dtype | None = getattr(torch, recipe.dtype) if recipe.dtype is not None else None
    specs = {}
    for name in donor.names:
        stored = donor.dtype(name)
        specs[name] = TensorSpec((wanted or stored) if stored.is_floating_point else stored, tuple(donor.shape(name)))
    return specs
