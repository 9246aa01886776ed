"""What activations are, from all of their values at once, in NumPy's float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def total_variance(rows: np.ndarray) -> float:
    """Σ over units of the variance over positions. Shapes: rows [positions, units]."""
    return float(np.square(rows - rows.mean(0)).mean(0).sum())


def effective_rank(rows: np.ndarray) -> float:
    """exp of the entropy of the covariance's normalised spectrum, from the singular values of the centred rows."""
    energies = np.square(np.linalg.svd(rows - rows.mean(0), compute_uv=False))
    shares = energies[energies > 0] / energies.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def quiet_share(merged: Sequence[np.ndarray], experts: Sequence[np.ndarray]) -> float:
    """Share of units whose standard deviation, variances summed over domains, is below half of the experts'."""
    own, theirs = (np.sqrt(sum(rows.var(0) for rows in side)) for side in (merged, experts))
    return float((own < theirs / 2).mean())
