"""The figures that Kaldi's compute-wer-bootci prints, from its description: a loop over draws, written in plain NumPy."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def wer_interval(errors: Array, words: Array, replications: int, generator: np.random.Generator) -> tuple[float, float, float]:
    """Mean of the draws' rates, and the bounds 1.96 standard deviations below and above it."""
    rates = np.empty(replications)
    for draw in range(replications):
        chosen = generator.integers(len(words), size=len(words))
        rates[draw] = errors[chosen].sum() / words[chosen].sum()
    margin = 1.96 * np.sqrt(np.mean(rates**2) - np.mean(rates) ** 2)
    return float(rates.mean()), float(rates.mean() - margin), float(rates.mean() + margin)


def probability_of_improvement(first: Array, second: Array, replications: int, generator: np.random.Generator) -> float:
    """How often the second system makes fewer errors than the first."""
    fewer = 0
    for _ in range(replications):
        chosen = generator.integers(len(first), size=len(first))
        fewer += (first[chosen] - second[chosen]).sum() > 0
    return fewer / replications
