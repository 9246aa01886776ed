"""Task arithmetic on the entries that several tasks need."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, add_scaled
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.tuning import Tuned


class ConsensusParameters(ScaleParameters):
    mask_scale: Annotated[float, Tuned(0.2, 0.6)] = Field(
        default=0.4, ge=0.0, le=10.0, description="How strict an expert's mask is; 0.2 to 0.6 is usual, higher keeps less."
    )
    minimum_tasks: int = Field(
        default=2, ge=1, le=1000, description="Keep what at least so many experts' masks keep; with fewer experts, all of theirs."
    )


class Consensus:
    """Task arithmetic on the entries that at least k experts have in their masks.

    θ₀ + λ m⊙τ with τ = Σ wₜτₜ, the masks mₜ = 1{|wₜτₜ| ≥ μ·|τ − wₜτₜ|} (expert t changed the entry by more than μ times what all
    others did) and m = 1{Σ mₜ ≥ k}: Consensus Task Arithmetic with TALL masks (Wang et al., arXiv 2405.07813). The weights
    multiply the task vectors, in the masks too: so the masks are the paper's, with all weights equal, whatever their size.
    An expert of weight 0 takes no part, and k is at most the number of experts that do. One μ serves all experts; the paper
    picks one for each on validation data.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; one expert with λw = 1
    comes back; μ = 0 is task arithmetic; T identical experts with equal weights give task arithmetic if μ·(T − 1) < 1, and the
    base if it is > 1: many experts that agree call for a small μ.
    """

    name = "consensus"
    needs_base = True
    weights_multiply = True
    elementwise = True
    parameters = ConsensusParameters

    def merge(self, block: Block, parameters: ConsensusParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        base = block.need_base(self.name)
        pairs = [(delta, weight) for delta, weight in zip(block.task_vectors(), block.weights, strict=True) if weight]
        total = torch.zeros_like(base)
        for delta, weight in pairs:
            total.add_(delta * weight)  # rounded as below, so that one expert is all of the total to the bit
        votes = torch.zeros_like(base, dtype=torch.int16)
        for delta, weight in pairs:
            own = delta * weight
            votes += own.abs() >= (total - own).abs_().mul_(parameters.mask_scale)
        kept = total.mul_(votes >= min(parameters.minimum_tasks, len(pairs)))
        return add_scaled(base.clone(), [kept], [parameters.scale])


method = Consensus()
