"""The inspection: compatible? from one base? and how task vectors lie to each other, one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.checkpoints.vocabulary_alignment import AlignedCheckpoint, aligned
from asrmerge.errors import ConfigError, IncompatibleError
from asrmerge.files import write_json, write_text
from asrmerge.inspection.bases import check_base
from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.inspection.geometry import Sums, measure, summarize
from asrmerge.inspection.groups import depth, read_unit
from asrmerge.inspection.heatmap import render_heatmap
from asrmerge.inspection.permutation import find_parts
from asrmerge.inspection.result import Geometry, Inspection
from asrmerge.merging.references import open_model
from asrmerge.merging.structure import plan_places
from asrmerge.merging.units import Unit, plan_units


def run_inspection(
    base: str | None,
    experts: Mapping[str, str],
    html: Path | None = None,
    json: Path | None = None,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
    diagnose: Callable[[], Diagnosis] | None = None,
) -> Inspection:
    """Inspect models as recipes name them, or ``embedded:…``; write the heat map and the figures where paths are given.

    ``diagnose`` is called where the models can be merged: what it says of a merge of them becomes part of the inspection.

    Raises:
        ConfigError: nothing to compare.
        CheckpointError: a model is missing or corrupt, or holds NaN or Inf.
    """
    opened = {name: open_model(source) for name, source in experts.items()}
    inspection = inspect_models(None if base is None else open_model(base), opened, on_tensor)
    if diagnose is not None and inspection.compatible:
        inspection = inspection.model_copy(update={"diagnosis": diagnose()})
    if json is not None:
        write_json(json, inspection.model_dump(mode="json"))
    if html is not None:
        write_text(html, render_heatmap(inspection))
    return inspection


def inspect_models(
    base: Checkpoint | None, experts: Mapping[str, Checkpoint], on_tensor: Callable[[int, int], None] = lambda done, total: None
) -> Inspection:
    """Compare ``experts`` with their base, or without one with their mean, and with each other.

    Models that can't be merged are an answer (``Inspection.incompatible``), not an error; nothing further is read then. CTC heads
    with vocabularies of their own are compared row by row after their tokens are matched, as a merge does.
    ``on_tensor`` is told the steps done and their number: one for each parameter, and one for each part of a layer whose units
    are matched with the reference's, for each expert.

    Raises:
        ConfigError: no expert, or only one and no base.
        CheckpointError: NaN or Inf in a tensor, or a file that cannot be read.
    """
    if not experts or (base is None and len(experts) == 1):
        raise ConfigError("nothing to compare: give a base and its fine-tunes, or at least two models.")
    if base is not None and "base" in experts:
        raise ConfigError("an expert is called base, as the base itself: give it another name.")
    models, incompatible = _with_one_vocabulary(({} if base is None else {"base": base}) | dict(experts), base is not None)
    (first, donor), *others = models.items()
    compared = Inspection(
        model_type=donor.model_type,
        base=None if base is None else base.label,
        experts={name: checkpoint.label for name, checkpoint in experts.items()},
        dtypes={name: _dtypes(checkpoint) for name, checkpoint in models.items()},
        reference="mean" if base is None else "base",
        incompatible=incompatible,
        lacking_tokens={name: model.lacking for name, model in models.items() if isinstance(model, AlignedCheckpoint)},
    )
    if compared.incompatible:
        return compared
    base, experts = None if base is None else donor, {name: models[name] for name in experts}
    units = plan_units({name: donor.dtype(name) for name in donor.names}, donor.model_type)
    parts = find_parts(donor)
    steps = _Steps(on_tensor, len(units) + len(parts) * len(others))
    checks = tuple(check_base((first, donor), other, parts, steps.advance) for other in others)
    sums = {}
    for unit in units:
        if not unit.copied:
            sums[unit.name] = _measure(unit, base, experts)
        steps.advance()
    constants = [name for unit in units if unit.copied for name in unit.members]
    return compared.model_copy(
        update={
            "tensors": tuple(sums),
            "overall": summarize("all", sum(sums.values(), Sums.zero(len(experts)))),
            "groups": _groups(donor, units, sums),
            "differing_constants": tuple(name for name in constants if _differs(name, donor, others)),
            "base_checks": checks,
            **_changes(sums, tuple(experts), base is not None),
        }
    )


class _Steps:
    """Counts steps and tells how far they are."""

    def __init__(self, on_step: Callable[[int, int], None], total: int) -> None:
        self._on_step, self._total, self._done = on_step, total, 0

    def advance(self) -> None:
        self._done += 1
        self._on_step(self._done, self._total)


def _dtypes(checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(sorted({str(checkpoint.dtype(name)).removeprefix("torch.") for name in checkpoint.names}))


def _with_one_vocabulary(models: Mapping[str, Checkpoint], has_base: bool) -> tuple[dict[str, Checkpoint], dict[str, str]]:
    """The models as a merge would read them; or as they are, and each that can't be merged with those before it, and why."""
    (first, donor), *others = models.items()
    fitting, found = {first: donor}, dict[str, str]()
    for name, checkpoint in others:
        names = [*fitting, name]
        try:
            views = aligned([*fitting.values(), checkpoint], names, has_base=has_base)
            check_compatible([views[0], views[-1]], [first, name])
        except IncompatibleError as error:
            found[name] = str(error)
        else:
            fitting[name] = checkpoint
    if found:
        return dict(models), found
    return dict(zip(models, aligned([*models.values()], [*models], has_base=has_base), strict=True)), {}


def _measure(unit: Unit, base: Checkpoint | None, experts: Mapping[str, Checkpoint]) -> Sums:
    start = None if base is None else read_unit(unit, base, "base")
    return measure(start, [read_unit(unit, checkpoint, name) for name, checkpoint in experts.items()])


def _differs(name: str, donor: Checkpoint, others: Sequence[tuple[str, Checkpoint]]) -> bool:
    constant = donor.read(name)
    return not all(_same(constant, checkpoint.read(name)) for _, checkpoint in others)


def _same(one: Tensor, two: Tensor) -> bool:
    # In either dtype: a copy in float16 is still the same constant.
    return torch.equal(one, two.to(one.dtype)) or torch.equal(one.to(two.dtype), two)


def _groups(donor: Checkpoint, units: Sequence[Unit], sums: Mapping[str, Sums]) -> tuple[Geometry, ...]:
    places = plan_places({unit.name: donor.shape(unit.members[-1]) for unit in units}, donor.model_type)
    groups: dict[str, Sums] = {}
    for name, found in sums.items():
        group = places[name].group
        groups[group] = groups[group] + found if group in groups else found
    return tuple(summarize(group, groups[group]) for group in sorted(groups, key=depth))


def _changes(sums: Mapping[str, Sums], experts: Sequence[str], has_base: bool) -> dict[str, Any]:
    changed = {name: [bool(flag > 0) for flag in found.changed] for name, found in sums.items()}
    identical = tuple(name for name, flags in changed.items() if not any(flags))
    if not has_base:
        return {"identical": identical}
    frozen = {expert: tuple(name for name, flags in changed.items() if not flags[at]) for at, expert in enumerate(experts)}
    alone = {
        expert: tuple(name for name, flags in changed.items() if flags[at] and sum(flags) == 1)
        for at, expert in enumerate(experts)
    }
    return {"identical": identical, "frozen": frozen, "changed_by_one": alone}
