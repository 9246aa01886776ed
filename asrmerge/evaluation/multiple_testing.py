"""Correction of p-values for several tests, such as one per domain."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order given: all below α, or any subset, are significant with an error of at most α in all.

    The k-th smallest of m is multiplied by m − k + 1, and none is below a smaller one's. Holds however the tests depend on each
    other. Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Raises:
        ValueError: if a p-value does not lie between 0 and 1.
    """
    if not all(0 <= p_value <= 1 for p_value in p_values):
        raise ValueError(f"p-values must lie between 0 and 1; got {list(p_values)}")
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)
