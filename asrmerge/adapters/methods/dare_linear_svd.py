"""Random dropping on the deltas in full, their weighted sum, then the best low-rank approximation."""

from __future__ import annotations

import torch
from pydantic import Field

from asrmerge.adapters.factors import FactorBlock, Factors, RankParameters
from asrmerge.adapters.methods._dense import truncate
from asrmerge.adapters.methods._sparse import drop


class DareParameters(RankParameters):
    density: float = Field(default=0.5, gt=0.0, le=1.0, description="Chance of an entry to be kept; kept ones are divided by it.")
    scale: float = Field(default=1.0, ge=-10.0, le=10.0, description="Factor on the merged adapter.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="What the random choice starts from.")


class DareLinearSvd:
    """λ Σ wₜ·mₜ∘BₜAₜ/p with random masks mₜ of density p, truncated to rank r.

    DARE (Yu et al., arXiv 2311.03099) on each layer's delta in full: the sum is right in expectation, and of full rank, so that
    the truncation loses part of it. PEFT's ``dare_linear_svd`` is the same up to its choice of masks, which follows the order
    of the adapters; here the layer's and the adapter's names seed it. Weights multiply the deltas and may be negative.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; zero weights return zero; at
    density 1 the method ``svd`` times λ.
    """

    name = "dare_linear_svd"
    parameters = DareParameters

    def merge(self, block: FactorBlock, parameters: DareParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in]."""
        total = torch.zeros(block.shape)
        for index, weight in enumerate(block.weights):
            total.add_(drop(block, index, parameters.density, parameters.seed), alpha=parameters.scale * weight)
        return truncate(total, block.target_rank(parameters.rank))


method = DareLinearSvd()
