"""TIES on the deltas in full, then the best low-rank approximation."""

from __future__ import annotations

from pydantic import Field

from asrmerge.adapters.factors import FactorBlock, Factors, RankParameters
from asrmerge.adapters.methods._dense import full_deltas, truncate
from asrmerge.merging.methods._sign_election import ElectionParameters
from asrmerge.merging.methods.ties import Ties, TiesParameters


class TiesSvdParameters(RankParameters, ElectionParameters):
    density: float = Field(default=0.2, gt=0.0, le=1.0, description="Share of each adapter's entries to keep, the largest ones.")


class TiesSvd:
    """Keeps each delta's largest entries, elects a sign per entry, averages what agrees, and cuts to rank r.

    λ·TIES(B₁A₁, …, B_TA_T), truncated to rank r. The method ``ties`` (Yadav et al., arXiv 2306.01708) on each layer's delta
    in full, the best rank-r approximation after it. As PEFT's ``ties_svd`` where all weights are 1; PEFT leaves the weights
    out of the election and of the divisor, so they scale the result instead of averaging: two identical adapters with weights
    ½ come back halved. What TIES returns is of full rank as a rule, so the truncation loses part of it. Weights may be
    negative.

    Invariants: the same for factors (BM, M⁻¹A), as far as no two entries tie at the threshold; the order of the adapters does
    not matter; at density 1 and λ = 1 a one-hot weight returns that adapter and identical adapters come back.
    """

    name = "ties_svd"
    parameters = TiesSvdParameters

    def merge(self, block: FactorBlock, parameters: TiesSvdParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in]."""
        ties = TiesParameters(**parameters.model_dump(exclude={"rank"}), scope="tensor")
        return truncate(Ties().merge(full_deltas(block), ties), block.target_rank(parameters.rank))


method = TiesSvd()
