"""What a merge method is, and what it sees of one parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.structure import NOWHERE, Place
from asrmerge.validation import Section

Statistic = Literal["fisher", "grams", "factors"]


Record = Mapping[str, str | int | float]
"""What a method has to say of how one block's merge went, such as how many iterations it took."""


class Parameters(Section):
    """Base of the methods' parameters."""


def _forget(record: Record) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Block:
    """One parameter of every model. All tensors are float32, of one shape, and must not be written to.

    Attributes:
        name: of the parameter.
        base: the base's tensor, where there is a base.
        experts: their tensors, in the order of their names.
        weights: one per expert.
        deltas: the task vectors where they are held already, as during a search; else they are computed on demand.
        expert_names: one per expert; what random choices are seeded by, with ``name``.
        place: where the parameter sits in the model.
        fishers: per expert, the diagonal of its Fisher information, where the method asks for it.
        base_fisher: that of the base, where the recipe gives its statistics.
        utterances: per expert, how many its Fisher information is the mean of; where the artefact says so.
        grams: per expert, where the method asks for them and the block is a linear map: the mean of xxᵀ over its inputs x,
            [n, n] float32 for a block [m, n]; x ends with 1 where the block is [W | b].
        factors: likewise, the mean of ggᵀ over the gradients g of its outputs: [m, m].
        prepared: what the method's own ``prepare`` returned.
        record: takes what the method wants ``merge_provenance.json`` to say of the block, once; not of pieces of tensors.
    """

    name: str
    base: Tensor | None
    experts: Sequence[Tensor]
    weights: Sequence[float]
    deltas: Sequence[Tensor] | None = None
    expert_names: Sequence[str] = ()
    place: Place = NOWHERE
    fishers: Sequence[Tensor] | None = None
    base_fisher: Tensor | None = None
    utterances: Sequence[int] | None = None
    grams: Sequence[Tensor] | None = None
    factors: Sequence[Tensor] | None = None
    prepared: Any = None
    record: Callable[[Record], None] = _forget

    @property
    def shape(self) -> torch.Size:
        """The shape of every tensor of the block."""
        return (self.base if self.base is not None else self.experts[0]).shape

    def need_base(self, method: str) -> Tensor:
        """The base's tensor, for a ``method`` that cannot do without.

        Raises:
            ConfigError: there is no base.
        """
        if self.base is None:
            raise ConfigError(f"{method} needs a base: name it in the recipe.")
        return self.base

    def task_vectors(self) -> Sequence[Tensor]:
        """τₜ = θₜ − θ₀ of every expert.

        Raises:
            ConfigError: there is no base.
        """
        if self.deltas is not None:
            return self.deltas
        if self.base is None:
            raise ConfigError(f"{self.name} has no base to subtract: name the base in the recipe.")
        return [expert - self.base for expert in self.experts]

    def weighted_sum(self, coefficients: Sequence[float]) -> Tensor:
        """Σ cₜθₜ, by fused multiply-adds; from the task vectors, as (Σ cₜ)θ₀ + Σ cₜτₜ, where those are held."""
        if self.deltas is None or self.base is None:
            return add_scaled(torch.zeros_like(self.experts[0]), self.experts, coefficients)
        return add_scaled(self.base * sum(coefficients), self.deltas, coefficients)


@runtime_checkable
class Method(Protocol):
    """A merge method: pure mathematics on one block, with typed parameters.

    One that looks at each entry by itself may say so with ``elementwise = True``: it is then given tensors in pieces, flattened.
    One whose weights multiply the task vectors, so that a search may tune them, says ``weights_multiply = True``: twice the
    weights add twice as much to the base. One whose weights are shares of a whole, and whose parameter ``scale`` says how far it
    goes from the base, says ``weights_share = True``: a search tunes both. One that merges so many experts only says
    ``expert_count``, and one that cannot do without statistics of every expert names them in ``statistics``, such as
    ``("fisher",)``: recipes are checked for it. One that sees linear maps as [W | b] says ``affine = True``: their weights come
    flattened to a matrix, with the bias as its last column.
    One that draws random numbers says in ``masks`` what draws them: with another answer, the same recipe gives other bytes.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_base(self) -> bool: ...

    @property
    def parameters(self) -> type[Parameters]: ...

    def merge(self, block: Block, parameters: Any) -> Tensor:
        """The merged tensor, float32, of the block's shape; a new tensor, never one of the block's."""
        ...


def needed_statistics(method: Method) -> tuple[Statistic, ...]:
    """What the method must know of every expert beside its weights."""
    return tuple(getattr(method, "statistics", ()))


def shares_weights(method: Method) -> bool:
    """Whether its weights are shares of a whole, which ``scale`` multiplies."""
    return bool(getattr(method, "weights_share", False))


def is_searchable(method: Method) -> bool:
    """Whether a search can tune its weights: they multiply the task vectors, or are shares of a whole that has a scale."""
    return bool(getattr(method, "weights_multiply", False)) or shares_weights(method)


@runtime_checkable
class Preparing(Protocol):
    """A method that looks at the whole model before it merges the first block."""

    def prepare(self, blocks: Callable[[], Iterator[Block]], parameters: Any) -> Any:
        """What ``merge`` finds in ``block.prepared``; None at once where the parameters don't ask for it.

        Args:
            blocks: each call is one pass over the model, which reads every tensor again.
        """
        ...


@runtime_checkable
class Additive(Protocol):
    """A method whose weights do no more than add up: θ₀ + Σ wₜpₜ, where the parts pₜ are the same for all weights but 0.

    A search, which merges the same experts with many weights, computes the parts once, and adds them up right in the model.
    """

    def parts(self, block: Block, parameters: Any) -> Sequence[Tensor] | None:
        """pₜ of every expert of the block, float32, of its shape; None where ``merge`` is as good. Its weights do not matter."""
        ...


class RestoredExperts(Sequence[Tensor]):
    """θₜ = θ₀ + τₜ, made when a method asks: most ask for task vectors only."""

    def __init__(self, base: Tensor, deltas: Sequence[Tensor]) -> None:
        self._base = base
        self._deltas = deltas

    def __len__(self) -> int:
        return len(self._deltas)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self._base + delta for delta in self._deltas[index]]
        return self._base + self._deltas[index]


def add_scaled(total: Tensor, tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """total + Σ cₜxₜ, in place in ``total``, one fused multiply-add per tensor."""
    for tensor, coefficient in zip(tensors, coefficients, strict=True):
        total.add_(tensor, alpha=coefficient)
    return total
