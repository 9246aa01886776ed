"""Sums and means of B·A products without ever forming one: everything happens in cores as small as the ranks.

All in float64: the cores are small, and the factors (BM, M⁻¹A) of one adapter must give one result to 1e-5 in float32,
which QR in float32 would not hold for an M that is not well conditioned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asrmerge.adapters.factors import FactorBlock, Factors, MeanParameters, normalised
from asrmerge.errors import ConfigError

# Singular values below this share of the largest are taken for the rounding of float32 factors.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class Frames:
    """Orthonormal bases that hold every adapter's columns and rows: BₜAₜ = left · coreₜ · rightᵀ.

    Shapes: left [out, p], right [in, q], p and q at most Σrₜ.
    """

    left: Tensor
    right: Tensor

    def expand(self, core: Tensor, rank: int) -> Factors:
        """The best approximation of left · core · rightᵀ of that rank (Eckart–Young), as balanced float32 factors."""
        u, s, v = singular_triplets(core)
        root = s[:rank].sqrt()
        b = (self.left @ u[:, :rank]) * root
        a = ((self.right @ v[:, :rank]) * root).T
        return Factors(b.to(torch.float32), a.to(torch.float32).contiguous())


@dataclass(frozen=True, eq=False)
class Points:
    """The adapters that take part in a mean, as cores [p, q] with weights that sum to 1.

    Adapters without weight, and zero ones, are left out: zero has no column space. ``share`` is what the mean of the others
    is multiplied by, so that a layer missing from an adapter counts as a zero delta.
    """

    frames: Frames
    cores: tuple[Tensor, ...]
    weights: tuple[float, ...]
    share: float

    def mean(self) -> Tensor:
        """Σ wₜ coreₜ."""
        return weighted_sum(self.cores, self.weights)


def reduce(factors: Sequence[Factors]) -> tuple[Frames, list[Tensor]]:
    """Common frames, and each adapter's core in them, by QR of the stacked factors."""
    ranks = [one.rank for one in factors]
    left, upper = torch.linalg.qr(torch.cat([one.b.to(torch.float64) for one in factors], dim=1))
    right, lower = torch.linalg.qr(torch.cat([one.a.to(torch.float64) for one in factors], dim=0).T)
    pieces = zip(upper.split(ranks, dim=1), lower.split(ranks, dim=1), strict=True)
    return Frames(left, right), [one @ other.T for one, other in pieces]


def mean_points(method: str, block: FactorBlock, parameters: MeanParameters) -> Points:
    """What a Fréchet mean is taken of.

    Raises:
        ConfigError: a negative weight, or weights that sum to zero.
    """
    if any(weight < 0 for weight in block.weights):
        raise ConfigError(f"{method} is a mean and takes no negative weights: use the method svd or cat to subtract an adapter.")
    weights = normalised(method, block.weights)
    frames, cores = reduce(block.factors)
    chosen = [index for index, core in enumerate(cores) if weights[index] > 0 and bool(core.any())]
    share = sum(weights[index] for index in chosen)
    scale = share if parameters.normalize else share * sum(block.weights)
    return Points(frames, tuple(cores[index] for index in chosen), tuple(weights[index] / share for index in chosen), scale)


def merge_points(
    method: str, block: FactorBlock, parameters: MeanParameters, find_mean: Callable[[Points, int], Tensor]
) -> Factors:
    """The factors of a mean that ``find_mean`` takes of the points, given how many columns balanced factors have.

    Raises:
        ConfigError: a negative weight, or weights that sum to zero.
    """
    points = mean_points(method, block, parameters)
    rank = block.target_rank(parameters.rank)
    mean = points.frames.left.new_zeros(points.frames.left.shape[1], points.frames.right.shape[1])
    if points.cores:
        # A rank below the adapters' own cuts the mean, not the adapters.
        mean = find_mean(points, min(max(rank, block.target_rank("max")), *mean.shape))
    return points.frames.expand(points.share * mean, rank)


def singular_triplets(core: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V with core = U · diag(S) · Vᵀ, singular values falling."""
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    return u, s, vh.T


def numerical_rank(s: Tensor) -> int:
    """How many of the falling singular values are not rounding."""
    return int((s > NEGLIGIBLE * s.max()).sum()) if s.numel() else 0


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wₜxₜ."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor, alpha=weight)
    return total


def balanced(core: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Z = [U·S^½; V·S^½] and S, filled with zeros to that many columns; the square root would make much of rounding.

    Shapes: core [p, q] → [p + q, columns], [columns].
    """
    u, s, v = singular_triplets(core)
    kept = min(columns, numerical_rank(s))
    stacked = core.new_zeros(sum(core.shape), columns)
    stacked[:, :kept] = torch.cat([u[:, :kept], v[:, :kept]]) * s[:kept].sqrt()
    values = core.new_zeros(columns)
    values[:kept] = s[:kept]
    return stacked, values


def polar(matrix: Tensor) -> Tensor:
    """The orthogonal polar factor: the Q in O(r) with the largest tr(Qᵀ·matrix)."""
    u, _, vh = torch.linalg.svd(matrix)
    factor: Tensor = u @ vh
    return factor
