"""Word errors of one text, and the alignment behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jiwer

Kind = Literal["equal", "substitution", "deletion", "insertion"]
KINDS: dict[str, Kind] = {"equal": "equal", "substitute": "substitution", "delete": "deletion", "insert": "insertion"}


@dataclass(frozen=True)
class ErrorCounts:
    """``words`` of the reference, and the edits that turn it into the hypothesis; adding counts pools them."""

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def correct(self) -> int:
        """Reference words that the hypothesis has right."""
        return self.words - self.substitutions - self.deletions

    @property
    def wer(self) -> float:
        """Errors per reference word, as a fraction; without reference words the number of insertions, as jiwer has it."""
        return self.errors / max(self.words, 1)

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class AlignedPair:
    """One step of an alignment: ``reference`` is ``None`` for an insertion, ``hypothesis`` for a deletion."""

    kind: Kind
    reference: str | None
    hypothesis: str | None


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """The fewest word edits from ``reference`` to ``hypothesis``, both normalised; words are what white space separates."""
    output = _process(reference, hypothesis)
    return ErrorCounts(
        words=output.hits + output.substitutions + output.deletions,
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
    )


def align(reference: str, hypothesis: str) -> tuple[AlignedPair, ...]:
    """The alignment that :func:`count_errors` counts, word by word, in order."""
    output = _process(reference, hypothesis)
    return tuple(pair for chunk in output.alignments[0] for pair in _pairs(chunk, output.references[0], output.hypotheses[0]))


def _process(reference: str, hypothesis: str) -> jiwer.WordOutput:
    # jiwer splits at spaces alone; a line break or tab between two words must not make them one.
    return jiwer.process_words(" ".join(reference.split()), " ".join(hypothesis.split()))


def _pairs(chunk: jiwer.AlignmentChunk, reference: list[str], hypothesis: list[str]) -> list[AlignedPair]:
    kind = KINDS[chunk.type]
    expected: list[str] = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    heard: list[str] = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    if kind == "deletion":
        return [AlignedPair(kind, word, None) for word in expected]
    if kind == "insertion":
        return [AlignedPair(kind, None, word) for word in heard]
    return [AlignedPair(kind, word, other) for word, other in zip(expected, heard, strict=True)]
