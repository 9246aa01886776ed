"""The streaming merge: parameter by parameter, float32 inside, one cast at the end, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge import __version__
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.vocabulary_alignment import vocabulary_files
from asrmerge.checkpoints.writing import PROVENANCE_FILE, RECIPE_FILE, CheckpointWriter, check_output, checkpoint_writer
from asrmerge.errors import AsrmergeError
from asrmerge.merging.block import Block, Method, Parameters, Record, Statistic, needed_statistics
from asrmerge.merging.budget import MemoryBudget
from asrmerge.merging.layers import rewrite_config, rewrite_generation
from asrmerge.merging.plan import MergePlan, PlannedUnit, plan_merge
from asrmerge.merging.recipe import Recipe
from asrmerge.merging.references import open_model
from asrmerge.merging.units import is_variance
from asrmerge.processors import processor_count

PIECE = 1 << 19  # elements of a tensor that are merged at once where the method allows it: pieces stay in the processor's cache
MEMORY = 1 << 30  # bytes of tensors in work at once, save that one parameter always fits
_WORKING_COPIES = 3  # float32 tensors that a method holds beside its inputs, about
_WORKING_MATRICES = 6  # the same of Gram matrices and factors: three in float64
_SIDES: Mapping[Statistic, int] = {"grams": -1, "factors": 0}  # as wide as a linear map has columns, or rows


@dataclass(frozen=True)
class _Job:
    """A unit, or of an elementwise one the elements ``start`` to ``stop``."""

    planned: PlannedUnit
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return self.stop - self.start


def merge_tensors(recipe: Recipe, base: Checkpoint | None, experts: list[Checkpoint]) -> Iterator[tuple[str, Tensor]]:
    """The merged tensors by sorted name, each in the dtype of the recipe, by default that of the base (without one, of the
    first expert listed).

    ``experts`` are the recipe's, in its order. Everything is checked in the call, before the first tensor is asked for.

    Raises:
        ConfigError: an unknown method, a wrong parameter, or a base that the method needs and the recipe lacks.
        IncompatibleError: checkpoints that don't fit together.
        CheckpointError: NaN or Inf in a tensor, when it is read.
    """
    plan = plan_merge(recipe, base, experts)
    return _stream(plan)


def merge_to_folder(
    recipe: Recipe,
    output: str | Path,
    *,
    hashes: Mapping[str, str] | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Merge into a folder that transformers loads, with ``merge_recipe.yaml`` and ``merge_provenance.json`` in it.

    The same inputs give the same bytes, whatever the number of workers. ``output`` stays as it was on any failure.

    Args:
        hashes: of the models' weights, where they are known already: by the experts' names, and ``base``.
        workers: threads; by default as many as there are processors.
        on_progress: called with the parameters' elements that are done and all of them.

    Raises:
        ConfigError: as ``merge_tensors``; ``output`` is or holds one of the models to merge.
        CheckpointError: a model is missing, corrupt or not compatible, or ``output`` is something other than a checkpoint.
    """
    output = Path(output)
    base = open_model(recipe.base) if recipe.base is not None else None
    experts = [open_model(expert.model) for expert in recipe.experts]
    check_output(output, [checkpoint.folder for checkpoint in (base, *experts) if checkpoint is not None])
    plan = plan_merge(recipe, base, experts, hashes)
    files = {expert.name: checkpoint for expert, checkpoint in zip(recipe.experts, experts, strict=True)}
    donor = plan.donor if recipe.donor in (None, "base") else files[recipe.donor]
    extra, config = {RECIPE_FILE: recipe.to_yaml()}, None
    if plan.layout is not None:
        config = rewrite_config(donor.config, plan.layout)
        extra |= rewrite_generation(donor.folder, plan.layout)
    if recipe.dtype is not None:
        # from_pretrained casts to what the configuration says; older versions of transformers call it torch_dtype.
        key = "dtype" if "dtype" in donor.config else "torch_dtype"
        config = {**(config or donor.config), key: recipe.dtype}
    # The plan's models, because their heads may have been given one vocabulary.
    planned = dict(zip(plan.names, plan.experts, strict=True)) | {"base": plan.donor}
    extra |= vocabulary_files(planned.get(recipe.donor or "base", plan.donor), config)
    with (
        _workers(workers or processor_count()) as pool,
        checkpoint_writer(output, plan.specs, donor=donor.folder, extra_files=extra, config=config) as writer,
    ):
        provenance = pool.submit(_provenance, recipe, plan, base, experts, hashes or {})
        records = _merge_all(plan, writer, pool, on_progress)
        content = provenance.result() | ({"records": records} if records else {})
        writer.add_text(PROVENANCE_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def merge_block(method: Method, block: Block, parameters: Parameters) -> Tensor:
    """What the method makes of the block, without gradients; a variance no smaller than the models'.

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
    if is_variance(block.name):
        # Task vectors may add up to a negative variance, and so to a model that gives NaN.
        given = [*block.experts, *([] if block.base is None else [block.base])]
        return torch.maximum(merged, torch.stack(given).amin(dim=0))
    return merged


def _stream(plan: MergePlan) -> Iterator[tuple[str, Tensor]]:
    prepared = plan.prepare()
    for planned in plan.units:
        yield from _merge_unit(plan, planned, prepared.get(id(planned.parameters)), {})


def _merge_all(
    plan: MergePlan, writer: CheckpointWriter, pool: ThreadPoolExecutor, on_progress: Callable[[int, int], None]
) -> dict[str, Record]:
    """What the methods recorded, by the units' sorted names."""
    prepared = plan.prepare()
    budget = MemoryBudget(MEMORY)
    records: dict[str, Record] = {}

    def work(job: _Job) -> int:
        planned = job.planned
        known = prepared.get(id(planned.parameters))
        with budget.take(_working_bytes(plan, planned, job.elements)):
            if planned.elementwise:
                piece = plan.piece(planned, job.start, job.stop, known)
                writer.write(planned.unit.name, merge_block(planned.method, piece, planned.parameters), job.start)
            else:
                for name, tensor in _merge_unit(plan, planned, known, records):
                    writer.write(name, tensor)
        return job.elements

    done, total = 0, sum(planned.elements for planned in plan.units)
    # The largest first, so that none is left for the end, where other threads would wait for it.
    for elements in pool.map(work, sorted(_jobs(plan), key=lambda job: -job.elements)):
        done += elements
        on_progress(done, total)
    return dict(sorted(records.items()))


def _working_bytes(plan: MergePlan, planned: PlannedUnit, elements: int) -> int:
    """What merging so many elements of a unit takes, about: of the models, of their statistics, and to work with."""
    experts, needed = len(plan.experts), needed_statistics(planned.method)
    models = experts + (plan.base is not None)
    tensors = elements * (models * (2 if "fisher" in needed else 1) + _WORKING_COPIES)
    sides = [planned.shape[index] for kind, index in _SIDES.items() if kind in needed and planned.unit.affine]
    return 4 * (tensors + sum(side**2 for side in sides) * (experts + _WORKING_MATRICES))


def _jobs(plan: MergePlan) -> Iterator[_Job]:
    for planned in plan.units:
        step = PIECE if planned.elementwise else max(planned.elements, 1)
        for start in range(0, max(planned.elements, 1), step):
            yield _Job(planned, start, min(start + step, planned.elements))


def _merge_unit(
    plan: MergePlan, planned: PlannedUnit, prepared: object, records: dict[str, Record]
) -> Iterator[tuple[str, Tensor]]:
    unit = planned.unit
    stored = plan.read_donor(unit)
    if unit.copied:
        for name, tensor in zip(unit.members, stored, strict=True):
            yield name, tensor.to(plan.specs[name].dtype)
        return
    block = replace(plan.block(planned, stored, prepared), record=partial(records.__setitem__, unit.name))
    merged = merge_block(planned.method, block, planned.parameters)
    for name, tensor in zip(unit.members, unit.decompose(merged, stored), strict=True):
        yield name, tensor.to(plan.specs[name].dtype)


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute on one processor each: sums over several would round by how many there are."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _provenance(
    recipe: Recipe, plan: MergePlan, base: Checkpoint | None, experts: list[Checkpoint], hashes: Mapping[str, str]
) -> dict[str, Any]:
    # What draws random masks: with other masks, the same recipe gives other bytes.
    masks = {one.method.name: str(one.method.masks) for one in plan.units if hasattr(one.method, "masks")}
    return {
        "asrmerge": __version__,
        "method": recipe.method,
        "parameters": recipe.method_parameters().model_dump(mode="json"),
        **({"masks": masks} if masks else {}),
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
