"""Bootstrap intervals and paired comparisons of pooled word error rates.

Source: M. Bisani and H. Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004. Whole
utterances are drawn with replacement, or whole speakers where enough are known: the utterances of one speaker share their errors,
and drawing them one by one would make intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Unit = Literal["speaker", "utterance"]
Counts = npt.ArrayLike  # whole numbers [utterances]

MINIMUM_SPEAKERS = 8  # with fewer, the spread between speakers cannot be told from a draw of them
DRAWN_AT_ONCE = 1 << 21  # indices held in memory at a time


@dataclass(frozen=True)
class Interval:
    """Bounds of a word error rate (fraction), and what was drawn to find them."""

    low: float
    high: float
    resampled_by: Unit


@dataclass(frozen=True)
class Comparison:
    """A candidate's word error rate less a reference's (fractions): below zero is an improvement.

    ``probability_of_improvement`` is the share of draws in which the candidate is strictly better, so 0 for equals.
    """

    difference: float
    low: float
    high: float
    probability_of_improvement: float
    resampled_by: Unit


def bootstrap_interval(
    errors: Counts,
    words: Counts,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int,
    clusters: Sequence[str | None] | None = None,
) -> Interval:
    """The percentile interval of Σ errors / Σ words.

    Args:
        errors, words: per utterance, whole numbers [utterances].
        level: the interval's coverage, between 0 and 1.
        samples: how many draws.
        seed: the same seed draws the same utterances, so models scored on one set can be compared.
        clusters: the utterances' speakers; used if all are known and they are at least ``MINIMUM_SPEAKERS``.

    Raises:
        ValueError: if there are no utterances, lengths differ, or level or samples is out of range.
    """
    totals, unit = _totals([errors, words], clusters, level, samples)
    drawn = _draw(totals, samples, seed)
    low, high = _percentiles(_rate(drawn[0], drawn[1]), level)
    return Interval(low, high, unit)


def paired_bootstrap(
    candidate: Counts,
    reference: Counts,
    words: Counts,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int,
    clusters: Sequence[str | None] | None = None,
) -> Comparison:
    """Compare two models on the same utterances: ``candidate`` and ``reference`` are their errors [utterances].

    Both are scored on the same draws, so what makes a draw hard for both cancels out. Arguments and errors as in
    :func:`bootstrap_interval`.
    """
    totals, unit = _totals([candidate, reference, words], clusters, level, samples)
    drawn = _draw(totals, samples, seed)
    differences = _rate(drawn[0] - drawn[1], drawn[2])
    low, high = _percentiles(differences, level)
    return Comparison(
        difference=float(_rate(totals[0].sum() - totals[1].sum(), totals[2].sum())),
        low=low,
        high=high,
        probability_of_improvement=float(np.mean(differences < 0)),
        resampled_by=unit,
    )


def resampling_unit(clusters: Sequence[str | None] | None) -> Unit:
    """What is drawn for utterances of these speakers."""
    if clusters is None or any(cluster is None for cluster in clusters):
        return "utterance"
    return "speaker" if len(set(clusters)) >= MINIMUM_SPEAKERS else "utterance"


def _totals(
    counts: Sequence[Counts], clusters: Sequence[str | None] | None, level: float, samples: int
) -> tuple[npt.NDArray[np.int64], Unit]:
    """Counts per unit drawn: int64 [len(counts), units]."""
    columns = [np.asarray(column, dtype=np.int64) for column in counts]
    lengths = [len(column) for column in columns] + ([] if clusters is None else [len(clusters)])
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"counts and clusters must cover the same utterances, at least one; got lengths {lengths}")
    if not 0 < level < 1 or samples < 1:
        raise ValueError(f"level must lie between 0 and 1 and samples be at least 1; got {level} and {samples}")
    unit = resampling_unit(clusters)
    if unit == "utterance":
        return np.stack(columns), unit
    speakers, index = np.unique(np.asarray(clusters, dtype=np.str_), return_inverse=True)
    totals = [np.bincount(index, weights=column, minlength=len(speakers)) for column in columns]  # float64: exact to 2⁵³
    return np.stack(totals).astype(np.int64), unit


def _draw(totals: npt.NDArray[np.int64], samples: int, seed: int) -> npt.NDArray[np.int64]:
    """Sums over units drawn with replacement: int64 [len(totals), samples]."""
    return np.concatenate([totals[:, index].sum(axis=2) for index in _indices(totals.shape[1], samples, seed)], axis=1)


def _indices(units: int, samples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Draws [rows, units], as many rows at a time as fit in ``DRAWN_AT_ONCE``; how they are split does not change them."""
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWN_AT_ONCE // units)
    for start in range(0, samples, rows):
        yield generator.integers(0, units, size=(min(rows, samples - start), units))


def _rate(errors: npt.NDArray[np.int64], words: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(errors / np.maximum(words, 1), dtype=np.float64)  # as ErrorCounts.wer without reference words


def _percentiles(rates: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
