"""The mean of balanced factors, each rotated onto the mean."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from asrmerge.adapters.factors import FactorBlock, Factors, MeanParameters
from asrmerge.adapters.thin import Points, balanced, merge_points, polar, weighted_sum


class ProcrustesParameters(MeanParameters):
    iterations: int = Field(default=8, ge=1, le=1000, description="Rounds of rotating the factors and averaging them.")


class Procrustes:
    """The mean of the adapters' balanced factors, each rotated onto the mean.

    min over Z, Qₜ ∈ O(r) of Σ wₜ‖ZₜQₜ − Z‖²_F with Zₜ = [U·S^½; V·S^½]. In turn Qₜ = polar(ZₜᵀZ) and Z = Σ wₜZₜQₜ, from the
    factors of ``product``; neither step can raise the objective. The mean is G·Hᵀ with Z = [G; H]. Generalised Procrustes
    analysis (Gower, 1975) on the quotient of arXiv 2604.27155. Weights are averaged and must not be negative. Factors are
    square roots of the adapter, so adapters that have little in common come out smaller than in ``product``. A layer that an
    adapter lacks scales the mean of the others by their share of the weights.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; a one-hot weight returns that
    adapter; identical adapters come back. Every step is unique where no ZₜᵀZ is singular.
    """

    name = "procrustes"
    parameters = ProcrustesParameters

    def merge(self, block: FactorBlock, parameters: ProcrustesParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in].

        Raises:
            ConfigError: a negative weight, or weights that sum to zero.
        """

        def find_mean(points: Points, columns: int) -> Tensor:
            stacked = [balanced(core, columns)[0] for core in points.cores]
            z = align(stacked, points.weights, balanced(points.mean(), columns)[0], parameters.iterations)[0]
            rows = points.cores[0].shape[0]
            return z[:rows] @ z[rows:].T

        return merge_points(self.name, block, parameters, find_mean)


def align(points: Sequence[Tensor], weights: Sequence[float], start: Tensor, iterations: int) -> tuple[Tensor, list[float]]:
    """The mean Z and Σ wₜ‖ZₜQₜ − Z‖² after each round. Shapes: points [T] of [p + q, r], start [p + q, r] → [p + q, r]."""
    mean, objectives = start, []
    for _ in range(iterations):
        rotated = [point @ polar(point.T @ mean) for point in points]
        mean = weighted_sum(rotated, weights)
        distances = [float((point - mean).square().sum()) for point in rotated]
        objectives.append(sum(weight * distance for weight, distance in zip(weights, distances, strict=True)))
    return mean, objectives


method = Procrustes()
