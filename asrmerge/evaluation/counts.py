"""Word errors of texts, and the alignments behind them, by one of two schemes.

``levenshtein`` charges 1 for every edit: the fewest errors that turn one text into the other, as jiwer, Kaldi and the Open ASR
Leaderboard count. ``sclite`` charges as NIST's sclite does (see :mod:`~asrmerge.evaluation.alignment`); it never counts fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np

from asrmerge.evaluation.alignment import DELETION, EQUAL, INSERTION, SUBSTITUTION, Path, sclite_paths

Scheme = Literal["levenshtein", "sclite"]
Kind = Literal["equal", "substitution", "deletion", "insertion"]
KINDS: dict[str, Kind] = {"equal": "equal", "substitute": "substitution", "delete": "deletion", "insert": "insertion"}
MOVES: dict[int, Kind] = {EQUAL: "equal", SUBSTITUTION: "substitution", DELETION: "deletion", INSERTION: "insertion"}


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


def count_errors(reference: str, hypothesis: str, scheme: Scheme = "levenshtein") -> ErrorCounts:
    """The word edits from ``reference`` to ``hypothesis``, both normalised; words are what white space separates."""
    return count_all_errors([reference], [hypothesis], scheme)[0]


def count_all_errors(
    references: Sequence[str], hypotheses: Sequence[str], scheme: Scheme = "levenshtein"
) -> tuple[ErrorCounts, ...]:
    """:func:`count_errors` of every utterance; by ``sclite`` all at once, which is far faster than one by one.

    Raises:
        ValueError: if there are not as many references as hypotheses.
    """
    if scheme == "sclite":
        return tuple(map(_count_moves, _sclite(references, hypotheses)))
    return tuple(_count_levenshtein(*texts) for texts in zip(references, hypotheses, strict=True))


def align(reference: str, hypothesis: str, scheme: Scheme = "levenshtein") -> tuple[AlignedPair, ...]:
    """The alignment that :func:`count_errors` counts, word by word, in order."""
    if scheme == "sclite":
        expected, heard = iter(reference.split()), iter(hypothesis.split())
        return tuple(
            AlignedPair(MOVES[move], None if move == INSERTION else next(expected), None if move == DELETION else next(heard))
            for move in _sclite([reference], [hypothesis])[0].tolist()
        )
    output = _process(reference, hypothesis)
    return tuple(pair for chunk in output.alignments[0] for pair in _pairs(chunk, output.references[0], output.hypotheses[0]))


def _sclite(references: Sequence[str], hypotheses: Sequence[str]) -> list[Path]:
    return sclite_paths([text.split() for text in references], [text.split() for text in hypotheses])


def _count_moves(path: Path) -> ErrorCounts:
    equal, substitutions, deletions, insertions = np.bincount(path, minlength=len(MOVES)).tolist()
    return ErrorCounts(equal + substitutions + deletions, substitutions, deletions, insertions)


def _count_levenshtein(reference: str, hypothesis: str) -> ErrorCounts:
    output = _process(reference, hypothesis)
    return ErrorCounts(
        words=output.hits + output.substitutions + output.deletions,
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
    )


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
