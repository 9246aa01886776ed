"""Word information preserved."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.metric import Sums
from asrmerge.evaluation.scored import ScoredUtterance


class WordInformationPreserved:
    """The share of reference words that are right times the share of recognised words that are; 1 where both texts are empty.

    Source: A. C. Morris, V. Maier and P. Green, "From WER and RIL to MER and WIL", Interspeech 2004.
    """

    name = "wip"
    title = "WIP"
    higher_is_better = True

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        errors = scored.errors
        return errors.correct, errors.words, errors.correct + errors.substitutions + errors.insertions

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        correct, said, recognised = sums
        preserved = correct**2 / np.maximum(said * recognised, 1)
        return np.where((said == 0) & (recognised == 0), 1.0, preserved)


metric = WordInformationPreserved()
