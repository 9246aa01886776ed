"""An utterance as metrics see it: both texts normalised and aligned, and the domain's terms in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from asrmerge.evaluation.alignment import DELETION, EQUAL, INSERTION, Path
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.evaluation.phrases import Occurrence, Phrases


@dataclass(frozen=True, eq=False)
class ScoredUtterance:
    """The words of a normalised reference and hypothesis, the moves that align them, and the terms to look for.

    What follows from these is worked out when a metric first asks for it.
    """

    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]
    path: Path
    terms: Phrases

    @cached_property
    def errors(self) -> ErrorCounts:
        """Word errors."""
        _, substitutions, deletions, insertions = np.bincount(self.path, minlength=4).tolist()
        return ErrorCounts(len(self.reference), substitutions, deletions, insertions)

    @cached_property
    def reference_terms(self) -> tuple[Occurrence, ...]:
        """The terms that were said."""
        return self.terms.find(self.reference)

    @cached_property
    def hypothesis_terms(self) -> tuple[Occurrence, ...]:
        """The terms that were recognised, rightly or not."""
        return self.terms.find(self.hypothesis)

    @cached_property
    def term_hits(self) -> int:
        """Terms that were said and also recognised at that place: all their words aligned as equal, with nothing in between."""
        if not self.reference_terms or not self.hypothesis_terms:
            return 0
        partners = {reference: hypothesis for move, reference, hypothesis in self._steps if move == EQUAL}
        recognised = {(term.phrase, *range(term.start, term.end)) for term in self.hypothesis_terms}
        said = ((term.phrase, *map(partners.get, range(term.start, term.end))) for term in self.reference_terms)
        return sum(term in recognised for term in said)

    @cached_property
    def term_errors(self) -> int:
        """Errors in terms: edits of the words of terms that were said, and insertions that are part of a recognised term."""
        if not self.reference_terms and not self.hypothesis_terms:
            return 0
        said, recognised = _places(self.reference_terms), _places(self.hypothesis_terms)
        wrong = (step for step in self._steps if step[0] != EQUAL)
        return sum(hypothesis in recognised if move == INSERTION else reference in said for move, reference, hypothesis in wrong)

    @property
    def term_words(self) -> int:
        """Words of the terms that were said."""
        return sum(term.end - term.start for term in self.reference_terms)

    @cached_property
    def _steps(self) -> list[tuple[int, int, int]]:
        """Every move, with the place of the next word of the reference and of the hypothesis."""
        steps = []
        reference = hypothesis = 0
        for move in self.path.tolist():
            steps.append((move, reference, hypothesis))
            reference += move != INSERTION
            hypothesis += move != DELETION
        return steps


def _places(terms: tuple[Occurrence, ...]) -> set[int]:
    return {place for term in terms for place in range(term.start, term.end)}
