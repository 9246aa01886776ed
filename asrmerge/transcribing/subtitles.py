"""Subtitles that can be read: at most two lines, not for too long nor too short, cut at pauses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

from rich.cells import cell_len

from asrmerge.speech.timed_text import PAUSE_SECONDS, Segment, Word, split_words

LINES = 2
LINE_WIDTH = 42  # characters; those of Chinese, Japanese and Korean count twice
LONGEST_SECONDS = 7.0
SHORTEST_SECONDS = 1.0


@dataclass(frozen=True)
class Subtitle:
    """``lines`` shown from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def subtitles(segments: Iterable[Segment]) -> list[Subtitle]:
    """The segments' words as subtitles, none over another: a short one stays for a second where nothing follows."""
    groups = [group for segment in segments if (words := _words(segment)) for group in _split(words)]
    found = []
    for group, following in pairwise([*groups, None]):
        if group is not None:
            start = group[0].start
            limit = start + LONGEST_SECONDS if following is None else min(start + LONGEST_SECONDS, following[0].start)
            found.append(Subtitle(start, min(max(group[-1].end, start + SHORTEST_SECONDS), limit), tuple(_lines(group))))
    return found


def _words(segment: Segment) -> tuple[Word, ...]:
    """The segment's words, at even pace where their times are not known, those that are wider than a line in pieces."""
    words = segment.words or _spread(split_words(segment.text), segment.start, segment.end)
    return tuple(chain.from_iterable(_spread(_pieces(word.text), word.start, word.end) for word in words))


def _spread(texts: Sequence[str], start: float, end: float) -> tuple[Word, ...]:
    reached = list(accumulate(map(len, texts), initial=0))
    pace = (end - start) / (reached[-1] or 1)
    return tuple(
        Word(text, start + pace * first, start + pace * last)
        for text, (first, last) in zip(texts, pairwise(reached), strict=True)
    )


def _pieces(text: str) -> list[str]:
    pieces = [""]
    for character in text:
        if cell_len((pieces[-1] + character).strip()) > LINE_WIDTH:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _split(words: tuple[Word, ...]) -> Iterator[tuple[Word, ...]]:
    """``words`` in groups that can each be one subtitle, cut at pauses, else at wide gaps into parts of like length."""
    gaps = [round(other.start - one.end, 2) for one, other in pairwise(words)]
    needed = max(math.ceil(len(_lines(words)) / LINES), math.ceil((words[-1].end - words[0].start) / LONGEST_SECONDS))
    if gaps and max(gaps) >= PAUSE_SECONDS:
        cut = gaps.index(max(gaps)) + 1
    elif gaps and needed > 1:
        lengths = list(accumulate(len(word.text) for word in words))
        # In units of a part: a third of one to either side of where parts would be equally long.
        off = [abs(length / lengths[-1] * needed - needed // 2) for length in lengths[:-1]]
        cut = max(range(len(gaps)), key=lambda index: (off[index] <= 1 / 3, gaps[index], -off[index])) + 1
    else:
        yield words
        return
    yield from _split(words[:cut])
    yield from _split(words[cut:])


def _lines(words: Sequence[Word]) -> list[str]:
    lines = [""]
    for word in words:
        if cell_len((lines[-1] + word.text).strip()) > LINE_WIDTH:
            lines.append("")
        lines[-1] += word.text
    return [line.strip() for line in lines]
