"""Independent float64 NumPy versions of the means and the task-vector methods that work on weights alone, one tensor each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

Array = np.ndarray


def rescaled_mean(base: Array | None, experts: Sequence[Array], weights: Sequence[float]) -> Array:
    """Of task vectors where there is a base, else of weights."""
    points = _stack(experts) if base is None else _changes(base, experts)
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    mean = np.average(points, axis=0, weights=shares)
    length = sum(share * np.sqrt((point**2).sum()) for share, point in zip(shares, points, strict=True))
    own = np.sqrt((mean**2).sum())
    moved = mean * length / own if own > 1e-6 * length else mean
    return moved if base is None else np.asarray(base, dtype=np.float64) + moved


def wise_ft(base: Array, expert: Array, alpha: float) -> Array:
    return (1 - alpha) * np.asarray(base, dtype=np.float64) + alpha * np.asarray(expert, dtype=np.float64)


def model_stock(base: Array, experts: Sequence[Array], weights: Sequence[float]) -> Array:
    base = np.asarray(base, dtype=np.float64)
    changes = [change for change, weight in zip(_changes(base, experts), weights, strict=True) if weight != 0]
    shares = np.asarray([weight for weight in weights if weight != 0]) / np.sum(weights)
    count, ratio = len(changes), 1.0
    if count > 1:
        cosine = np.mean([_cosine(one, two) for one, two in combinations(changes, 2)])
        ratio = np.clip(count * cosine / (1 + (count - 1) * cosine), 0, 1) if cosine > 0 else 0.0
    mean = sum(share * (base + change) for share, change in zip(shares, changes, strict=True))
    return ratio * mean + (1 - ratio) * base


def sce(base: Array, experts: Sequence[Array], weights: Sequence[float], density: float, scale: float) -> Array:
    base = np.asarray(base, dtype=np.float64)
    changes = _weighted(base, experts, weights)
    if not len(changes):
        return base
    spread = np.mean(changes**2, axis=0) - np.mean(changes, axis=0) ** 2
    spread = np.where(np.ptp(changes, axis=0) > 0, spread, 0.0)
    ranked = np.sort(spread[spread > 0])[::-1]
    if density < 1 and len(ranked):
        changes = changes * (spread >= ranked[max(1, int(round(len(ranked) * density, 6))) - 1])
    energies = np.asarray([(change**2).sum() for change in changes])
    result = base.copy()
    for index in np.ndindex(base.shape):
        entries = changes[(slice(None), *index)]
        elected = np.sign(entries.sum())
        kept = [i for i, entry in enumerate(entries) if entry != 0 and np.sign(entry) != -elected]
        if kept:
            result[index] += scale * np.average(entries[kept], weights=energies[kept])
    return result


def consensus(
    base: Array, experts: Sequence[Array], weights: Sequence[float], mask_scale: float, minimum_tasks: int, scale: float
) -> Array:
    base = np.asarray(base, dtype=np.float64)
    changes = _weighted(base, experts, weights)
    if not len(changes):
        return base
    merged = base + changes.sum(axis=0)
    masks = [np.abs(change) >= mask_scale * np.abs(merged - (base + change)) for change in changes]
    kept = np.sum(masks, axis=0) >= min(minimum_tasks, len(changes))
    return base + scale * np.where(kept, changes.sum(axis=0), 0)


def pcb(base: Array, experts: Sequence[Array], weights: Sequence[float], density: float, scale: float) -> Array:
    base = np.asarray(base, dtype=np.float64)
    changes = _weighted(base, experts, weights)
    if not len(changes) or base.size == 0:
        return base
    flat = changes.reshape(len(changes), -1)
    balances = []
    for change in flat:
        balance = _softmax(len(flat) * _norm(change**2)) * sum(_softmax(_norm(change * other)) for other in flat)
        kept = max(1, int(round(density * balance.size, 6)))
        balances.append(np.where(balance >= np.sort(balance)[::-1][kept - 1], balance, 0))
    total = np.sum(balances, axis=0)
    weighted = np.sum(np.asarray(balances) * flat, axis=0)
    return base + scale * np.divide(weighted, total, out=np.zeros_like(total), where=total > 0).reshape(base.shape)


def lines(base: Array, experts: Sequence[Array], weights: Sequence[float], scale: float) -> Array:
    """``scale``: of the layer, all factors together."""
    return np.asarray(base, dtype=np.float64) + scale * np.tensordot(weights, _changes(base, experts), axes=1)


def _stack(arrays: Sequence[Array]) -> Array:
    return np.stack([np.asarray(array, dtype=np.float64) for array in arrays])


def _changes(base: Array, experts: Sequence[Array]) -> Array:
    return _stack(experts) - np.asarray(base, dtype=np.float64)


def _weighted(base: Array, experts: Sequence[Array], weights: Sequence[float]) -> Array:
    chosen = [weight * change for change, weight in zip(_changes(base, experts), weights, strict=True) if weight != 0]
    return np.asarray(chosen)


def _cosine(one: Array, two: Array) -> float:
    lengths = np.sqrt((one**2).sum() * (two**2).sum())
    return float((one * two).sum() / lengths) if lengths > 0 else 0.0


def _norm(values: Array) -> Array:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def _softmax(values: Array) -> Array:
    powers = np.exp(values)
    return powers / powers.sum()
