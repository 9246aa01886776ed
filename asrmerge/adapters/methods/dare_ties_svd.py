"""Random dropping and sign election on the deltas in full, then the best low-rank approximation."""

from __future__ import annotations

from asrmerge.adapters.factors import FactorBlock, Factors, RankParameters
from asrmerge.adapters.methods._dense import full_deltas, truncate
from asrmerge.merging.methods.dare_ties import DareTies, DareTiesParameters


class DareTiesSvdParameters(RankParameters, DareTiesParameters):
    pass


class DareTiesSvd:
    """Drops entries of the deltas at random, elects a sign per entry, averages what agrees, and cuts to rank r.

    DARE in place of TIES' trimming: random masks mₜ, τₜ = mₜ⊙BₜAₜ/p, the sign of Σ wₜτₜ, the mean of what agrees. The method
    ``dare_ties`` (DARE: Yu et al., arXiv 2311.03099; TIES: Yadav et al., arXiv 2306.01708) on each layer's delta in full.
    Unlike a sum, the mean of what agrees is not right in expectation: it leaves the dropped entries out of the divisor, so it
    grows by 1/p where adapters don't overlap; ``normalize: false`` with Σ wₜ = 1 sums instead. PEFT's ``dare_ties_svd``
    leaves the weights out of the election and of the divisor.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; at density 1 the method
    ``ties_svd`` at density 1.
    """

    name = "dare_ties_svd"
    parameters = DareTiesSvdParameters

    def merge(self, block: FactorBlock, parameters: DareTiesSvdParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in]."""
        return truncate(DareTies().merge(full_deltas(block), parameters), block.target_rank(parameters.rank))


method = DareTiesSvd()
