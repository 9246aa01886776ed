"""TIES or a mean in a basis that all adapters share."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from asrmerge.adapters.factors import FactorBlock, Factors, MeanParameters, normalised
from asrmerge.adapters.methods._dense import as_task_vectors
from asrmerge.adapters.thin import Frames, numerical_rank, reduce, singular_triplets, weighted_sum
from asrmerge.merging.methods.ties import Ties, TiesParameters


class KnotsParameters(MeanParameters):
    combine: Literal["ties", "mean"] = Field(default="ties", description="How the parts in the shared basis are merged.")
    density: float = Field(default=0.2, gt=0.0, le=1.0, description="Share of each adapter's entries that ties keeps.")
    scale: float = Field(default=1.0, ge=-10.0, le=10.0, description="Factor on the merged adapter.")


class Knots:
    """TIES, or the mean, of the adapters' parts in a basis that all of them share.

    λ·U·S·merge(V₁, …, V_T)ᵀ, where [B₁A₁ … B_TA_T] = U·S·[V₁ᵀ … V_Tᵀ]; truncated to rank r. KnOTS (Stoica et al., arXiv
    2410.19735): the adapters share the basis U, and only their parts Vₜ [in, Σrₜ] are merged, by TIES (trim, elect the sign
    of Σ wₜVₜ, average what agrees) or by the mean. Computed from thin factors, where the paper's code takes the SVD of the
    concatenated deltas. ``mean`` gives U·S·(Σ wₜVₜ)ᵀ = Σ wₜBₜAₜ exactly, hence the method ``product``: all that KnOTS adds is
    the trimming and election. Weights are averaged (with ``normalize`` off, multiplied by their sum after the mean) and may
    be negative.

    Invariants: the same for factors (BM, M⁻¹A), as far as no two entries tie at the threshold; the order of the adapters does
    not matter; with ``mean``, or ties at density 1, and λ = 1, a one-hot weight returns that adapter and identical ones come
    back.
    """

    name = "knots"
    parameters = KnotsParameters

    def merge(self, block: FactorBlock, parameters: KnotsParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in].

        Raises:
            ConfigError: weights to be normalised sum to zero.
        """
        weights = normalised(self.name, block.weights) if parameters.normalize else list(block.weights)
        frames, cores = reduce(block.factors)
        # The cores share the orthonormal frame on the right, so concatenated they have the U and S of the deltas.
        u, s, _ = singular_triplets(torch.cat(cores, dim=1))
        kept = numerical_rank(s)
        left, s = frames.left @ u[:, :kept], s[:kept]
        # From the factors, not from the decomposition: what is zero must be so exactly, for rounding would vote with full weight.
        parts = [one.a.T.to(left) @ (one.b.T.to(left) @ left) / s for one in block.factors]
        if parameters.combine == "mean":
            merged = weighted_sum(parts, weights)
        else:
            ties = TiesParameters(density=parameters.density, scope="tensor")
            merged = Ties().merge(as_task_vectors(block, [part.to(torch.float32) for part in parts], weights), ties).to(left)
            if not parameters.normalize:
                merged *= sum(weights)
        right, lower = torch.linalg.qr(merged)
        return Frames(left, right).expand(parameters.scale * s[:, None] * lower.T, block.target_rank(parameters.rank))


method = Knots()
