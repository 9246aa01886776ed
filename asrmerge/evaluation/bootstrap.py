"""Bootstrap intervals and paired comparisons of word error rates, and of any other figure that sums of counts give.

Source: M. Bisani and H. Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004. Whole
utterances are drawn with replacement, or whole speakers where enough are known: the utterances of one speaker share their errors,
and drawing them one by one would make intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Unit = Literal["speaker", "utterance"]
Kind = Literal["percentile", "normal"]
Counts = npt.ArrayLike  # whole numbers [utterances]
Sums = npt.NDArray[Any]  # int64 of whole numbers, float64 of others
Draws = npt.NDArray[np.float64]  # a figure's value in every draw [samples]; NaN where a draw has nothing to measure

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

    ``probability_of_improvement`` is the share of draws in which the candidate is strictly better, so 0 for equals;
    ``p_value`` is two-sided, see :func:`two_sided_p_value`; ``standard_error`` is the difference's.
    """

    difference: float
    low: float
    high: float
    probability_of_improvement: float
    resampled_by: Unit
    p_value: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Resampling:
    """Draws of the utterances of one set, the same for whatever is summed over them.

    Put every model's counts through one resampling, or through equal ones: what makes a draw hard for all of them then cancels
    out in differences. Sums go through any function afterwards, such as Σ errors / Σ words, F1, or a mean over sets.

    Args:
        utterances: how many the set has.
        samples: how many draws.
        seed: the same seed gives the same draws.
        speakers: the utterances' speakers; drawn whole if all are known and they are at least ``MINIMUM_SPEAKERS``.
        stream: the set's name, where several sets are put together: equal seeds would tie their draws to each other.

    Raises:
        ValueError: if there are no utterances or draws, or if the speakers are not as many as the utterances.
    """

    utterances: int
    samples: int
    seed: int
    speakers: Sequence[str | None] | None = None
    stream: str = ""

    def __post_init__(self) -> None:
        lengths = {self.utterances} | (set() if self.speakers is None else {len(self.speakers)})
        if len(lengths) != 1 or self.utterances < 1:
            raise ValueError(f"counts and speakers must cover the same utterances, at least one; got {sorted(lengths)}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1; got {self.samples}")

    @property
    def unit(self) -> Unit:
        """What is drawn."""
        return resampling_unit(self.speakers)

    @property
    def units(self) -> int:
        """How many there are to draw from."""
        return len(set(self.speakers)) if self.speakers is not None and self.unit == "speaker" else self.utterances

    def sums(self, counts: npt.ArrayLike) -> Sums:
        """Sums over each draw's utterances: [..., utterances] → [..., samples].

        Memory for draws is bounded, and how they are split does not change them.
        """
        if np.shape(counts)[-1:] != (self.utterances,):
            raise ValueError(f"counts must cover {self.utterances} utterances; got the shape {np.shape(counts)}")
        totals = unit_totals(counts, self.speakers)
        flat = totals.reshape(-1, self.units).astype(np.float64)  # exact for whole numbers below 2⁵³
        drawn = np.concatenate([flat @ weights.T for weights in self._weights()], axis=1)
        return drawn.reshape(*totals.shape[:-1], self.samples).astype(totals.dtype)

    def _weights(self) -> Iterator[npt.NDArray[np.float64]]:
        """How often each draw holds each unit: [rows, units], as many rows at a time as fit in ``DRAWN_AT_ONCE``."""
        generator = np.random.default_rng([self.seed, *self.stream.encode(errors="surrogatepass")] if self.stream else self.seed)
        units, rows = self.units, max(1, DRAWN_AT_ONCE // self.units)
        for start in range(0, self.samples, rows):
            index = generator.integers(0, units, size=(min(rows, self.samples - start), units))
            cells = index + np.arange(len(index))[:, None] * units
            yield np.bincount(cells.ravel(), minlength=index.size).reshape(index.shape).astype(np.float64)


def bootstrap_interval(
    errors: Counts,
    words: Counts,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int,
    clusters: Sequence[str | None] | None = None,
    kind: Kind = "percentile",
) -> Interval:
    """The interval of Σ errors / Σ words.

    Args:
        errors, words: per utterance, whole numbers [utterances].
        level: the interval's coverage, between 0 and 1.
        samples: how many draws.
        seed: the same seed draws the same utterances, so models scored on one set can be compared.
        clusters: the utterances' speakers; used if all are known and they are at least ``MINIMUM_SPEAKERS``.
        kind: ``percentile``, of the draws, as the paper has it; or ``normal``, the draws' mean plus and minus their standard
            deviation times 1.96, as Kaldi's compute-wer-bootci has it.

    Raises:
        ValueError: if there are no utterances, lengths differ, or level or samples is out of range.
    """
    counts = stack_counts(errors, words)
    resampling = Resampling(counts.shape[1], samples, seed, clusters)
    errors_drawn, words_drawn = resampling.sums(counts)
    low, high = interval(_rate(errors_drawn, words_drawn), level, kind)
    return Interval(low, high, resampling.unit)


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
    counts = stack_counts(candidate, reference, words)
    resampling = Resampling(counts.shape[1], samples, seed, clusters)
    drawn = resampling.sums(counts)
    differences = _rate(drawn[0] - drawn[1], drawn[2])
    low, high = interval(differences, level)
    total = counts.sum(axis=1)
    return Comparison(
        difference=float(_rate(total[0] - total[1], total[2])),
        low=low,
        high=high,
        probability_of_improvement=probability_of_improvement(differences),
        resampled_by=resampling.unit,
        p_value=two_sided_p_value(differences),
        standard_error=standard_error(differences),
    )


def resampling_unit(clusters: Sequence[str | None] | None) -> Unit:
    """What is drawn for utterances of these speakers."""
    if clusters is None or any(cluster is None for cluster in clusters):
        return "utterance"
    return "speaker" if len(set(clusters)) >= MINIMUM_SPEAKERS else "utterance"


def unit_totals(counts: npt.ArrayLike, speakers: Sequence[str | None] | None) -> Sums:
    """Counts per unit that is drawn: [..., utterances] → [..., units], int64 of whole numbers; speakers in alphabetical order."""
    values = np.asarray(counts)
    values = values.astype(np.float64 if np.issubdtype(values.dtype, np.floating) else np.int64)
    if resampling_unit(speakers) == "utterance":
        return values
    _, index = np.unique(np.asarray(speakers, dtype=np.str_), return_inverse=True)
    order = np.argsort(index, kind="stable")
    return np.add.reduceat(values[..., order], np.flatnonzero(np.diff(index[order], prepend=-1)), axis=-1)


def stack_counts(*counts: Counts) -> npt.NDArray[np.int64]:
    """Several counts of the same utterances: int64 [counts, utterances]; raises ValueError if their lengths differ or are 0."""
    columns = [np.asarray(column, dtype=np.int64) for column in counts]
    lengths = sorted({len(column) for column in columns})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"counts must cover the same utterances, at least one; got lengths {lengths}")
    return np.stack(columns)


def interval(draws: Draws, level: float = 0.95, kind: Kind = "percentile") -> tuple[float, float]:
    """The bounds that a share ``level`` of the draws lies between; NaN if none has a value.

    Raises:
        ValueError: if level does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level}")
    known = _known(draws)
    if not len(known):
        return float("nan"), float("nan")
    if kind == "normal":
        mean, margin = float(known.mean()), NormalDist().inv_cdf((1 + level) / 2) * float(known.std())
        return mean - margin, mean + margin
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def probability_of_improvement(differences: Draws) -> float:
    """The share of draws in which a candidate's error rate less a reference's is below zero (Bisani and Ney's)."""
    known = _known(differences)
    return float(np.mean(known < 0)) if len(known) else 0.0


def two_sided_p_value(differences: Draws) -> float:
    """Twice the share of draws on the rarer side of zero, zeros on both: 1 for equals.

    Below 1 − level where the percentile interval at that level leaves zero out. Never 0: one draw is counted on top, as n draws
    cannot show less than 2 / (n + 1) (A. Davison and D. Hinkley, "Bootstrap Methods and their Application", 1997, ch. 4).
    """
    known = _known(differences)
    rarer = int(min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0)))
    return min(1.0, 2 * (1 + rarer) / (1 + len(known)))


def standard_error(draws: Draws) -> float:
    """The draws' standard deviation; 0 for a single one."""
    known = _known(draws)
    return float(known.std(ddof=1)) if len(known) > 1 else 0.0


def _known(draws: Draws) -> Draws:
    return draws[~np.isnan(draws)]


def _rate(errors: Sums, words: Sums) -> Draws:
    return np.asarray(errors / np.maximum(words, 1), dtype=np.float64)  # as ErrorCounts.wer without reference words
