"""What a metric is: numbers of each utterance that add up, and a figure made of their sums.

Because the numbers add up, one code pools them over a set, a slice or a bootstrap draw, whatever the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.scored import ScoredUtterance

Sums = npt.NDArray[np.float64]  # [k, …]: a metric's k numbers, summed over the utterances of each draw


@runtime_checkable
class Metric(Protocol):
    """A metric is one file in ``asrmerge.evaluation.metrics``, or an entry point ``asrmerge.metrics``."""

    @property
    def name(self) -> str:
        """In scorecards and gates: lower case, words joined with underscores."""

    @property
    def title(self) -> str:
        """In tables."""

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a score rather than an error."""

    def counts(self, scored: ScoredUtterance) -> Sequence[int]:
        """Whole numbers of one utterance, as many for each [k]."""

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        """The figure for sums [k, …], shape […], as a fraction; NaN where there is nothing to measure."""


def ratio(numerator: Sums, denominator: Sums) -> npt.NDArray[np.float64]:
    """The quotient, NaN where ``denominator`` is 0."""
    result = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result
