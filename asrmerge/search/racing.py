"""Who can still win, from part of the validation audio: paired tests between candidates that have heard the same utterances.

An utterance counts by its errors over its domain's mean reference length, so that means agree with pooled word error rates:
x = e / L with L = words / utterances of the whole domain, and mean(x) over the whole domain is Σe / Σwords. The candidates of a
race hear the same utterances, whose difficulty cancels out in differences. Of an objective that is not linear in the rates, the
spread of the difference is that of its linear approximation at each of the two candidates (delta method).

A race looks several times, at several rivals. A candidate is dropped where a rival is better with a one-sided p below
level / (looks × rivals): then the best of all is dropped by mistake with a probability of at most the level (Bonferroni), however
the leader was picked. Racing follows Maron and Moore, "Hoeffding races" (NIPS 1993), and Birattari et al., "A racing algorithm
for configuring metaheuristics" (GECCO 2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.counts import SearchCounts
from asrmerge.search.outcome import Scores, pooled

Array = npt.NDArray[np.float64]
Slopes = Mapping[str, tuple[float, float]]  # domain → ∂/∂(WER), ∂/∂(share of terms missed)


@dataclass(frozen=True)
class Totals:
    """What a domain's whole validation audio holds."""

    utterances: int
    words: int
    terms: int = 0


@dataclass(frozen=True)
class Difference:
    """A figure of one candidate less another's: its estimate, standard error and degrees of freedom (Welch and Satterthwaite)."""

    value: float
    error: float
    freedom: float

    @property
    def p_value(self) -> float:
        """One-sided: how likely so large a difference is where there is none, or one below zero."""
        if self.error == 0:
            return 1.0 if self.value <= 0 else 0.0
        return float(stats.t.sf(self.value / self.error, self.freedom))


def expected_counts(heard: Scores, totals: Mapping[str, Totals]) -> dict[str, SearchCounts]:
    """Counts whose rates are the means of x, from the utterances heard so far; the pooled counts once all are heard.

    Exact: with n of N utterances heard, Σe errors become N·Σe of n·words; where n = N the counts stand as they are.
    """
    found = {}
    for domain, counts in pooled(heard).items():
        total, count = totals[domain], len(heard[domain])
        terms, hits = getattr(counts, "terms", 0), getattr(counts, "found", 0)
        if count == total.utterances or count == 0:
            edits = counts.substitutions, counts.deletions, counts.insertions
            found[domain] = SearchCounts(counts.words, *edits, terms=terms, found=hits)
            continue
        scale, all_terms = total.utterances, count * total.terms
        found[domain] = SearchCounts(
            count * total.words,
            scale * counts.substitutions,
            scale * counts.deletions,
            scale * counts.insertions,
            terms=all_terms,
            found=all_terms - scale * (terms - hits),
        )
    return found


def difference(
    value: float,
    one: Scores,
    other: Scores,
    slopes: tuple[Slopes, Slopes],
    totals: Mapping[str, Totals],
) -> Difference:
    """``value``, the figure of ``one`` less that of ``other``, with the spread that the same utterances give it.

    Args:
        slopes: of the figure at each of the two.
    """
    variances, counts = [], []
    for domain in one:
        mine, theirs = slopes[0].get(domain, (0.0, 0.0)), slopes[1].get(domain, (0.0, 0.0))
        if not any((*mine, *theirs)):
            continue
        total = totals[domain]
        weighted = _contributions(one[domain], mine, total) - _contributions(other[domain], theirs, total)
        if len(weighted) >= 2:
            variances.append(float(weighted.var(ddof=1)) / len(weighted))
            counts.append(len(weighted))
        elif len(weighted) == 1:
            return Difference(value, math.inf, 1.0)  # one utterance says nothing of the spread
    variance = math.fsum(variances)
    spread = math.fsum(part**2 / (count - 1) for part, count in zip(variances, counts, strict=True))
    return Difference(value, math.sqrt(variance), variance**2 / spread if spread else 1.0)


def beaten_level(level: float, looks: int, rivals: int) -> float:
    """The p below which a candidate is dropped in one look, against one rival."""
    return level / (looks * max(1, rivals))


def excess_spread(value: float, one: Scores, slopes: Slopes, totals: Mapping[str, Totals]) -> Difference:
    """A figure of one candidate against a fixed limit: ``value`` and its spread."""
    nothing = {domain: tuple(ErrorCounts() for _ in found) for domain, found in one.items()}
    return difference(value, one, nothing, (slopes, {}), totals)


def _contributions(counts: Sequence[ErrorCounts], slopes: tuple[float, float], total: Totals) -> Array:
    length = max(total.words, 1) / total.utterances
    found = slopes[0] * np.array([one.errors for one in counts], dtype=np.float64) / length
    if slopes[1] and total.terms:
        missed = [getattr(one, "terms", 0) - getattr(one, "found", 0) for one in counts]
        found = found + slopes[1] * np.array(missed, dtype=np.float64) / (total.terms / total.utterances)
    return found
