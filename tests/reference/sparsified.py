"""Independent float64 NumPy versions of the sparsifying methods, entry by entry from the formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def task_vectors(base: Array, experts: Sequence[Array]) -> list[Array]:
    return [np.asarray(expert, dtype=np.float64) - np.asarray(base, dtype=np.float64) for expert in experts]


def threshold(tensors: Sequence[Array], density: float) -> float:
    """The magnitude of rank round(density·n), at least 1, over all the tensors together."""
    magnitudes = sorted((abs(x) for tensor in tensors for x in np.ravel(tensor)), reverse=True)
    return magnitudes[max(1, round(density * len(magnitudes))) - 1] if magnitudes else 0.0


def keep_largest(vector: Array, bound: float) -> Array:
    return np.where(np.abs(vector) >= bound, vector, 0.0)


def keep_band(vector: Array, density: float, gamma: float) -> Array:
    """Drop the γ·n largest, fewer where too few would be left; keep the density·n next and what equals the ends."""
    magnitudes = np.sort(np.abs(np.ravel(vector)))[::-1]
    count = len(magnitudes)
    if count == 0:
        return vector
    kept = max(1, round(density * count))
    dropped = min(round(gamma * count), count - kept)
    band = magnitudes[dropped : dropped + kept]
    return np.where((np.abs(vector) <= band[0]) & (np.abs(vector) >= band[-1]), vector, 0.0)


def elect(vectors: Sequence[Array], weights: Sequence[float], normalize: bool = True, election: str = "sum") -> Array:
    """The elected mean (or sum); where votes are equal, the sign that more entries elected, or neither."""
    shape = vectors[0].shape
    columns = np.stack([np.ravel(w * v) for w, v in zip(weights, vectors, strict=True)]).T
    signs = []
    for column in columns:
        vote = sum(np.sign(column)) if election == "count" else sum(column)
        signs.append(int(np.sign(vote)))
    majority = int(np.sign(sum(signs)))
    merged = []
    for column, sign in zip(columns, signs, strict=True):
        agreeing = [t for t, x in enumerate(column) if x != 0 and np.sign(x) == (sign or majority)]
        total = sum(column[t] for t in agreeing)
        merged.append(total / sum(abs(weights[t]) for t in agreeing) if agreeing and normalize else total)
    return np.array(merged, dtype=np.float64).reshape(shape)


def ties(
    base: Array,
    experts: Sequence[Array],
    weights: Sequence[float],
    density: float,
    scale: float,
    normalize: bool = True,
    election: str = "sum",
) -> Array:
    """Each tensor on its own."""
    trimmed = [keep_largest(vector, threshold([vector], density)) for vector in task_vectors(base, experts)]
    return base + scale * elect(trimmed, weights, normalize, election)


def breadcrumbs(
    base: Array, experts: Sequence[Array], weights: Sequence[float], density: float, gamma: float, scale: float
) -> Array:
    kept = [keep_band(vector, density, gamma) for vector in task_vectors(base, experts)]
    return base + scale * sum(weight * vector for weight, vector in zip(weights, kept, strict=True))


def breadcrumbs_ties(
    base: Array,
    experts: Sequence[Array],
    weights: Sequence[float],
    density: float,
    gamma: float,
    scale: float,
    normalize: bool = True,
    election: str = "sum",
) -> Array:
    kept = [keep_band(vector, density, gamma) for vector in task_vectors(base, experts)]
    return base + scale * elect(kept, weights, normalize, election)


def rescaled(vector: Array, mask: Array, probabilities: Array) -> Array:
    """DARE's and DELLA's kept entries, each divided by its own probability of being kept."""
    return np.asarray(mask, dtype=np.float64) * vector / probabilities


def della_probabilities(row: Sequence[float], density: float, epsilon: float) -> list[float]:
    """Of a row, each entry's probability of being kept: density − ε for the smallest magnitude, density + ε for the largest."""
    if len(row) == 1:
        return [density]
    ranks = [sum((abs(y), j) < (abs(x), i) for j, y in enumerate(row)) for i, x in enumerate(row)]
    return [density - epsilon + 2 * epsilon * rank / (len(row) - 1) for rank in ranks]
