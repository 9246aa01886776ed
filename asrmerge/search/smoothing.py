"""Noisy figures of a few places, smoothed: what is expected at another place near them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The mean of a Gaussian process with a squared exponential covariance, zero far from everything that was seen.

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equation 2.25. Shapes: places [n, d], weights [n].
    """

    places: Array
    weights: Array
    spread: float
    length: float

    @classmethod
    def fit(
        cls,
        places: Sequence[Sequence[float]],
        values: Sequence[float],
        variances: Sequence[float],
        *,
        spread: float,
        length: float,
    ) -> Smoothed:
        """From ``values`` with noise of these ``variances`` (> 0).

        Args:
            places: [n, d].
            spread: standard deviation of the true values around zero.
            length: distance over which they change, in the units of ``places``.
        """
        seen = np.asarray(places, dtype=np.float64).reshape(len(values), -1)
        covariance = _covariance(seen, seen, spread, length) + np.diag(np.asarray(variances, dtype=np.float64))
        weights = np.asarray(np.linalg.solve(covariance, np.asarray(values, dtype=np.float64)), dtype=np.float64)
        return cls(seen, weights, spread, length)

    def at(self, place: Sequence[float]) -> float:
        """The expected value at a place [d]."""
        return float(_covariance(np.asarray([place], dtype=np.float64), self.places, self.spread, self.length)[0] @ self.weights)


def _covariance(one: Array, other: Array, spread: float, length: float) -> Array:
    squares = ((one[:, None, :] - other[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(spread**2 * np.exp(-squares / (2 * length**2)), dtype=np.float64)
