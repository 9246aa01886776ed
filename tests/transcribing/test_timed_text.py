"""Segments: phrases at pauses, and times carried over from a text that is nearly the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asrmerge.speech.timed_text import Segment, Word, phrases, project, split_words

WORDS = st.lists(st.sampled_from(["take", "two", "tablets", "a", "day", "with", "water"]), max_size=12)


def timed(*texts: str) -> list[Segment]:
    return [Segment(float(number), number + 1.0, text) for number, text in enumerate(texts)]


def test_a_pause_ends_a_phrase() -> None:
    words = [Word("take", 0.0, 0.3), Word(" two", 0.5, 0.8), Word(" now", 1.6, 2.0)]
    found = [(segment.start, segment.end, segment.text) for segment in phrases(words)]
    assert found == [(0.0, 0.8, "take two"), (1.6, 2.0, "now")]
    assert phrases([]) == ()


def test_times_are_put_to_the_text_that_differs_a_little() -> None:
    found = project("Take too tablets, every morning; and rest.", timed("take two tablets", "every mourning", "and rest"))
    assert [(segment.start, segment.text) for segment in found] == [
        (0.0, "Take too tablets,"), (1.0, "every morning;"), (2.0, "and rest."),
    ]  # fmt: skip


def test_words_that_only_the_text_has_stay_with_their_neighbours() -> None:
    found = project("well take two daily please", timed("take two", "daily"))
    assert [segment.text for segment in found] == ["well take two", "daily please"]
    assert project("", timed("take")) == project("take", timed("")) == project("take", []) == ()


@given(WORDS, st.lists(WORDS.map(" ".join), max_size=5))
def test_projecting_keeps_every_word_in_order(words: list[str], texts: list[str]) -> None:
    found = project(" ".join(words), timed(*texts))
    assert " ".join(segment.text for segment in found) == (" ".join(words) if any(texts) else "")
    assert [segment.start for segment in found] == sorted({segment.start for segment in found})
    if " ".join(words).split() == " ".join(texts).split():
        assert [segment.text for segment in found] == [text for text in texts if text]


@given(st.text(alphabet="ab \t日本", max_size=30))
def test_split_words_lose_nothing_but_trailing_space(text: str) -> None:
    assert "".join(split_words(text)) == text.rstrip()


def test_shifting_moves_words_along() -> None:
    segment = Segment(1.0, 2.0, "take", (Word("take", 1.0, 2.0),)).shifted(10.0)
    assert (segment.start, segment.words[0].end) == (11.0, 12.0)
