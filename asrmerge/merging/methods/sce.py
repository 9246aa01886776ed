"""Select, calculate, erase: task vectors merged by energy, without the minority's signs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, add_scaled
from asrmerge.merging.methods._exact import nth_largest, share_of
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.tuning import Tuned

_PIECE = 1 << 17  # entries


class SceParameters(ScaleParameters):
    density: Annotated[float, Tuned(0.1, 1.0)] = Field(
        default=1.0, gt=0.0, le=1.0, description="Share of the entries that is kept, those on which the experts differ most."
    )


class Sce:
    """Mean of the task vectors by their energy, on the entries that vary most, without the minority's signs.

    Per tensor, with δₜ = wₜτₜ. Select: of the entries whose variance across the experts is not 0, the ``density`` share with the
    highest, at least one, ties included; the others become 0 in every δₜ. Calculate: ηₜ = ‖δₜ‖²/Σₛ‖δₛ‖². Erase: an entry of δₜ
    whose sign is not that of Σₛ δₛ is left out. Result: θ₀ + λ Σ ηₜδₜ/Σ ηₜ, entry by entry over what is left: SCE of FuseChat
    (Wan et al., arXiv 2408.07990). The weights multiply the task vectors first; an expert of weight 0 takes no part. Where
    Σ δ is 0 there is no minority and nothing is erased; where no entry varies, as with one expert, nothing is dropped.
    mergekit takes equal ηₜ where the mean squares of the task vectors sum to less than 1e-6, which in real fine-tunes is common.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; one expert comes back, and
    so do identical ones, with λ = w = 1; scaling all task vectors scales the result's.
    """

    name = "sce"
    needs_base = True
    weights_multiply = True
    parameters = SceParameters

    def merge(self, block: Block, parameters: SceParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        base = block.need_base(self.name)
        chosen = [(delta, weight) for delta, weight in zip(block.task_vectors(), block.weights, strict=True) if weight]
        deltas = [delta.reshape(-1) for delta, _ in chosen]
        weights = [weight for _, weight in chosen]
        mask = _select(deltas, weights, parameters.density, base) if parameters.density < 1 else None
        merged = _merge(deltas, weights, mask, base).reshape(block.shape)
        return add_scaled(base.clone(), [merged], [parameters.scale])


def _pieces(
    deltas: Sequence[Tensor], weights: Sequence[float], mask: Tensor | None, size: int
) -> Iterator[tuple[slice, list[Tensor]]]:
    """The selected entries of the weighted task vectors, piece by piece: so that little is held beside them."""
    for start in range(0, size, _PIECE):
        part = slice(start, min(start + _PIECE, size))
        parts = [delta[part] * weight for delta, weight in zip(deltas, weights, strict=True)]
        yield part, parts if mask is None else [piece.mul_(mask[part]) for piece in parts]


def _select(deltas: Sequence[Tensor], weights: Sequence[float], density: float, like: Tensor) -> Tensor | None:
    """Where the variance is among the highest; None where it is 0 everywhere. Shapes: [T][n] → [n]."""
    squares = torch.zeros_like(like).reshape(-1)
    for part, parts in _pieces(deltas, weights, None, like.numel()):
        mean = torch.zeros_like(squares[part])
        for count, delta in enumerate(parts, start=1):  # Welford's recurrence: exactly 0 where all experts are equal
            change = delta - mean
            mean.add_(change, alpha=1 / count)
            squares[part].addcmul_(change, delta.sub_(mean))
    varying = int(torch.count_nonzero(squares))
    if varying == 0:
        return None
    return squares >= nth_largest(squares, share_of(density, varying))


def _merge(deltas: Sequence[Tensor], weights: Sequence[float], mask: Tensor | None, like: Tensor) -> Tensor:
    """Σ ηₜδₜ/Σ ηₜ over the entries that are left, ηₜ the share of the energy. Shapes: [T][n] → [n]."""
    energies = [0.0] * len(deltas)
    for _, parts in _pieces(deltas, weights, mask, like.numel()):
        # In float32 the energy of a large tensor is off by 1e-3.
        norms = [float(torch.linalg.vector_norm(one, dtype=torch.float64)) for one in parts]
        energies = [energy + norm**2 for energy, norm in zip(energies, norms, strict=True)]
    total = math.fsum(energies)
    merged = torch.zeros_like(like).reshape(-1)
    for part, parts in _pieces(deltas, weights, mask, like.numel()):
        majority = add_scaled(torch.zeros_like(merged[part]), parts, [1.0] * len(parts)).sign_()
        norm = torch.zeros_like(majority)
        for delta, energy in zip(parts, energies, strict=True):
            share = energy / total if total > 0 else 0.0
            left = (delta * majority >= 0) & (delta != 0)
            merged[part].add_(delta.mul_(left), alpha=share)
            norm.add_(left, alpha=share)
        merged[part].div_(norm.masked_fill_(norm == 0, 1.0))
    return merged


method = Sce()
