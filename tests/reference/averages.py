"""Independent float64 NumPy versions of linear, greedy soup, task arithmetic and, for whole state dicts, weight normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray
G, V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


def linear(experts: Sequence[Array], weights: Sequence[float], normalize: bool = True) -> Array:
    stacked = np.stack([np.asarray(expert, dtype=np.float64) for expert in experts])
    factors = np.asarray(weights, dtype=np.float64)
    if normalize:
        factors = factors / factors.sum()
    return np.einsum("t,t...->...", factors, stacked)


def task_arithmetic(base: Array, experts: Sequence[Array], weights: Sequence[float], scale: float = 1.0) -> Array:
    base = np.asarray(base, dtype=np.float64)
    change = np.zeros_like(base)
    for expert, weight in zip(experts, weights, strict=True):
        change = change + weight * (np.asarray(expert, dtype=np.float64) - base)
    return base + scale * change


def greedy_soup(experts: Sequence[Array], target: Array) -> Array:
    """The soup of Wortsman et al. (arXiv 2203.05482), judged by the squared distance from ``target``, by a running sum."""
    vectors = [np.asarray(expert, dtype=np.float64) for expert in experts]

    def loss(vector: Array) -> float:
        return float(((vector - target) ** 2).sum())

    order = np.argsort([loss(vector) for vector in vectors], kind="stable")
    total, count = vectors[order[0]], 1
    for index in order[1:]:
        if loss((total + vectors[index]) / (count + 1)) < loss(total / count):
            total, count = total + vectors[index], count + 1
    return total / count


def weight_norm(g: Array, v: Array) -> Array:
    """dim=2: one norm per kernel position."""
    g, v = np.asarray(g, dtype=np.float64), np.asarray(v, dtype=np.float64)
    return np.stack([g[0, 0, k] * v[:, :, k] / np.sqrt((v[:, :, k] ** 2).sum()) for k in range(v.shape[2])], axis=2)


def effective(state: Mapping[str, Array]) -> dict[str, Array]:
    """The state with weight-normed pairs replaced by their product."""
    result = {name: np.asarray(value) for name, value in state.items() if not name.endswith((G, V))}
    for name in state:
        if name.endswith(G):
            stem = name.removesuffix(G)
            result[stem + ".weight"] = weight_norm(state[name], state[stem + V])
    return result
