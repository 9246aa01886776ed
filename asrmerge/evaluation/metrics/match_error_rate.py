"""Match error rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums, ratio
from asrmerge.evaluation.scored import ScoredUtterance


class MatchErrorRate:
    """The share of all aligned words, insertions among them, that are wrong; 0 where both texts are empty.

    Source: A. C. Morris, V. Maier and P. Green, "From WER and RIL to MER and WIL", Interspeech 2004.
    """

    name = "mer"
    title = "MER"
    higher_is_better = False

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        return scored.errors.errors, scored.errors.correct

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return np.nan_to_num(ratio(sums[0], sums[0] + sums[1]))


metric = MatchErrorRate()
