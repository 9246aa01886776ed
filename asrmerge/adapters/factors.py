"""LoRA factors, and what a method that merges them is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Parameters


@dataclass(frozen=True, eq=False)
class Factors:
    """ΔW = B·A of one linear layer, LoRA's scaling folded into B. Rank 0 is a layer that the adapter leaves as it is.

    Shapes: b [out, r], a [r, in].
    """

    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        """The number of columns of B; the rank of B·A may be lower."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), the shape of the layer's weight."""
        return self.b.shape[0], self.a.shape[1]

    def delta(self) -> Tensor:
        """ΔW [out, in] in full."""
        return self.b @ self.a


@dataclass(frozen=True, eq=False)
class FactorBlock:
    """One linear layer of every adapter. Tensors are float32 and must not be written to.

    Attributes:
        name: of the layer.
        factors: one per adapter, in the order of the adapters' names; ranks may differ.
        weights: one per adapter.
        adapter_names: one per adapter; what random choices are seeded by, with ``name``.
    """

    name: str
    factors: Sequence[Factors]
    weights: Sequence[float]
    adapter_names: Sequence[str] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), the same for every adapter."""
        return self.factors[0].shape

    def target_rank(self, rank: Literal["max", "lossless"] | int) -> int:
        """The rank to merge to; never more than the layer's own dimensions allow."""
        ranks = [factors.rank for factors in self.factors]
        wanted = max(ranks) if rank == "max" else sum(ranks) if rank == "lossless" else rank
        return min(wanted, *self.shape)


class RankParameters(Parameters):
    """Base of the methods that choose the rank of what they write."""

    rank: Literal["max", "lossless"] | Annotated[int, Field(ge=1, le=16384)] = Field(
        default="max", description="Rank of the merged adapter: a number, max (of the ranks given) or lossless (their sum)."
    )

    @field_validator("rank", mode="wrap")
    @classmethod
    def _one_message(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:  # pydantic would tell of each alternative apart
            raise ValueError("it should be max, lossless, or a whole number from 1 to 16384") from None


class MeanParameters(RankParameters):
    """Base of the methods that average."""

    normalize: bool = Field(default=True, description="Divide the weights by their sum; else the mean is multiplied by that sum.")


class FactorMethod(Protocol):
    """A method that merges LoRA factors: pure mathematics on one layer, with typed parameters."""

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> type[Parameters]: ...

    def merge(self, block: FactorBlock, parameters: Any) -> Factors:
        """The merged factors, float32; new tensors, never those of the block."""
        ...


def normalised(method: str, weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum.

    Raises:
        ConfigError: they sum to zero.
    """
    total = math.fsum(weights)
    if total == 0:
        raise ConfigError(f"{method} cannot normalise weights that sum to 0: change a weight.")
    return [weight / total for weight in weights]
