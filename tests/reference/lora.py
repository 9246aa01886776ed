"""Independent float64 NumPy versions of the methods for LoRA factors, on deltas in full."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import orthogonal_procrustes

Array = np.ndarray


def delta(b: Array, a: Array) -> Array:
    return np.asarray(b, dtype=np.float64) @ np.asarray(a, dtype=np.float64)


def scaled_delta(b: Array, a: Array, alpha: float, rslora: bool) -> Array:
    rank = a.shape[0]
    return alpha / (math.sqrt(rank) if rslora else rank) * delta(b, a)


def dora(weight: Array, change: Array, magnitude: Array) -> Array:
    moved = np.asarray(weight, dtype=np.float64) + change
    return np.stack([magnitude[row] * moved[row] / math.sqrt((moved[row] ** 2).sum()) for row in range(len(moved))])


def best_rank(matrix: Array, rank: int) -> Array:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def mean(deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    return sum(w * d for w, d in zip(weights, deltas, strict=True)) / sum(weights)


def product(deltas: Sequence[Array], weights: Sequence[float], rank: int) -> Array:
    return best_rank(mean(deltas, weights), rank)


def embedded(matrix: Array, columns: int) -> Array:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return np.concatenate([u * np.sqrt(s), vh.T * np.sqrt(s)])[:, :columns]


def procrustes(deltas: Sequence[Array], weights: Sequence[float], rank: int, iterations: int) -> Array:
    weights = np.asarray(weights) / np.sum(weights)
    points = [embedded(d, rank) for d in deltas]
    z = embedded(mean(deltas, weights), rank)
    for _ in range(iterations):
        z = sum(w * p @ orthogonal_procrustes(p, z)[0] for w, p in zip(weights, points, strict=True))
    rows = deltas[0].shape[0]
    return best_rank(z[:rows] @ z[rows:].T, rank)


def grassmann_core(deltas: Sequence[Array], weights: Sequence[float], rank: int) -> Array:
    weights = np.asarray(weights) / np.sum(weights)

    def frame(sides: Sequence[Array]) -> Array:
        projectors = []
        for side in sides:
            q, s, _ = np.linalg.svd(side, full_matrices=False)
            q = q[:, s > 1e-5 * s[0]]
            projectors.append(q @ q.T)
        return np.linalg.eigh(mean(projectors, weights))[1][:, ::-1][:, :rank]

    left, right = frame(deltas), frame([d.T for d in deltas])
    return left @ mean([left.T @ d @ right for d in deltas], weights) @ right.T


def trim(matrix: Array, density: float) -> Array:
    kept = max(1, round(density * matrix.size))
    threshold = np.sort(np.abs(matrix), axis=None)[-kept]
    return np.where(np.abs(matrix) >= threshold, matrix, 0)


def elect(parts: Sequence[Array], weights: Sequence[float]) -> Array:
    """Entry by entry, on purpose."""
    merged = np.zeros_like(parts[0])
    for place in np.ndindex(*merged.shape):
        pairs = [(w, p[place]) for w, p in zip(weights, parts, strict=True)]
        total = sum(w * value for w, value in pairs)
        agreeing = [(w, value) for w, value in pairs if w * value * total > 0]
        if agreeing:
            merged[place] = sum(w * value for w, value in agreeing) / sum(abs(w) for w, _ in agreeing)
    return merged


def ties(deltas: Sequence[Array], weights: Sequence[float], rank: int, density: float, scale: float) -> Array:
    return best_rank(scale * elect([trim(d, density) for d in deltas], weights), rank)


def knots(deltas: Sequence[Array], weights: Sequence[float], rank: int, density: float, scale: float) -> Array:
    u, s, _ = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    kept = s > 1e-6 * s[0]
    parts = [(u[:, kept] / s[kept]).T @ d for d in deltas]  # zero where d is: the right singular vectors hold rounding there
    return best_rank(scale * (u[:, kept] * s[kept]) @ elect([trim(p, density) for p in parts], weights), rank)


def quotient_distance(x: Array, expert: Array, rank: int, metric: str, floor: float, turns: Sequence[Array]) -> float:
    """min over R in O(r) of ‖(Gₜ − GR, Hₜ − HR)‖² in the metric at the expert: block by block, from many starts."""
    rows = x.shape[0]
    z, point = embedded(x, rank), embedded(expert, rank)
    s = np.linalg.svd(expert, compute_uv=False)[:rank]
    s = np.maximum(s, floor * s[0])
    inner = np.diag(s if metric == "mix" else 1 / s)

    def value(r: Array) -> float:
        a, c = point[:rows] - z[:rows] @ r, point[rows:] - z[rows:] @ r
        return float(np.trace(inner @ a.T @ a) + np.trace(inner @ c.T @ c))

    best = math.inf
    for r in [orthogonal_procrustes(z, point)[0], *turns]:
        # Projected gradient descent on O(r) with halving steps.
        step, current = 0.1, value(r)
        for _ in range(120):
            gradient = 2 * z.T @ (z @ r - point) @ inner
            u, _, vh = np.linalg.svd(r - step * gradient)
            trial = value(u @ vh)
            if trial < current:
                r, current, step = u @ vh, trial, step * 1.5
            else:
                step /= 2
        best = min(best, current)
    return best


def quotient_objective(
    x: Array, deltas: Sequence[Array], weights: Sequence[float], rank: int, metric: str, floor: float
) -> float:
    generator = np.random.default_rng(0)
    turns = [np.linalg.qr(generator.normal(size=(rank, rank)))[0] for _ in range(2)]
    weights = np.asarray(weights) / np.sum(weights)
    distances = [quotient_distance(x, d, rank, metric, floor, turns) for d in deltas]
    return float(np.dot(weights, distances))
