"""Word information lost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums
from asrmerge.evaluation.metrics.word_information_preserved import metric as preserved
from asrmerge.evaluation.scored import ScoredUtterance


class WordInformationLost:
    """One less the word information preserved (Morris, Maier and Green 2004)."""

    name = "wil"
    title = "WIL"
    higher_is_better = False

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        return preserved.counts(scored)

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return 1 - preserved.value(sums)


metric = WordInformationLost()
