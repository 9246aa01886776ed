"""The best low-rank approximation of the weighted sum of the products."""

from __future__ import annotations

from asrmerge.adapters.factors import FactorBlock, Factors, RankParameters
from asrmerge.adapters.thin import reduce, weighted_sum


class Svd:
    """The rank-r matrix nearest to the weighted sum of the products: task arithmetic on adapters.

    That of Σ wₜBₜAₜ, as PEFT's ``svd``. The same as ``product`` but for the weights: here they multiply the deltas, are not
    divided by their sum, and may be negative (Ilharco et al., arXiv 2212.04089). PEFT takes the SVD of the full product, and
    passes to its ``linear``, which is another method, where one adapter is given; here the result comes from thin factors.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; a one-hot weight returns that
    adapter; zero weights return zero; identical adapters come back if and only if Σ wₜ = 1.
    """

    name = "svd"
    parameters = RankParameters

    def merge(self, block: FactorBlock, parameters: RankParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in]."""
        frames, cores = reduce(block.factors)
        return frames.expand(weighted_sum(cores, block.weights), block.target_rank(parameters.rank))


method = Svd()
