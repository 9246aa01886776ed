"""Statistics of a recipe's experts, as methods ask for them: Fisher information, Gram matrices, output factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.ctc_vocabulary import is_head
from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.checkpoints.vocabulary_alignment import AlignedCheckpoint
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging.artefact import Header, read_header
from asrmerge.merging.block import Block, Statistic
from asrmerge.merging.recipe import RecipeExpert
from asrmerge.merging.units import Unit

_WEIGHT = ".weight"


@dataclass(frozen=True, eq=False)
class _File:
    """One file of one model, opened."""

    reader: SafetensorsReader
    header: Header | None

    @property
    def unchanged(self) -> tuple[str, ...]:
        """Parameters that it leaves out because the models of its merge have them in common."""
        return () if self.header is None else self.header.unchanged

    def has(self, name: str) -> bool:
        return name in self.reader


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """What is known of one model beside its weights.

    Rows of a CTC head are put where the merge's vocabulary has them; tokens that the model lacks have zero.
    """

    checkpoint: Checkpoint
    files: Mapping[Statistic, _File]

    @property
    def utterances(self) -> int | None:
        """How many the Fisher information is the mean of, where the file says so."""
        file = self.files.get("fisher")
        return file.header.utterances if file is not None and file.header is not None else None

    def fisher(self, unit: Unit) -> Tensor:
        """The Fisher diagonal of a unit, float32, in the shape that the merge gives it."""
        read = [self._read_fisher(unit, name) for name in fisher_names(unit)]
        return unit.compose(read) if unit.affine else read[0]

    def fisher_elements(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened diagonal, float32: [stop − start]."""
        reader = self.files["fisher"].reader
        if name not in reader:
            return torch.zeros(stop - start)
        if is_head(name):
            return self._spread(name, reader.read(name).to(torch.float32)).flatten()[start:stop]
        return reader.read_elements(name, start, stop).to(torch.float32)

    def gram(self, unit: Unit) -> Tensor | None:
        """The mean of xxᵀ over a linear map's inputs, [n, n] float32, of [x, 1] where the unit has a bias; None without one."""
        file = self.files["grams"]
        module = unit.name.removesuffix(_WEIGHT)
        stored = file.header.shares.get(module, module) if file.header is not None else module
        if not unit.affine or not file.has(stored):
            return None
        gram = file.reader.read(stored).to(torch.float32)
        return gram if len(unit.members) > 1 else gram[:-1, :-1].contiguous()

    def factor(self, unit: Unit) -> Tensor | None:
        """The mean of ggᵀ over the gradients of a linear map's outputs, [m, m] float32; None without one."""
        file, module = self.files["factors"], unit.name.removesuffix(_WEIGHT)
        if not unit.affine or not file.has(module):
            return None
        factor = file.reader.read(module).to(torch.float32)
        if isinstance(self.checkpoint, AlignedCheckpoint) and is_head(unit.name):
            return self.checkpoint.spread_square(unit.name, factor)
        return factor

    def _read_fisher(self, unit: Unit, name: str) -> Tensor:
        """Zeros of what the file leaves out because all models have it in common."""
        if not self.files["fisher"].has(name):
            return torch.zeros(_fisher_shape(self.checkpoint, unit, name))
        return self._spread(name, self.files["fisher"].reader.read(name).to(torch.float32))

    def _spread(self, name: str, diagonal: Tensor) -> Tensor:
        return self.checkpoint.spread(name, diagonal) if isinstance(self.checkpoint, AlignedCheckpoint) else diagonal


def fisher_names(unit: Unit) -> tuple[str, ...]:
    """The names under which a unit's Fisher is stored: of a weight-normed one, that of the product."""
    return (unit.name,) if unit.weight_normed else unit.members


def with_statistics(
    block: Block, needed: Sequence[Statistic], unit: Unit, experts: Sequence[ModelStatistics], base: ModelStatistics | None
) -> Block:
    """The block of a whole unit with what its method asks to know beside the weights, on the block's device."""
    found: dict[str, Any] = {}
    device = (block.base if block.base is not None else block.experts[0]).device
    if "fisher" in needed:
        found["fishers"] = [one.fisher(unit).to(device) for one in experts]
        found["utterances"] = known_utterances(experts)
        found["base_fisher"] = None if base is None else base.fisher(unit).to(device)
    for kind, read in (("grams", ModelStatistics.gram), ("factors", ModelStatistics.factor)):
        if kind in needed:
            matrices = [matrix.to(device) for one in experts if (matrix := read(one, unit)) is not None]
            found[kind] = matrices if len(matrices) == len(experts) else None
    return replace(block, **found) if found else block


def known_utterances(experts: Sequence[ModelStatistics]) -> list[int] | None:
    """How many utterances each expert's Fisher information is the mean of; None unless all files say so."""
    counts = [one.utterances for one in experts]
    return None if None in counts else [count for count in counts if count is not None]


def open_statistics(
    experts: Sequence[RecipeExpert],
    checkpoints: Sequence[Checkpoint],
    kinds: Sequence[Statistic],
    units: Sequence[Unit],
    hashes: Mapping[str, str] | None = None,
) -> tuple[ModelStatistics, ...]:
    """One per expert, in their order; ``units``: what is merged by methods that ask for the ``kinds``.

    Args:
        hashes: of the experts' weights by name, where they are known already.

    Raises:
        ConfigError: an expert has no such statistics.
        CheckpointError: a file is missing, truncated or no safetensors file.
        IncompatibleError: a file is of other weights, lacks a parameter, or has another shape for it.
    """
    known = dict(hashes or {})
    found = tuple(
        _open(_paths(expert, kinds), f"the expert {expert.name}", checkpoint, units, known.get(expert.name))
        for expert, checkpoint in zip(experts, checkpoints, strict=True)
    )
    _check_same_left_out(found, [expert.name for expert in experts], kinds)
    return found


def _check_same_left_out(found: Sequence[ModelStatistics], names: Sequence[str], kinds: Sequence[Statistic]) -> None:
    """That what one expert's file leaves out as common to all models, the others' leave out too: else it is not common."""
    for kind in kinds:
        first, *others = (set(one.files[kind].unchanged) for one in found)
        for name, other in zip(names[1:], others, strict=True):
            if differing := sorted(first ^ other):
                raise IncompatibleError(
                    f"the {kind} of {names[0]} and of {name} were collected for different merges: {differing[0]} is in one of "
                    "them only; collect those of all experts in one call of asrmerge stats."
                )


def open_base_statistics(folder: str, base: Checkpoint, units: Sequence[Unit], hash: str | None = None) -> ModelStatistics:
    """The base's Fisher information; errors as ``open_statistics``."""
    return _open({"fisher": statistics_file(folder, "fisher")}, "the base", base, units, hash)


def load_statistics(folder: str | Path, checkpoint: Checkpoint) -> ModelStatistics:
    """Whatever a folder has of a model, for merges into a live model.

    Raises:
        CheckpointError: a file is truncated or no safetensors file.
        IncompatibleError: a file is of other weights.
    """
    kinds: tuple[Statistic, ...] = ("fisher", "grams", "factors")
    paths = {kind: statistics_file(folder, kind) for kind in kinds}
    return _open({kind: path for kind, path in paths.items() if path.is_file()}, "the model", checkpoint, (), None)


def statistics_file(folder: str | Path, kind: str) -> Path:
    """Where ``asrmerge stats`` puts statistics of that kind."""
    return Path(folder).expanduser() / f"{kind}.safetensors"


def _paths(expert: RecipeExpert, kinds: Sequence[Statistic]) -> dict[Statistic, Path]:
    paths: dict[Statistic, Path] = {}
    for kind in kinds:
        if kind == "fisher" and expert.fisher is not None:
            paths[kind] = Path(expert.fisher).expanduser()
        elif expert.statistics is not None:
            paths[kind] = statistics_file(expert.statistics, kind)
        else:
            raise ConfigError(f"recipe: the expert {expert.name} has no 'statistics'; give the folder that asrmerge stats wrote.")
    return paths


def _open(
    paths: Mapping[Statistic, Path], whose: str, checkpoint: Checkpoint, units: Sequence[Unit], known: str | None
) -> ModelStatistics:
    files = {}
    for kind, path in paths.items():
        if not path.is_file():
            raise CheckpointError(
                f"{path}, the {kind} of {whose}, does not exist: correct the recipe, or make it with "
                f"asrmerge stats --kind {kind}."
            )
        reader = SafetensorsReader(path)
        header = read_header(reader)
        if header is not None and header.kind != kind:
            raise IncompatibleError(f"{path} holds {header.kind}, not the {kind} of {whose}: correct the recipe.")
        if header is not None and header.model_sha256 != (known := known or checkpoint.hash()):
            raise IncompatibleError(
                f"{path} was computed on {header.model}, other weights than {checkpoint.label}, {whose}: compute the statistics "
                "of this model again."
            )
        files[kind] = _File(reader, header)
    found = ModelStatistics(checkpoint, files)
    for unit in units:
        if "fisher" in files:
            for name in fisher_names(unit):
                if name in files["fisher"].unchanged:
                    continue
                _check(files["fisher"].reader, checkpoint, name, _fisher_shape(checkpoint, unit, name), whose)
        if "grams" in files and unit.affine:
            _check_square(files["grams"], checkpoint, unit, 1, whose)
        if "factors" in files and unit.affine:
            _check_square(files["factors"], checkpoint, unit, 0, whose)
    return found


def _fisher_shape(checkpoint: Checkpoint, unit: Unit, name: str) -> tuple[int, ...]:
    return checkpoint.shape(unit.members[-1] if unit.weight_normed else name)


def _check(file: SafetensorsReader, checkpoint: Checkpoint, name: str, shape: tuple[int, ...], whose: str) -> None:
    if name not in file:
        raise IncompatibleError(f"{file.path} has no tensor {name}: compute the Fisher of {whose} again.")
    given = file.shape(name)
    own = checkpoint.source.shape(name) if isinstance(checkpoint, AlignedCheckpoint) and is_head(name) else shape
    if given not in (shape, own):
        raise IncompatibleError(
            f"{name} has shape {list(given)} in {file.path} and {list(own)} in the model: compute the Fisher of {whose} again."
        )


def _check_square(file: _File, checkpoint: Checkpoint, unit: Unit, side: int, whose: str) -> None:
    """That a Gram matrix (side 1, of the inputs and a one) or an output factor (side 0) is as wide as the map is."""
    module = unit.name.removesuffix(_WEIGHT)
    stored = file.header.shares.get(module, module) if file.header is not None else module
    if not file.has(stored):
        return
    source = checkpoint.source if isinstance(checkpoint, AlignedCheckpoint) else checkpoint
    rows, *rest = source.shape(unit.members[0])
    width = torch.Size(rest).numel() + 1 if side else rows
    if file.reader.shape(stored) != (width, width):
        raise IncompatibleError(
            f"{stored} has shape {list(file.reader.shape(stored))} in {file.reader.path} and should have {[width, width]}, "
            f"as {unit.name} has: compute the statistics of {whose} again."
        )
