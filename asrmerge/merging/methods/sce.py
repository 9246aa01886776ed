"""Select, calculate, erase: task vectors merged by energy, without the minority's signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Parameters, add_scaled


class SceParameters(Parameters):
    density: float = Field(
        default=1.0, gt=0.0, le=1.0, description="share of the entries that is kept, those on which the experts differ most"
    )
    scale: float = Field(default=1.0, ge=-10.0, le=10.0, description="factor on the merged change")


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
    parameters = SceParameters

    def merge(self, block: Block, parameters: SceParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        if block.base is None:
            raise ConfigError("sce needs a base: name it in the recipe.")
        pairs = [(delta, weight) for delta, weight in zip(block.task_vectors(), block.weights, strict=True) if weight]
        mask = None
        if parameters.density < 1:
            mask = _select((delta * weight for delta, weight in pairs), parameters.density, block.base)

        def selected() -> Iterator[Tensor]:  # made anew in each pass, to hold one at a time
            for delta, weight in pairs:
                yield delta * weight if mask is None else (delta * weight).mul_(mask)

        return add_scaled(block.base.clone(), [_merge(selected, block.base)], [parameters.scale])


def _select(deltas: Iterator[Tensor], density: float, like: Tensor) -> Tensor | None:
    """Where the variance is among the highest; None where it is 0 everywhere. Shapes: [T][*shape] → [*shape].

    The deltas are used up.
    """
    mean, squares = torch.zeros_like(like), torch.zeros_like(like)
    for count, delta in enumerate(deltas, start=1):  # Welford's recurrence: exactly 0 where all experts are equal
        change = delta - mean
        mean.add_(change, alpha=1 / count)
        squares.addcmul_(change, delta.sub_(mean))
    varying = int(torch.count_nonzero(squares))
    if varying == 0:
        return None
    kept = max(1, math.floor(varying * density + 1e-6))  # 0.29 · 100 is 28.999…, and 29 is meant
    position = squares.numel() - kept
    threshold = np.partition(squares.flatten().numpy(force=True), position)[position]  # torch.kthvalue is slower, holds indices
    return squares >= float(threshold)


def _merge(deltas: Callable[[], Iterator[Tensor]], like: Tensor) -> Tensor:
    energies, majority = [], torch.zeros_like(like)
    for delta in deltas():
        energies.append(_norm(delta) ** 2)
        majority.add_(delta)
    majority.sign_()
    total = math.fsum(energies)
    merged, norm = torch.zeros_like(like), torch.zeros_like(like)
    for delta, energy in zip(deltas(), energies, strict=True):
        share = energy / total if total > 0 else 0.0
        left = (delta * majority >= 0) & (delta != 0)
        merged.add_(delta.mul_(left), alpha=share)
        norm.add_(left, alpha=share)
    return merged.div_(norm.masked_fill_(norm == 0, 1.0))


def _norm(tensor: Tensor) -> float:
    # In float32 the norm of a large tensor is off by 1e-3; in float64 it copies the tensor, so that is done piece by piece.
    pieces = tensor.flatten().chunk(1 + tensor.numel() // 2**20)
    return math.hypot(*(float(torch.linalg.vector_norm(piece, dtype=torch.float64)) for piece in pieces))


method = Sce()
