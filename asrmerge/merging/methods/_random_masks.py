"""Random dropping that keeps every entry's expectation, seeded by names, so that neither order nor process matter."""

from __future__ import annotations

import hashlib
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, Parameters
from asrmerge.merging.methods._row_chunks import Sparsify
from asrmerge.merging.tuning import Tuned

MIN_DENSITY = 0.001  # below this, the few entries kept are multiplied by thousands
MASKS = "SFC64, 16 bits"  # what draws them, in the provenance: other masks get another name

_LEVELS = 1 << 16
_WORDS_IN_64_BITS = 4

Generator = np.random.SFC64  # NumPy keeps its stream the same in all versions; it takes a sixth of the time of torch.rand


class RandomParameters(Parameters):
    """What every method that drops at random has."""

    density: Annotated[float, Tuned(0.2, 0.8)] = Field(
        default=0.5, ge=MIN_DENSITY, le=1.0, description="share of the entries kept, on average"
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="seed of the random choice of entries")


def make_generators(block: Block, seed: int) -> list[Generator]:
    """One generator per expert, seeded by ``seed``, the block's name and the expert's (its place, if experts have no names)."""
    names = block.expert_names or [str(index) for index in range(len(block.weights))]
    return [_make_generator(seed, block.name, name) for name in names]


def drop_uniformly(density: float, generator: Generator) -> Sparsify:
    """Keeps each entry with probability p = ``density``, divided by p, else 0: Bernoulli(p)/p · τ."""
    probabilities = np.array([density])

    def sparsify(rows: Tensor) -> Tensor:
        if density == 1.0:
            return rows.clone()
        kept = draw_kept(generator, probabilities, (rows.numel(), 1)).reshape(rows.shape)
        return scale_kept(kept, probabilities).to(rows.device).mul_(rows)

    return sparsify


def draw_kept(generator: Generator, probabilities: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """What is kept of every row, each column with its own probability. Shapes: probabilities [length] → [rows, length].

    16 random bits say at which of 65 536 levels an entry is; the few that are at the very level of their probability are decided
    by 53 bits more, so that the probability holds to the last digit.
    """
    size = shape[0] * shape[1]
    levels = probabilities * _LEVELS
    bounds = np.minimum(np.floor(levels), _LEVELS - 1).astype(np.uint16)
    words = generator.random_raw(-(-size // _WORDS_IN_64_BITS)).astype("<u8", copy=False).view("<u2")
    drawn = words[:size].reshape(shape)
    kept: NDArray[np.bool_] = drawn < bounds
    open_ones = np.flatnonzero(drawn == bounds)
    further = (generator.random_raw(len(open_ones)) >> np.uint64(11)) * 2.0**-53
    kept.reshape(-1)[open_ones] = further < (levels - bounds)[open_ones % shape[1]]
    return kept


def scale_kept(kept: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> Tensor:
    """1/p where an entry is kept, else 0, in float32. Shapes: kept [rows, length], probabilities [length] → [rows, length]."""
    return torch.from_numpy(np.multiply(kept, (1 / probabilities).astype(np.float32)))


def _make_generator(seed: int, block: str, expert: str) -> Generator:
    # repr keeps the parts apart: ("a", "bc") is not ("ab", "c"). Python's own hash differs between processes.
    digest = hashlib.sha256(repr((seed, block, expert)).encode()).digest()
    return Generator(int.from_bytes(digest, "big"))
