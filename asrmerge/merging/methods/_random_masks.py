"""Random dropping that keeps every entry's expectation, seeded by names, so that neither order nor process matter."""

from __future__ import annotations

import hashlib

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, Parameters
from asrmerge.merging.methods._row_chunks import Sparsify

MIN_DENSITY = 0.001  # below this, the few entries kept are multiplied by thousands


class RandomParameters(Parameters):
    """What every method that drops at random has."""

    density: float = Field(default=0.5, ge=MIN_DENSITY, le=1.0, description="share of the entries kept, on average")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="seed of the random choice of entries")


def make_generators(block: Block, seed: int) -> list[torch.Generator]:
    """One generator per expert, seeded by ``seed``, the block's name and the expert's (its place, if experts have no names)."""
    names = block.expert_names or [str(index) for index in range(len(block.weights))]
    return [_make_generator(seed, block.name, name) for name in names]


def drop_uniformly(density: float, generator: torch.Generator) -> Sparsify:
    """Keeps each entry with probability p = ``density``, divided by p, else 0: Bernoulli(p)/p · τ."""

    def sparsify(rows: Tensor) -> Tensor:
        if density == 1.0:
            return rows.clone()
        # Comparing uniform numbers takes a quarter of the time of Tensor.bernoulli_.
        kept = torch.rand(rows.shape, generator=generator).lt_(density)
        return kept.to(rows.device).mul_(rows).div_(density)

    return sparsify


def _make_generator(seed: int, block: str, expert: str) -> torch.Generator:
    # repr keeps the parts apart: ("a", "bc") is not ("ab", "c"). Python's own hash differs between processes.
    digest = hashlib.sha256(repr((seed, block, expert)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
