"""What candidates came to on part of the validation audio, utterance by utterance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.candidate import Candidate

Scores = Mapping[str, tuple[ErrorCounts, ...]]  # domain → its utterances' counts, in the order of the plan


@dataclass(frozen=True)
class Outcome:
    """The scores of one candidate in one look; or why there are none."""

    scores: Scores | None
    error: str | None = None


Asked = Sequence[tuple[Candidate, int]]  # candidates, and the number of the look that each is to be heard in
Hear = Callable[[Asked], list[Outcome]]


def joined(parts: Sequence[Scores]) -> dict[str, tuple[ErrorCounts, ...]]:
    """The scores of several looks, one after the other."""
    return {domain: tuple(one for part in parts for one in part[domain]) for domain in (parts[0] if parts else ())}


def pooled(scores: Scores) -> dict[str, ErrorCounts]:
    """Counts of each domain."""
    return {domain: sum(found[1:], start=found[0]) if found else ErrorCounts() for domain, found in scores.items()}
