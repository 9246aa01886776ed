"""A base with an adapter, read like a checkpoint: each weight is computed when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from asrmerge.adapters.factors import Factors
from asrmerge.adapters.reading import Adapter
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.names import canonical_name, tied_names
from asrmerge.errors import CheckpointError, IncompatibleError
from asrmerge.files import hash_content


class AdapterWeights(Protocol):
    """What is added to a base: an adapter on disk, or a merged one in memory."""

    @property
    def modules(self) -> tuple[str, ...]: ...

    @property
    def saved(self) -> tuple[str, ...]: ...

    def factors(self, module: str) -> Factors: ...

    def magnitude(self, module: str) -> Tensor | None: ...

    def read_saved(self, parameter: str) -> Tensor: ...

    def hash(self) -> str: ...

    def check_fits(self, base: Checkpoint) -> None: ...


@dataclass(frozen=True, eq=False)
class AdaptedCheckpoint(Checkpoint):
    """A base with an adapter, in the place of a fine-tuned checkpoint: names, shapes, dtypes and folder are the base's.

    Adapted weights are read in float32, W + B·A or with DoRA m·(W + B·A)/‖W + B·A‖ by output row, so that a merge rounds to the
    base's dtype once. ``folder`` is the base's because the vocabulary and the processor lie there.
    """

    base: Checkpoint = field(kw_only=True)
    adapter: AdapterWeights = field(kw_only=True)
    _adapted: frozenset[str] = field(kw_only=True, repr=False)
    _replaced: dict[str, str] = field(kw_only=True, repr=False)

    @classmethod
    def join(cls, base: Checkpoint, adapter: AdapterWeights, label: str) -> AdaptedCheckpoint:
        """``base`` with ``adapter``.

        Raises:
            IncompatibleError: the adapter is of another model, or changes one of two tied parameters.
        """
        adapter.check_fits(base)
        check_untied(base, adapter, label)
        return cls(
            label,
            base.folder,
            base.config,
            base.weight_files,
            base._tensors,
            base=base,
            adapter=adapter,
            _adapted=frozenset(f"{module}.weight" for module in adapter.modules),
            _replaced={canonical_name(parameter): parameter for parameter in adapter.saved},
        )

    def read(self, name: str) -> Tensor:
        """The parameter's values: float32 where the adapter changes it, else in the stored dtype.

        Raises:
            CheckpointError: no such parameter, or NaN or Inf in the adapter.
        """
        weight = self.adapter.read_saved(self._replaced[name]) if name in self._replaced else self.base.read(name)
        if name not in self._adapted:
            return weight
        module = name.removesuffix(".weight")
        return adapted_weight(weight, self.adapter.factors(module), self.adapter.magnitude(module))

    def read_elements(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened parameter; of an adapted one, only their rows are computed."""
        if name in self._replaced:
            return self.read(name).flatten()[start:stop]
        if name not in self._adapted:
            return self.base.read_elements(name, start, stop)
        module, width = name.removesuffix(".weight"), self.shape(name)[1]
        first, end = start // width, -(-stop // width)
        weight = self.base.read_elements(name, first * width, end * width).reshape(-1, width)
        factors, magnitude = self.adapter.factors(module), self.adapter.magnitude(module)
        rows = Factors(factors.b[first:end], factors.a)
        adapted = adapted_weight(weight, rows, None if magnitude is None else magnitude[first:end])
        return adapted.flatten()[start - first * width : stop - first * width]

    def hash(self) -> str:
        """SHA-256 of the base's and the adapter's hashes."""
        return hash_content([self.base.hash(), self.adapter.hash()])


def open_adapted(
    source: str | Path, base: str | Path | Checkpoint | None = None, revision: str | None = None
) -> AdaptedCheckpoint:
    """The adapter at ``source`` with its base: the one given, else the one that its configuration names.

    Raises:
        CheckpointError: either is missing or corrupt, or the configuration names no base.
        IncompatibleError: the adapter is of another model.
    """
    adapter = Adapter.open(source, revision)
    if base is None:
        if adapter.base is None or adapter.base in (str(source), str(adapter.folder)):
            names = "no base" if adapter.base is None else "itself as its base"
            raise CheckpointError(f"{source} is an adapter whose configuration names {names}: name the base.")
        try:
            # The configuration's revision is the base's, and only the hub has revisions.
            base = Checkpoint.open(adapter.base, None if Path(adapter.base).is_dir() else adapter.config.get("revision"))
        except CheckpointError as error:
            raise CheckpointError(f"{source} is an adapter, and its base cannot be opened: {error}") from error
    checkpoint = base if isinstance(base, Checkpoint) else Checkpoint.open(base)
    return AdaptedCheckpoint.join(checkpoint, adapter, str(source))


def adapted_weight(weight: Tensor, factors: Factors, magnitude: Tensor | None) -> Tensor:
    """W + B·A in float32; with a magnitude m, m·(W + B·A)/‖W + B·A‖ by output row (DoRA, Liu et al., arXiv 2402.09353).

    A row of zeros stays zero. Shapes: weight [out, in], magnitude [out] → [out, in].
    """
    moved = torch.addmm(weight.to(torch.float32), factors.b, factors.a)
    if magnitude is None:
        return moved
    norms = row_norms(moved)
    return moved * (magnitude / torch.where(norms > 0, norms, 1.0))[:, None]


def check_untied(base: Checkpoint, adapter: AdapterWeights, label: str) -> None:
    """Check that the adapter leaves tied parameters alone: PEFT changes one of the two only, which full weights cannot say.

    Raises:
        IncompatibleError: it changes one of them.
    """
    changed = {f"{module}.weight" for module in adapter.modules} | {canonical_name(parameter) for parameter in adapter.saved}
    for second, first in tied_names(base.config).items():
        for name in (second, first):
            if name in changed:
                raise IncompatibleError(
                    f"the adapter {label} changes {name}, and {base.folder} ties {second} to {first}: its full weights can't say "
                    "that one of them changed; merge it with other adapters only, or train one without this layer."
                )


def row_norms(weight: Tensor) -> Tensor:
    """‖·‖ of each output row. Shapes: [out, in] → [out]."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return norms
