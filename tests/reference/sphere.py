"""Independent NumPy versions of SLERP, NuSLERP and the Karcher means, on whole vectors, without Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def angle(one: Array, other: Array) -> float:
    """Between two vectors, exact near 0 and π (Kahan)."""
    a, b = one / length(one), other / length(other)
    return 2 * np.arctan2(length(a - b), length(a + b))


def length(vector: Array) -> float:
    return np.sqrt((vector * vector).sum())


def slerp(one: Array, other: Array, t: float, threshold: float = 1.0) -> Array:
    """Of whole arrays as vectors. Linear beyond the threshold, and where an arc does not exist."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if length(one) == 0 or length(other) == 0:
        return (1 - t) * one + t * other
    phi = angle(one, other)
    if abs(np.cos(phi)) > threshold or min(phi, np.pi - phi) < 1e-6:
        return (1 - t) * one + t * other
    return (np.sin((1 - t) * phi) * one + np.sin(t * phi) * other) / np.sin(phi)


def karcher(vectors: Sequence[Array], weights: Sequence[float], steps: int = 200, dtype: type = np.float64) -> Array:
    """Σ wₜrₜ times the mean direction, run to convergence; weights need not sum to 1. All vectors zero: zero."""
    vectors = [np.asarray(vector, dtype=dtype) for vector in vectors]
    shares = np.asarray(weights, dtype=dtype) / np.sum(np.asarray(weights, dtype=dtype))
    norms = [length(vector) for vector in vectors]
    pairs = [(share, vector / norm) for share, vector, norm in zip(shares, vectors, norms, strict=True) if norm > 0 and share > 0]
    if not pairs:
        return np.zeros_like(vectors[0])
    total = sum(share for share, _ in pairs)
    mean = sum(share * unit for share, unit in pairs)
    mean = mean / length(mean)
    for _ in range(steps):
        tangent = np.zeros_like(mean)
        for share, unit in pairs:
            phi = angle(mean, unit)
            factor = phi / np.sin(phi) if phi > 1e-12 else 1.0
            tangent = tangent + share / total * factor * (unit - np.cos(phi) * mean)
        size = length(tangent)
        if size < 1e-16:
            break
        mean = np.cos(size) * mean + np.sin(size) * tangent / size
    return sum(share * norm for share, norm in zip(shares, norms, strict=True)) * mean / length(mean)


def fisher_karcher(vectors: Sequence[Array], weights: Sequence[float], fishers: Sequence[Array], floor: float) -> Array:
    metric = np.mean([np.asarray(fisher, dtype=np.float64) for fisher in fishers], axis=0)
    root = np.sqrt(np.maximum(metric, floor * metric.mean()))
    return karcher([root * vector for vector in vectors], weights) / root


def by_row(function, arrays: Sequence[Array]) -> Array:
    """The function of each output unit's arrays."""
    if arrays[0].ndim < 2:
        return function(arrays)
    return np.stack([function([array[row] for array in arrays]) for row in range(arrays[0].shape[0])])
