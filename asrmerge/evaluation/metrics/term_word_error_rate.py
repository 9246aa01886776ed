"""Word error rate on terms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums, ratio
from asrmerge.evaluation.scored import ScoredUtterance


class TermWordErrorRate:
    """Errors per word of the terms that were said (B-WER); insertions count where they are part of a recognised term.

    Source: D. Le et al., "Contextualized streaming end-to-end speech recognition with trie-based deep biasing and shallow
    fusion", Interspeech 2021.
    """

    name = "term_wer"
    title = "WER on terms"
    higher_is_better = False

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        return scored.term_errors, scored.term_words

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return ratio(sums[0], sums[1])


metric = TermWordErrorRate()
