"""Word sequences found in a text: terms to be scored, and wordings to be replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Occurrence:
    """``phrase`` stands at the words from ``start`` up to, not including, ``end``."""

    phrase: str
    start: int
    end: int


@dataclass(frozen=True)
class Phrases:
    """Phrases to look for, by their first word."""

    by_first: Mapping[str, tuple[tuple[str, ...], ...]]

    @classmethod
    def of(cls, phrases: Iterable[str]) -> Phrases:
        """``phrases``, whose words are what white space separates; blank ones are never found."""
        by_first: dict[str, list[tuple[str, ...]]] = {}
        for words in dict.fromkeys(tuple(phrase.split()) for phrase in phrases):
            if words:
                by_first.setdefault(words[0], []).append(words)
        return cls({first: tuple(group) for first, group in by_first.items()})

    def __bool__(self) -> bool:
        return bool(self.by_first)

    def find(self, words: Sequence[str]) -> tuple[Occurrence, ...]:
        """Where phrases stand in ``words``, in order; of two that overlap the longer one counts, of equals the earlier."""
        if self.by_first.keys().isdisjoint(words):
            return ()
        found = [
            Occurrence(" ".join(phrase), start, start + len(phrase))
            for start, word in enumerate(words)
            for phrase in self.by_first.get(word, ())
            if tuple(words[start : start + len(phrase)]) == phrase
        ]
        taken: set[int] = set()
        kept = []
        for one in sorted(found, key=lambda one: (one.start - one.end, one.start)):
            place = range(one.start, one.end)
            if taken.isdisjoint(place):
                taken.update(place)
                kept.append(one)
        return tuple(sorted(kept, key=lambda one: one.start))
