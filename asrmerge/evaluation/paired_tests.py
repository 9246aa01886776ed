"""Sign test, Wilcoxon's signed-rank test and McNemar's test of two models on the same utterances.

The first two compare error rates per speaker where enough speakers are known, as sc_stats does, and per utterance otherwise.
Sources: F. Wilcoxon, "Individual comparisons by ranking methods", 1945; L. Gillick and S. Cox, "Some statistical issues in the
comparison of speech recognition algorithms", ICASSP 1989 (McNemar's test on utterances).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.bootstrap import Counts, Unit, resampling_unit, stack_counts, unit_totals

EXACT_UNITS = 50  # as scipy


@dataclass(frozen=True)
class PairedTest:
    """The outcome of a two-sided test that two models err alike.

    ``statistic`` is what the test's own function says it is. ``units`` is how many ``unit`` (segments, speakers, utterances) were
    compared; ``mean`` and ``standard_deviation`` (divisor units − 1) are those of the candidate's less the reference's value per
    unit: below zero, the candidate is better.
    """

    name: str
    statistic: float
    p_value: float
    unit: Literal["segment", "speaker", "utterance"]
    units: int
    mean: float
    standard_deviation: float

    def significant(self, level: float = 0.05) -> bool:
        """Whether a difference as large as this one is rarer than ``level`` between equal models."""
        return self.p_value < level


def sign_test(candidate: Counts, reference: Counts, words: Counts, clusters: Sequence[str | None] | None = None) -> PairedTest:
    """Whether one model has the lower error rate more often than the other; the exact binomial test.

    ``statistic`` counts the units where the candidate is better. Units where both are equal are left out, whereas sc_stats gives
    half of them to each model, which weakens the test where they are many. sc_stats' own p-value of this test and of McNemar's is
    far too small for more than 20 units (SCTK 2.4.10): its binomial coefficients overflow.

    Args:
        candidate, reference: the models' errors, whole numbers [utterances].
        words: of the reference texts [utterances].
        clusters: the utterances' speakers; the units if all are known and they are at least ``bootstrap.MINIMUM_SPEAKERS``.

    Raises:
        ValueError: if there are no utterances or lengths differ.
    """
    differences, unit = _rate_differences(candidate, reference, words, clusters)
    better, worse = _wins(differences)
    return paired_test("sign", better, _binomial(better, worse), unit, differences)


def wilcoxon_test(
    candidate: Counts, reference: Counts, words: Counts, clusters: Sequence[str | None] | None = None
) -> PairedTest:
    """Whether the differences of error rates lie about zero; Wilcoxon's signed-rank test.

    ``statistic`` is the lower of the two sums of ranks. Units where both models are equal are left out. Exact for up to
    ``EXACT_UNITS`` units, by the normal distribution otherwise, as sc_stats always has it. Arguments and errors as in
    :func:`sign_test`.
    """
    from scipy.stats import rankdata, wilcoxon

    differences, unit = _rate_differences(candidate, reference, words, clusters)
    unequal = differences[differences != 0]
    if len(unequal) > EXACT_UNITS:
        outcome = wilcoxon(unequal)
        return paired_test("wilcoxon", float(outcome.statistic), float(outcome.pvalue), unit, differences)
    ranks = rankdata(np.abs(unequal))
    statistic = float(min(ranks[unequal > 0].sum(), ranks[unequal < 0].sum()))
    return paired_test("wilcoxon", statistic, _signed_rank_p_value(statistic, ranks), unit, differences)


def mcnemar_test(candidate: Counts, reference: Counts) -> PairedTest:
    """Whether one model has more utterances free of errors; McNemar's test, by the exact binomial distribution as in sc_stats.

    ``statistic`` counts the utterances that only the candidate has right; ``mean`` is the difference of sentence error rates.

    Args:
        candidate, reference: the models' errors, whole numbers [utterances].

    Raises:
        ValueError: if there are no utterances or lengths differ.
    """
    wrong = (stack_counts(candidate, reference) > 0).astype(np.float64)
    differences = wrong[0] - wrong[1]
    better, worse = _wins(differences)
    return paired_test("mcnemar", better, _binomial(better, worse), "utterance", differences)


def paired_test(
    name: str, statistic: float, p_value: float, unit: Literal["segment", "speaker", "utterance"], differences: npt.ArrayLike
) -> PairedTest:
    """The outcome of a test of ``differences`` [units], the candidate's value less the reference's."""
    values = np.asarray(differences, dtype=np.float64)
    return PairedTest(
        name=name,
        statistic=statistic,
        p_value=p_value,
        unit=unit,
        units=len(values),
        mean=float(values.mean()) if len(values) else 0.0,
        standard_deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
    )


def _rate_differences(
    candidate: Counts, reference: Counts, words: Counts, speakers: Sequence[str | None] | None
) -> tuple[npt.NDArray[np.float64], Unit]:
    counts = stack_counts(candidate, reference, words)
    if speakers is not None and len(speakers) != counts.shape[1]:
        raise ValueError(f"there must be as many speakers as utterances; got {len(speakers)} and {counts.shape[1]}")
    one, other, spoken = unit_totals(counts, speakers)
    return (one - other) / np.maximum(spoken, 1), resampling_unit(speakers)


def _signed_rank_p_value(statistic: float, ranks: npt.NDArray[np.float64]) -> float:
    """Two-sided, of the lower sum of ``ranks`` [units], every sign being as likely as the other.

    How many of the 2^units choices of signs have which sum is counted rank by rank, ties included: scipy enumerates them.
    """
    doubled = np.rint(2 * ranks).astype(np.int64)  # ranks of ties lie half-way
    counts = np.ones(1)  # exact: whole numbers below 2^53
    for rank in doubled:
        counts = np.concatenate([counts, np.zeros(rank)]) + np.concatenate([np.zeros(rank), counts])
    tail = counts[: round(2 * statistic) + 1].sum()
    return float(min(1.0, 2 * tail / counts.sum()))


def _wins(differences: npt.NDArray[np.float64]) -> tuple[int, int]:
    return int(np.count_nonzero(differences < 0)), int(np.count_nonzero(differences > 0))


def _binomial(better: int, worse: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
