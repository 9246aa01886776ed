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
    undecided: list[tuple[slice, Tensor, list[Tensor]]] = []
    for rows, vectors in iterate_chunks(block):
        weighted = [
            make_sparse(vector).mul_(weight) for make_sparse, vector, weight in zip(sparsify, vectors, block.weights, strict=True)
        ]
        elected = _elect(weighted, parameters.election)
        majority += int(elected.sum(dtype=torch.float64))
        tied = _find_tied(elected, weighted)
        if tied is not None:
            undecided.append((rows, tied, [vector[tied] for vector in weighted]))
        target[rows].add_(_merge_agreeing(weighted, elected, block.weights, parameters.normalize), alpha=parameters.scale)
    for rows, tied, weighted in undecided:
        if majority != 0:
            elected = torch.full_like(weighted[0], 1 if majority > 0 else -1)
            chosen = _merge_agreeing(weighted, elected, block.weights, parameters.normalize)
            target[rows][tied] += parameters.scale * chosen
    return merged


def _elect(weighted: Sequence[Tensor], election: Literal["sum", "count"]) -> Tensor:
    """The sign of every entry, as a float32 number; 0 where votes are equal."""
    # In float64 sums of a few float32 numbers are exact, so that the order of the experts cannot turn a sign.
    votes = torch.zeros_like(weighted[0], dtype=torch.float64 if election == "sum" else None)
    for vector in weighted:
        votes.add_(vector if election == "sum" else vector.sign())
    return votes.sign_().to(torch.float32)


def _find_tied(elected: Tensor, weighted: Sequence[Tensor]) -> Tensor | None:
    """Where votes are equal but not all zero; None if nowhere."""
    arrays = [vector.numpy(force=True) for vector in weighted]  # NumPy compares with 0 in a fifth of torch's time
    voted = arrays[0] != 0
    for array in arrays[1:]:
        voted |= array != 0
    voted &= elected.numpy(force=True) == 0
    return torch.from_numpy(voted).to(elected.device) if voted.any() else None


def _merge_agreeing(weighted: Sequence[Tensor], elected: Tensor, weights: Sequence[float], normalize: bool) -> Tensor:
    """The sum, or the mean by |weight|, of the entries of the elected sign; overwrites ``weighted``."""
    total, total_weight = torch.zeros_like(elected), torch.zeros_like(elected)
    for vector, weight in zip(weighted, weights, strict=True):
        agreeing = vector.mul_(elected).clamp_(min=0)
        total.add_(agreeing)
        if normalize:
            total_weight.add_(agreeing.sign_(), alpha=abs(weight))
    if normalize:  # where no expert agrees, this is 0 divided by more than 0
        total.div_(total_weight.clamp_(min=_SMALLEST))
    return total.mul_(elected)
