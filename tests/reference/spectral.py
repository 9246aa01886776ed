"""Independent float64 NumPy versions of TSV-M, BoostedTSV-M, Iso-C and Iso-CTS for one matrix, by plain SVDs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray
SMALLEST = 1e-5


def triplets(matrix: Array, size: float | None = None) -> tuple[Array, Array, Array]:
    """U, σ and V of the values above the numerical zero, relative to the largest or to ``size``."""
    u, s, vt = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    kept = s > SMALLEST * max(s[0], size or 0.0)
    return u[:, kept], s[kept], vt[kept].T


def polar(matrix: Array) -> Array:
    if matrix.shape[1] == 0:
        return matrix
    p, _, q = triplets(matrix)
    return p @ q.T


def tsv_m(matrices: Sequence[Array]) -> Array:
    return boosted_tsv_m(matrices, None)


def boosted_tsv_m(matrices: Sequence[Array], boost: float | None, power: int = 1) -> Array:
    """``boost`` None raises nothing."""
    keep = max(1, min(matrices[0].shape) // len(matrices))
    lefts, values, rights = [], [], []
    for matrix in matrices:
        u, s, v = triplets(matrix)
        if boost is not None and len(s):
            share = np.cumsum(s**power) / np.sum(s**power)
            s = np.maximum(s, s[next(i for i, reached in enumerate(share) if reached >= boost or i == len(s) - 1)])
        lefts.append(u[:, :keep])
        values.append(s[:keep])
        rights.append(v[:, :keep])
    return polar(np.hstack(lefts)) @ np.diag(np.concatenate(values)) @ polar(np.hstack(rights)).T


def iso_c(matrices: Sequence[Array]) -> Array:
    u, s, v = triplets(np.sum(np.asarray(matrices, dtype=np.float64), axis=0))
    return u @ v.T * s.mean() if len(s) else u @ v.T


def iso_cts(matrices: Sequence[Array], fraction: float) -> Array:
    full = min(matrices[0].shape)
    own = min(round((full - int(full * fraction)) / len(matrices)), full // len(matrices))
    u, s, v = (part[..., : full - own * len(matrices)] for part in triplets(np.sum(matrices, axis=0, dtype=np.float64)))
    lefts, values, rights = [u], [s], [v]
    for matrix in matrices:
        rest = (np.eye(len(matrix)) - u @ u.T) @ np.asarray(matrix, dtype=np.float64)
        for parts, part in zip((lefts, values, rights), triplets(rest, np.linalg.norm(matrix)), strict=True):
            parts.append(part[..., :own])
    flat = np.concatenate(values)
    return polar(np.hstack(lefts)) @ polar(np.hstack(rights)).T * (flat.mean() if len(flat) else 0.0)
