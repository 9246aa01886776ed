"""sclite's word alignment, move for move, for many utterances at once.

sclite (NIST's SCTK) charges 4 for a substitution and 3 for an insertion or a deletion. Alignments with other counts often cost
the same: three substitutions cost as much as two deletions and two insertions. Coming from the end, sclite then takes a match or
substitution before an insertion, and an insertion before a deletion. A path's cost is 3 × (all words of both texts) less 6 for
every match and 2 for every substitution, so the tables here hold 3 × matches + substitutions, the highest first.

Words are compared as they are, as by sclite's ``-s``, and every word is a word. sclite reads a few texts in its own way: a lone
``@`` is nothing, ``{ a / b }`` is either, what follows a ``;`` within a word is not compared, a star at a word's end and a
backslash are dropped, and lines that start with ``;;`` or ``**`` are comments. Whisper's normalisers leave none of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

EQUAL: Final = 0
SUBSTITUTION: Final = 1
DELETION: Final = 2
INSERTION: Final = 3

Path: TypeAlias = npt.NDArray[np.uint8]  # the moves of one utterance, in order
Words: TypeAlias = Sequence[str]

_END = 255
_MATCH_SCORE, _SUBSTITUTION_SCORE = 3, 1
_CELLS_AT_ONCE = 1 << 20  # bytes of back pointers held at a time, unless one utterance needs more


def sclite_paths(references: Sequence[Words], hypotheses: Sequence[Words]) -> list[Path]:
    """Align each reference with its hypothesis.

    Takes lists of words, one list per utterance; returns per utterance the moves ``EQUAL``, ``SUBSTITUTION``, ``DELETION`` (a
    word of the reference alone) and ``INSERTION`` (a word of the hypothesis alone). One utterance needs words × words bytes.

    Raises:
        ValueError: if there are not as many references as hypotheses.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"references and hypotheses must be as many; got {len(references)} and {len(hypotheses)}")
    numbers: dict[str, int] = {}
    pairs = [
        tuple(np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64) for words in texts)
        for texts in zip(references, hypotheses, strict=True)
    ]
    sizes = [(len(reference), len(hypothesis)) for reference, hypothesis in pairs]
    paths: list[Path] = [np.empty(0, dtype=np.uint8)] * len(pairs)
    for batch in _batches(sizes):
        rows, columns = (_pad([pairs[index][side] for index in batch]) for side in (0, 1))
        moves = _trace(_back_pointers(rows, columns), np.array([sizes[index] for index in batch]))
        for index, backwards in zip(batch, moves, strict=True):
            paths[index] = backwards[backwards != _END][::-1]
    return paths


def _batches(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Utterances of similar sizes together, so that little is padded."""
    batch: list[int] = []
    rows = columns = 0
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        rows, columns = max(rows, sizes[index][0]), max(columns, sizes[index][1])
        if batch and (len(batch) + 1) * (rows + 1) * (columns + 1) > _CELLS_AT_ONCE:
            yield batch
            batch, (rows, columns) = [], sizes[index]
        batch.append(index)
    if batch:
        yield batch


def _pad(texts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """[utterances, words of the longest]; cells of padding are computed but never looked at."""
    padded = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    return padded


def _back_pointers(references: npt.NDArray[np.int64], hypotheses: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The last move of the best path to every cell: [utterances, reference words + 1, hypothesis words + 1]."""
    (utterances, rows), columns = references.shape, hypotheses.shape[1]
    pointers = np.empty((utterances, rows + 1, columns + 1), dtype=np.uint8)
    pointers[:, 0, :] = INSERTION
    pointers[:, :, 0] = DELETION
    pointers[:, 0, 0] = _END
    scores = np.zeros((utterances, columns + 1), dtype=np.int32)
    for row in range(rows):
        differs = hypotheses != references[:, row, None]
        diagonal = scores[:, :-1] + np.where(differs, np.int32(_SUBSTITUTION_SCORE), np.int32(_MATCH_SCORE))
        scores[:, 1:] = np.maximum.accumulate(np.maximum(diagonal, scores[:, 1:]), axis=1)
        gap = np.where(scores[:, 1:] == scores[:, :-1], np.uint8(INSERTION), np.uint8(DELETION))
        pointers[:, row + 1, 1:] = np.where(scores[:, 1:] == diagonal, differs, gap)  # differs: EQUAL or SUBSTITUTION
    return pointers


def _trace(pointers: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The moves from each utterance's last cell back to its first, padded with ``_END``: [utterances, steps]."""
    utterances = np.arange(len(sizes))
    row, column = sizes[:, 0].copy(), sizes[:, 1].copy()
    steps: list[npt.NDArray[np.uint8]] = []
    while row.any() or column.any():
        move = pointers[utterances, row, column]
        steps.append(move)
        row -= (move != INSERTION) & (move != _END)
        column -= (move != DELETION) & (move != _END)
    return np.stack(steps, axis=1) if steps else np.empty((len(sizes), 0), dtype=np.uint8)
