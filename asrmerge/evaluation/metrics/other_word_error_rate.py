"""Word error rate on the words outside terms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums, ratio
from asrmerge.evaluation.scored import ScoredUtterance


class OtherWordErrorRate:
    """Errors per word outside the terms that were said (U-WER); not measured without a list of terms. With the word error rate on
    terms it accounts for every error once.

    Source: D. Le et al., "Contextualized streaming end-to-end speech recognition with trie-based deep biasing and shallow
    fusion", Interspeech 2021.
    """

    name = "other_wer"
    title = "WER on other words"
    higher_is_better = False

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        if not scored.terms:
            return 0, 0
        return scored.errors.errors - scored.term_errors, scored.errors.words - scored.term_words

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        return ratio(sums[0], sums[1])


metric = OtherWordErrorRate()
