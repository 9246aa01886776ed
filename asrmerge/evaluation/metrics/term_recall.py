"""Term recall."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums, ratio
from asrmerge.evaluation.scored import ScoredUtterance


class TermRecall:
    """The share of the said terms that were recognised; see :attr:`ScoredUtterance.term_hits`."""

    name = "term_recall"
    title = "Term recall"
    higher_is_better = True

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        return scored.term_hits, len(scored.reference_terms)

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return ratio(sums[0], sums[1])


metric = TermRecall()
