"""Term precision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums, ratio
from asrmerge.evaluation.scored import ScoredUtterance


class TermPrecision:
    """The share of the recognised terms that were said there; see :attr:`ScoredUtterance.term_hits`."""

    name = "term_precision"
    title = "Term precision"
    higher_is_better = True

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        return scored.term_hits, len(scored.hypothesis_terms)

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return ratio(sums[0], sums[1])


metric = TermPrecision()
