"""Character error rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from asrmerge.evaluation.metric import Sums
from asrmerge.evaluation.scored import ScoredUtterance


class CharacterErrorRate:
    """Edits of characters, single spaces between words among them, per reference character; as jiwer counts them."""

    name = "cer"
    title = "CER"
    higher_is_better = False

    def counts(self, scored: ScoredUtterance) -> tuple[int, ...]:
        reference = " ".join(scored.reference)
        distance = int(Levenshtein.distance(reference, " ".join(scored.hypothesis)))
        return distance, len(reference)

    def value(self, sums: Sums) -> npt.NDArray[np.float64]:
        rate: npt.NDArray[np.float64] = sums[0] / np.maximum(sums[1], 1)
        return rate


metric = CharacterErrorRate()
