"""Term F1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums, ratio
from asrmerge.evaluation.scored import ScoredUtterance


class TermF1:
    """The harmonic mean of term recall and term precision."""

    name = "term_f1"
    title = "Term F1"
    higher_is_better = True

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        return scored.term_hits, len(scored.reference_terms), len(scored.hypothesis_terms)

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return ratio(2 * sums[0], sums[1] + sums[2])


metric = TermF1()
