"""What a recogniser makes up: a phrase over and over, words where there is no sound."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asrmerge.evaluation.hypotheses import Hypothesis

# How often a phrase of one, two, three or more words must follow itself to be a loop. People say "no no no no" and read out
# "five five five five", but hardly ever a sentence four times.
_FEWEST_REPEATS = (8, 5, 4)
# A decoder that loops fills its window, in which a longer phrase does not fit four times.
_LONGEST_PHRASE = 60
# No word is longer: what is, comes from a script without spaces, and is compared character by character.
_LONGEST_WORD = 40


@dataclass(frozen=True)
class RepeatLoop:
    """``phrase`` is there ``repeats`` times back to back."""

    phrase: str
    repeats: int


@dataclass(frozen=True)
class Hallucinations:
    """Identifiers of the utterances with a repeat loop, and what repeats; of those with text on silence."""

    loops: dict[str, RepeatLoop]
    on_silence: tuple[str, ...]


def find_hallucinations(hypotheses: Iterable[Hypothesis]) -> Hallucinations:
    """Both kinds in ``hypotheses``; those without a transcript have none."""
    spoken = [hypothesis for hypothesis in hypotheses if hypothesis.error is None]
    found = {one.identifier: repeat_loop(one.prediction, one.text) for one in spoken}
    return Hallucinations(
        loops={identifier: loop for identifier, loop in found.items() if loop is not None},
        on_silence=tuple(one.identifier for one in spoken if text_on_silence(one)),
    )


def text_on_silence(hypothesis: Hypothesis) -> bool:
    """Whether there are words although the audio holds no sound."""
    return hypothesis.silent and bool(_words(hypothesis.prediction))


def repeat_loop(text: str, reference: str = "") -> RepeatLoop | None:
    """The phrase that follows itself most often, if that is more than speech does: Whisper's decoders get caught so.

    A word must be there 8 times back to back, two words 5 times, more 4 times; and more than twice as often as ``reference`` has
    the phrase back to back, where someone really says so. Case and punctuation do not count.
    """
    words = _words(text)
    loops = [loop for length in range(1, min(_LONGEST_PHRASE, len(words) // _FEWEST_REPEATS[-1]) + 1)
             if (loop := _longest_run(words, length)) is not None]  # fmt: skip
    said = _words(reference)
    real = [(phrase, repeats) for phrase, repeats in loops if repeats > 2 * _repeats_in(said, phrase)]
    if not real:
        return None
    phrase, repeats = max(real, key=lambda loop: loop[1])
    return RepeatLoop(" ".join(phrase), repeats)


def _longest_run(words: Sequence[str], length: int) -> tuple[list[str], int] | None:
    """The phrase of ``length`` words that follows itself most often, and how often, if often enough."""
    best, place, run = 0, 0, 0
    for index in range(length, len(words)):
        run = run + 1 if words[index] == words[index - length] else 0
        if run > best and not _repeats_itself(words[index - length + 1 : index + 1]):
            best, place = run, index
    repeats = (best + length) // length
    start = place - best - length + 1
    fewest = _FEWEST_REPEATS[min(length, len(_FEWEST_REPEATS)) - 1]
    return (list(words[start : start + length]), repeats) if repeats >= fewest else None


def _repeats_itself(phrase: Sequence[str]) -> bool:
    """Whether it is a shorter phrase twice or more, which then is the loop, and is compared with what was said."""
    return any([*phrase[turn:], *phrase[:turn]] == list(phrase) for turn in range(1, len(phrase)))


def _repeats_in(words: Sequence[str], phrase: Sequence[str]) -> int:
    """How often ``phrase`` follows itself at most, beginning at any of its words."""
    length, most = len(phrase), 0
    turns = {tuple([*phrase[turn:], *phrase[:turn]]) for turn in range(length)}
    for start in range(len(words) - length + 1):
        if tuple(words[start : start + length]) in turns:
            end = start + length
            while end < len(words) and words[end] == words[end - length]:
                end += 1
            most = max(most, (end - start) // length)
    return most


def _words(text: str) -> list[str]:
    """Words in lower case without punctuation around them; characters of what is too long for a word."""
    words = [_strip(word) for word in text.lower().split()]
    return [part for word in words if word for part in (word if len(word) > _LONGEST_WORD else [word])]


def _strip(word: str) -> str:
    around = "".join(character for character in set(word) if unicodedata.category(character)[0] in "PS")
    return word.strip(around)
