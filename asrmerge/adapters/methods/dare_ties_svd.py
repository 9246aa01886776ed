"""Random dropping and sign election on the deltas in full, then the best low-rank approximation."""

from __future__ import annotations

from asrmerge.adapters.factors import FactorBlock, Factors
from asrmerge.adapters.methods._dense import truncate
from asrmerge.adapters.methods._sparse import drop, elect_and_average
from asrmerge.adapters.methods.dare_linear_svd import DareParameters


class DareTiesSvd:
    """DARE in place of TIES' trimming: random masks mₜ, τₜ = mₜ∘BₜAₜ/p, the sign of Σ wₜτₜ, the mean of what agrees; rank r.

    DARE (Yu et al., arXiv 2311.03099) with the election of TIES (Yadav et al., arXiv 2306.01708). Unlike the sum, the mean of
    what agrees is not right in expectation: it leaves the dropped entries out of the divisor, so it grows by 1/p where adapters
    don't overlap. PEFT's ``dare_ties_svd`` leaves the weights out of the election and of the divisor.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; at density 1 the method
    ``ties_svd`` at density 1.
    """

    name = "dare_ties_svd"
    parameters = DareParameters

    def merge(self, block: FactorBlock, parameters: DareParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in]."""
        dropped = [drop(block, index, parameters.density, parameters.seed) for index in range(len(block.factors))]
        merged = elect_and_average(dropped, block.weights)
        return truncate(parameters.scale * merged, block.target_rank(parameters.rank))


method = DareTiesSvd()
