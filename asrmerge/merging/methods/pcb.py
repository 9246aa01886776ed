"""Task vectors averaged entry by entry, by how they compete."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, add_scaled
from asrmerge.merging.methods._exact import nth_largest, share_of
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.tuning import Tuned


class PcbParameters(ScaleParameters):
    density: Annotated[float, Tuned(0.05, 0.9)] = Field(
        default=0.2, gt=0.0, le=1.0, description="Share of each expert's entries that is kept: those of the highest β."
    )


class Pcb:
    """Mean of the task vectors, each entry weighed by its size in its own task and its agreement with the others.

    Parameter competition balancing (PCB-Merging; Du et al., arXiv 2410.02396). With δₜ = wₜτₜ and T experts:
    βₜ = Softmax(T·Norm(δₜ⊙δₜ)) ⊙ Σₛ Softmax(Norm(δₜ⊙δₛ)), the sum over all experts, t included; β̂ₜ is βₜ where it is among the
    ``density`` share of its highest entries (at least one, ties included), else 0; θ₀ + λ Σ β̂ₜ⊙δₜ/Σ β̂ₜ, entry by entry; an entry
    that no expert keeps stays the base's. Norm(x) = (x − min x)/(max x − min x), 0 for a constant x, and Softmax go over the
    entries of the tensor: the paper takes all of the model as one vector, so its shares differ from tensor to tensor. The
    weights multiply the task vectors, as the paper's λₜ; an expert of weight 0 takes no part. The authors' code has
    tanh(δₜ⊙Σ δₛ) for the second factor, which changes with the task vectors' scale, and clips outliers; this is the paper's text.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; at density 1 one expert
    comes back, and so do identical ones, with λ = w = 1; scaling all task vectors scales the result's.
    """

    name = "pcb"
    needs_base = True
    weights_multiply = True
    parameters = PcbParameters

    def merge(self, block: Block, parameters: PcbParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        base = block.need_base(self.name)
        pairs = [(delta, weight) for delta, weight in zip(block.task_vectors(), block.weights, strict=True) if weight]
        if not pairs or base.numel() == 0:
            return base.clone()
        deltas, weights = [delta for delta, _ in pairs], [weight for _, weight in pairs]
        merged, norm = torch.zeros_like(base), torch.zeros_like(base)
        for index, (delta, weight) in enumerate(pairs):
            balance = _keep_highest(_balance(deltas, weights, index), parameters.density)
            merged.addcmul_(balance, delta, value=weight)
            norm.add_(balance)
        merged.div_(norm.masked_fill_(norm == 0, 1.0))
        return add_scaled(base.clone(), [merged], [parameters.scale])


def _balance(deltas: Sequence[Tensor], weights: Sequence[float], index: int) -> Tensor:
    """βₜ of the expert ``index``, times a constant. Shapes: [T][*shape] → [*shape]."""
    own, weight = deltas[index], weights[index]
    among = torch.zeros_like(own)
    for other, its_weight in zip(deltas, weights, strict=True):
        sign = math.copysign(1.0, weight) * math.copysign(1.0, its_weight)  # Norm leaves no more of the weights
        among.add_(_softmax((own * other).mul_(sign), 1.0))
    return _softmax(own * own, float(len(deltas))).mul_(among)


def _softmax(values: Tensor, sharpness: float) -> Tensor:
    """Softmax(sharpness·Norm(values)) over all entries, times their number, which cancels; in place."""
    low, high = values.aminmax()
    span = high - low
    values.sub_(low).div_(span if span > 0 else 1.0)
    values.mul_(sharpness).sub_(sharpness).exp_()  # at most 1, so it cannot overflow; the highest entry is 1
    return values.div_(values.mean())


def _keep_highest(balance: Tensor, density: float) -> Tensor:
    kept = share_of(density, balance.numel())
    if kept == balance.numel():
        return balance
    return balance.mul_(balance >= nth_largest(balance, kept))


method = Pcb()
