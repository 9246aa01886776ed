"""The best low-rank approximation of the weighted mean of the products."""

from __future__ import annotations

from asrmerge.adapters.factors import FactorBlock, Factors, MeanParameters, normalised
from asrmerge.adapters.thin import reduce, weighted_sum


class Product:
    """The rank-r matrix nearest to the mean of the products.

    argmin over rank(X) ≤ r of Σ wₜ‖X − BₜAₜ‖²_F: X is the truncated singular value decomposition of Σ wₜBₜAₜ, computed from
    QR of the stacked factors and the SVD of a core as small as Σrₜ, so the full product is never formed. It is the exact
    Fréchet mean for the chordal distance (the frame of "Fréchet averaging", arXiv 2604.27155; Eckart & Young, 1936). Weights
    are averaged (divided by their sum unless ``normalize`` is off); they may be negative. PEFT's ``linear`` averages the
    factors instead and gets cross terms BₛAₜ.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; a one-hot weight returns that
    adapter; identical adapters come back; at rank ``lossless`` the weighted mean itself. Unique where singular values r and
    r + 1 differ.
    """

    name = "product"
    parameters = MeanParameters

    def merge(self, block: FactorBlock, parameters: MeanParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in].

        Raises:
            ConfigError: weights to be normalised sum to zero.
        """
        weights = normalised(self.name, block.weights) if parameters.normalize else list(block.weights)
        frames, cores = reduce(block.factors)
        return frames.expand(weighted_sum(cores, weights), block.target_rank(parameters.rank))


method = Product()
