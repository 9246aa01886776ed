"""Transcripts that know when things were said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Literal

import numpy as np

# A silence of this length ends a phrase.
PAUSE_SECONDS = 0.8

Times = Literal["none", "free", "best"]  # wanted are no times, those that cost no second decoding, or the best there are


@dataclass(frozen=True)
class Word:
    """A word with the space before it, if there is one; ``start`` and ``end`` in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech; ``start`` and ``end`` in seconds.

    ``words`` where their times are known, or with ``estimated`` guessed; their texts make up ``text``.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    estimated: bool = False

    def shifted(self, seconds: float) -> Segment:
        """The same, so much later."""
        words = tuple(replace(word, start=word.start + seconds, end=word.end + seconds) for word in self.words)
        return replace(self, start=self.start + seconds, end=self.end + seconds, words=words)


@dataclass(frozen=True)
class TimedText:
    """A transcript and its segments in order, as far as there are any; their texts make up ``text`` but for spaces."""

    text: str
    segments: tuple[Segment, ...] = ()


def split_words(text: str) -> list[str]:
    """The words of ``text``, each with the spaces before it."""
    return re.findall(r"\s*\S+", text)


def phrases(words: Sequence[Word]) -> tuple[Segment, ...]:
    """``words`` as segments, a new one after every pause."""
    starts = [0, *(index + 1 for index, (one, other) in enumerate(pairwise(words)) if other.start - one.end >= PAUSE_SECONDS)]
    groups = [tuple(words[start:end]) for start, end in pairwise([*starts, len(words)])]
    return tuple(
        Segment(group[0].start, group[-1].end, "".join(word.text for word in group).strip(), group) for group in groups if group
    )


def project(text: str, segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The times of ``segments``, whose text is nearly ``text``, for the words of ``text``.

    Boundaries are taken over between words that both have, and in proportion where the texts differ.
    """
    wanted = text.split()
    found = [segment.text.split() for segment in segments]
    heard = [word for words in found for word in words]
    if not heard or not wanted:
        return ()
    blocks = SequenceMatcher(None, _plain(heard), _plain(wanted), autojunk=False).get_matching_blocks()
    anchors = [(block.a + side, block.b + side) for block in blocks for side in (0, block.size)]
    boundaries = np.cumsum([0, *map(len, found)])
    places = np.rint(np.interp(boundaries, [0, *(a for a, _ in anchors)], [0, *(b for _, b in anchors)])).astype(int)
    places[0], places[-1] = 0, len(wanted)  # words that only the text has at its ends stay with the outer segments
    return tuple(
        Segment(segment.start, segment.end, " ".join(wanted[first:last]))
        for segment, (first, last) in zip(segments, pairwise(places), strict=True)
        if last > first
    )


def _plain(words: Sequence[str]) -> list[str]:
    return [re.sub(r"\W", "", word).casefold() or word for word in words]
