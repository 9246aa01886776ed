"""Sentence error rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums, ratio
from asrmerge.evaluation.scored import ScoredUtterance


class SentenceErrorRate:
    """The share of utterances with at least one word error, as sclite's S.Err."""

    name = "ser"
    title = "SER"
    higher_is_better = False

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        return int(scored.errors.errors > 0), 1

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return ratio(sums[0], sums[1])


metric = SentenceErrorRate()
