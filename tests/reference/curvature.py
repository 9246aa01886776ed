"""Independent float64 NumPy versions of merges with curvature: loops for the diagonal ones, dense equations for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def fisher(
    experts: Sequence[Array],
    weights: Sequence[float],
    fishers: Sequence[Array],
    floors: Sequence[float] | None = None,
    norms: Sequence[float] | None = None,
) -> Array:
    """Σ wₜFₜθₜ/Σ wₜFₜ, entry by entry; ``floors`` and ``norms`` of every expert. Where Σ wₜFₜ is 0, the weighted mean."""
    floors = [0.0] * len(experts) if floors is None else floors
    norms = [1.0] * len(experts) if norms is None else norms
    merged = np.zeros(experts[0].shape)
    for place in np.ndindex(merged.shape):
        shares = [
            weight / norm * max(float(diagonal[place]), floor)
            for weight, norm, diagonal, floor in zip(weights, norms, fishers, floors, strict=True)
        ]
        shares = shares if sum(shares) > 0 else list(weights)
        merged[place] = sum(share * float(one[place]) for share, one in zip(shares, experts, strict=True)) / sum(shares)
    return merged


def ugm(
    base: Array,
    experts: Sequence[Array],
    weights: Sequence[float],
    fishers: Sequence[Array],
    counts: Sequence[int],
    base_curvature: Array,
    scale: float = 1.0,
) -> Array:
    """θ₀ + λ Σ aₜ(H₀ + Hₜ)/(H₀ + Σ aₛHₛ)·(θₜ − θ₀), entry by entry, with ``base_curvature`` H₀."""
    merged = np.zeros(base.shape)
    for place in np.ndindex(merged.shape):
        own = float(base_curvature[place])
        curvatures = [count * float(diagonal[place]) for count, diagonal in zip(counts, fishers, strict=True)]
        below = own + sum(weight * curvature for weight, curvature in zip(weights, curvatures, strict=True))
        step = sum(
            weight * (own + curvature) / below * (float(one[place]) - float(base[place]))
            for weight, curvature, one in zip(weights, curvatures, experts, strict=True)
        )
        merged[place] = float(base[place]) + scale * step
    return merged


def shrunk(gram: Array, alpha: float) -> Array:
    """αG + (1 − α)·diag(G)."""
    gram = np.asarray(gram, dtype=np.float64)
    return alpha * gram + (1 - alpha) * np.diag(np.diag(gram))


def regmean(
    experts: Sequence[Array], weights: Sequence[float], grams: Sequence[Array], alpha: float, jitter: float = 0.0
) -> Array:
    """(Σ wₜWₜG̃ₜ)(Σ wₜG̃ₜ)⁻¹, the jitter added to every expert's Gram matrix: a share of their weighted mean's mean diagonal."""
    own = [shrunk(gram, alpha) for gram in grams]
    mean = sum(weight * gram for weight, gram in zip(weights, own, strict=True)) / sum(weights)
    own = [gram + jitter * np.trace(mean) / len(mean) * np.eye(len(mean)) for gram in own]
    left = sum(weight * gram for weight, gram in zip(weights, own, strict=True))
    right = sum(weight * np.float64(one) @ gram for weight, one, gram in zip(weights, experts, own, strict=True))
    return np.linalg.solve(left.T, right.T).T


def mats(experts: Sequence[Array], weights: Sequence[float], grams: Sequence[Array], factors: Sequence[Array]) -> Array:
    """Σ wₜBₜθAₜ = Σ wₜBₜθₜAₜ by one dense matrix; θ read row by row is B⊗A times what it was."""
    shape = experts[0].shape
    matrices = [
        weight * np.kron(np.float64(factor), np.float64(gram).T)
        for weight, gram, factor in zip(weights, grams, factors, strict=True)
    ]
    right = sum(matrix @ np.float64(one).ravel() for matrix, one in zip(matrices, experts, strict=True))
    return np.linalg.solve(sum(matrices), right).reshape(shape)
