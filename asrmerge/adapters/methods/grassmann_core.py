"""Mean column and row spaces, and the mean of the adapters seen in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asrmerge.adapters.factors import FactorBlock, Factors, MeanParameters
from asrmerge.adapters.thin import mean_points, numerical_rank, singular_triplets, weighted_sum


class GrassmannCore:
    """The adapters' mean column space and mean row space, and the mean of the adapters seen in them.

    Ū: the top r eigenvectors of Σ wₜUₜUₜᵀ; V̄: of Σ wₜVₜVₜᵀ, where BₜAₜ = UₜSₜVₜᵀ; X = Ū·(Σ wₜ ŪᵀBₜAₜV̄)·V̄ᵀ. The frames are
    Fréchet means for the projection distance ‖UUᵀ − UₜUₜᵀ‖_F, so every direction of an adapter counts alike however small its
    singular value (frame of arXiv 2604.27155). Weights are averaged and must not be negative. A layer that an adapter lacks
    scales the mean of the others by their share of the weights.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; a one-hot weight returns that
    adapter; identical adapters come back; at rank ``lossless`` the weighted mean itself. Unique where eigenvalues r and r + 1
    differ, which those of adapters with equal weights and disjoint spaces do not.
    """

    name = "grassmann_core"
    parameters = MeanParameters

    def merge(self, block: FactorBlock, parameters: MeanParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in].

        Raises:
            ConfigError: a negative weight, or weights that sum to zero.
        """
        points = mean_points(self.name, block, parameters)
        rank = block.target_rank(parameters.rank)
        core = points.frames.left.new_zeros(points.frames.left.shape[1], points.frames.right.shape[1])
        if points.cores:
            triplets = [singular_triplets(one) for one in points.cores]
            ranks = [numerical_rank(s) for _, s, _ in triplets]
            left = _mean_frame([u[:, :kept] for (u, _, _), kept in zip(triplets, ranks, strict=True)], points.weights, rank)
            right = _mean_frame([v[:, :kept] for (_, _, v), kept in zip(triplets, ranks, strict=True)], points.weights, rank)
            cores = [left.T @ one @ right for one in points.cores]
            core = left @ (points.share * weighted_sum(cores, points.weights)) @ right.T
        return points.frames.expand(core, rank)


def _mean_frame(frames: Sequence[Tensor], weights: Sequence[float], rank: int) -> Tensor:
    # The left singular vectors of [√wₜUₜ] are the eigenvectors of Σ wₜUₜUₜᵀ, without squaring the condition number.
    scaled = torch.cat([frame * weight**0.5 for frame, weight in zip(frames, weights, strict=True)], dim=1)
    return singular_triplets(scaled)[0][:, :rank]


method = GrassmannCore()
