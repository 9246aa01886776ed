"""Word error rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums
from asrmerge.evaluation.scored import ScoredUtterance


class WordErrorRate:
    """Substitutions, deletions and insertions per reference word; without reference words the number of insertions."""

    name = "wer"
    title = "WER"
    higher_is_better = False

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        errors = scored.errors
        return errors.words, errors.substitutions, errors.deletions, errors.insertions

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        words, *errors = sums
        rate: npt.NDArray[np.float64] = sum(errors) / np.maximum(words, 1)
        return rate


metric = WordErrorRate()
