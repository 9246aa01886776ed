"""The last two steps of TIES: elect a sign for every entry, then merge the task vectors that agree with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._row_chunks import ScaleParameters, Sparsify, as_rows, copy_base, iterate_chunks

_SMALLEST = torch.finfo(torch.float32).tiny


class ElectionParameters(ScaleParameters):
    """What every method with a sign election has."""

    normalize: bool = Field(default=True, description="average the agreeing entries by weight; if false, sum them")
    election: Literal["sum", "count"] = Field(
        default="sum", description="the sign of the weighted sum, or the one that more experts have"
    )


def elect_and_merge(block: Block, sparsify: Sequence[Sparsify], parameters: ElectionParameters, method: str) -> Tensor:
    """θ₀ + λ·m, with m the mean or sum, entry by entry, of those wₜ·sparsifyₜ(τₜ) ≠ 0 that have the elected sign.

    The elected sign is that of Σ wₜτ̂ₜ (or of Σ sign(wₜτ̂ₜ)). Where this is exactly 0, it is the sign that more of the tensor's
    entries elected, and where these are equal too, the entry stays as in the base. The mean is Σ wₜτ̂ₜ / Σ |wₜ|: with negative
    weights, division by Σ wₜ would turn the sign back.

    Raises:
        ConfigError: there is no base.
    """
    merged = copy_base(block, method)
    target = as_rows(merged)
    majority = 0
    undecided: list[tuple[slice, Tensor, Tensor, Tensor]] = []
    for rows, vectors in iterate_chunks(block):
        sparse = [make_sparse(vector) for make_sparse, vector in zip(sparsify, vectors, strict=True)]
        elected, upward, downward = _merge_by_sign(sparse, block.weights, parameters)
        majority += int(elected.sum(dtype=torch.float64))
        ties = (1 - elected.abs()) * upward  # where votes are equal but not all zero, both upward and downward are not 0
        if ties.any():
            where = ties > 0
            undecided.append((rows, where, upward[where], downward[where]))
        chosen = upward.mul_(elected.clamp(min=0)).addcmul_(downward, elected.clamp(max=0), value=-1)
        target[rows].add_(chosen, alpha=parameters.scale)
    for rows, where, upward, downward in undecided:
        if majority != 0:
            target[rows][where] += parameters.scale * (upward if majority > 0 else downward)
    return merged


def _merge_by_sign(
    vectors: Sequence[Tensor], weights: Sequence[float], parameters: ElectionParameters
) -> tuple[Tensor, Tensor, Tensor]:
    """Per entry: the elected sign, 0 where votes are equal; the merge of what is positive; the merge of what is negative."""
    # Signs are kept as float32 numbers, because torch combines those with numbers ten times as fast as booleans.
    votes, upward, downward, upward_weight, downward_weight = (torch.zeros_like(vectors[0]) for _ in range(5))
    for vector, weight in zip(vectors, weights, strict=True):
        weighted = vector * weight
        if parameters.election == "count":
            votes.add_(weighted.sign())
        positive, negative = weighted.clamp(min=0), weighted.clamp_(max=0)
        upward.add_(positive)
        downward.add_(negative)
        if parameters.normalize:
            upward_weight.add_(positive.sign_(), alpha=abs(weight))
            downward_weight.add_(negative.sign_(), alpha=-abs(weight))
    if parameters.election == "sum":
        votes = upward + downward
    if parameters.normalize:  # where no expert agrees, this is 0 divided by more than 0
        upward.div_(upward_weight.clamp_(min=_SMALLEST))
        downward.div_(downward_weight.clamp_(min=_SMALLEST))
    return votes.sign_(), upward, downward
