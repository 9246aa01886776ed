"""Random dropping on the deltas in full, their weighted sum, then the best low-rank approximation."""

from __future__ import annotations

from asrmerge.adapters.factors import FactorBlock, Factors, RankParameters
from asrmerge.adapters.methods._dense import full_deltas, truncate
from asrmerge.merging.methods.dare_linear import DareLinear, DareLinearParameters


class DareLinearSvdParameters(RankParameters, DareLinearParameters):
    pass


class DareLinearSvd:
    """Drops entries of the deltas at random, rescales the rest, adds them up by weight, and cuts to rank r.

    λ Σ wₜ·mₜ⊙BₜAₜ/p with random masks mₜ of density p, truncated to rank r. The method ``dare_linear`` (Yu et al., arXiv
    2311.03099) on each layer's delta in full: the sum is right in expectation, and of full rank, so that the truncation loses
    part of it. PEFT's ``dare_linear_svd`` is the same up to its choice of masks, which follows the order of the adapters;
    here the layer's and the adapter's names seed it. Weights multiply the deltas and may be negative.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; zero weights return zero; at
    density 1 the method ``svd`` times λ.
    """

    name = "dare_linear_svd"
    parameters = DareLinearSvdParameters

    def merge(self, block: FactorBlock, parameters: DareLinearSvdParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in]."""
        return truncate(DareLinear().merge(full_deltas(block), parameters), block.target_rank(parameters.rank))


method = DareLinearSvd()
