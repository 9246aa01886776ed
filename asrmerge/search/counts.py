"""What a search counts of a candidate's transcripts: word errors, and the domain's terms."""

from __future__ import annotations

from dataclasses import dataclass

from asrmerge.evaluation.counts import ErrorCounts


@dataclass(frozen=True)
class SearchCounts(ErrorCounts):
    """Word errors with what term recall takes; adding counts pools them.

    Attributes:
        terms: how often the domain's terms were said.
        found: how many of these were recognised at their place.
    """

    terms: int = 0
    found: int = 0

    def __add__(self, other: ErrorCounts) -> SearchCounts:
        edits = super().__add__(other)
        return SearchCounts(
            edits.words,
            edits.substitutions,
            edits.deletions,
            edits.insertions,
            terms=self.terms + terms_of(other)[0],
            found=self.found + terms_of(other)[1],
        )


def terms_of(counts: ErrorCounts) -> tuple[int, int]:
    """Terms that were said, and how many were found; none where they were not counted."""
    return (counts.terms, counts.found) if isinstance(counts, SearchCounts) else (0, 0)


def missed_share(counts: ErrorCounts) -> float:
    """Share of the said terms that was missed; 0 where none was said."""
    said, found = terms_of(counts)
    return (said - found) / said if said else 0.0
