"""What a search has spent, and whether that leaves room for more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from asrmerge.search_settings import Budget

FULL_EVALUATIONS = 10  # what a race spends unless given: as many utterances as ten candidates hear that hear everything


@dataclass(frozen=True)
class Spent:
    """What a search has used so far: candidates begun, utterances decoded, losses of utterances computed, seconds."""

    candidates: int = 0
    utterances: int = 0
    losses: int = 0
    seconds: float = 0.0

    def fits(self, budget: Budget, *, candidates: int = 0, utterances: int = 0) -> bool:
        """Whether so much more stays within ``budget``; of minutes, whether there are any left."""
        return (
            (budget.candidates is None or self.candidates + candidates <= budget.candidates)
            and (budget.utterances is None or self.utterances + utterances <= budget.utterances)
            and (budget.minutes is None or self.seconds < 60 * budget.minutes)
        )

    def plus(self, *, candidates: int = 0, utterances: int = 0, losses: int = 0) -> Spent:
        """With so much more."""
        return replace(
            self,
            candidates=self.candidates + candidates,
            utterances=self.utterances + utterances,
            losses=self.losses + losses,
        )
