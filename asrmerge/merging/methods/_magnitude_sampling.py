"""Random dropping in which an entry's chance depends on its magnitude's rank within the row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from asrmerge.merging.methods._random_masks import MIN_DENSITY, Generator, RandomParameters, draw_kept, scale_kept
from asrmerge.merging.methods._row_chunks import Sparsify


class RankedParameters(RandomParameters):
    """What both DELLA methods have."""

    epsilon: float = Field(
        default=0.15, ge=0.0, lt=0.5, description="ε: the chance to be kept goes from density − ε to density + ε."
    )

    @model_validator(mode="after")
    def _chances_are_possible(self) -> Self:
        lowest, highest = self.density - self.epsilon, self.density + self.epsilon
        if lowest < MIN_DENSITY - 1e-9 or highest > 1 + 1e-9:
            raise ValueError(
                f"density − epsilon is {lowest:g} and density + epsilon is {highest:g}, but both must be chances from "
                f"{MIN_DENSITY:g} to 1; lower epsilon"
            )
        return self


def drop_by_rank(density: float, epsilon: float, generator: Generator) -> Sparsify:
    """Keeps an entry with a probability p linear in its magnitude's rank in the row, divided by p, else 0: Bernoulli(p)/p · τ.

    The smallest magnitude of a row has p = density − ε, the largest density + ε, a row's only one density. Equal magnitudes are
    ranked in the order of the columns.
    """

    def sparsify(rows: Tensor) -> Tensor:
        if density == 1.0:
            return rows.clone()
        probabilities = rank_probabilities(density, epsilon, rows.shape[1])
        # What is kept is drawn in the order of the ranks, where one row of probabilities serves all; a scatter then brings it to
        # the columns.
        factors = scale_kept(draw_kept(generator, probabilities, (rows.shape[0], rows.shape[1])), probabilities)
        factors = torch.empty(rows.shape).scatter_(1, _ascending_order(rows), factors)
        return factors.to(rows.device).mul_(rows)

    return sparsify


def rank_probabilities(density: float, epsilon: float, length: int) -> NDArray[np.float64]:
    """The probabilities [length] of being kept, by ascending magnitude."""
    if length == 1:
        return np.array([density])
    return np.linspace(density - epsilon, density + epsilon, length).clip(max=1.0)


def _ascending_order(rows: Tensor) -> Tensor:
    """Per row, the columns by ascending magnitude, equal ones in their order. Shapes: [rows, length] → [rows, length]."""
    # NumPy sorts integers in a tenth of the time of torch's argsort; with the column in them they also have no ties. The bit
    # patterns of float32 magnitudes are in the order of the magnitudes.
    magnitudes = rows.abs().contiguous().cpu().numpy().view(np.int32).astype(np.int64)
    keys = (magnitudes << 32) | np.arange(rows.shape[1], dtype=np.int64)
    keys.sort(axis=1)
    return torch.from_numpy(keys & 0xFFFF_FFFF)
