"""Guessed word times: inside the sound, in order, and boundaries where it pauses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.speech.timed_text import Segment
from asrmerge.transcribing.estimating import estimate_words

RATE = 16_000


def sound(*parts: tuple[float, bool]) -> np.ndarray:
    """Seconds of noise (true) or of near silence (false)."""
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(0, 0.2 if loud else 1e-4, round(RATE * seconds)) for seconds, loud in parts])


def test_words_fall_where_there_is_sound() -> None:
    samples = sound((1.0, False), (2.0, True), (1.0, False), (1.0, True), (0.5, False))
    segment = Segment(10.0, 15.5, "take two tablets with water")
    found = estimate_words(segment, samples, RATE)
    assert found.estimated and "".join(word.text for word in found.words) == segment.text
    assert (found.words[0].start, found.words[-1].end) == pytest.approx((11.0, 15.0), abs=0.03)
    # Two thirds of the sound come before the pause: 16 letters of 27 and the word after them are nearest.
    assert [word.text for word in found.words if word.end <= 13.03] == ["take", " two", " tablets"]
    assert found.words[3].start == pytest.approx(14.0, abs=0.03)


def test_words_keep_an_even_pace_where_nothing_pauses() -> None:
    found = estimate_words(Segment(0.0, 3.0, "abcde abcd abcd"), sound((3.0, True)), RATE)
    assert [word.end for word in found.words] == pytest.approx([1.0, 2.0, 3.0], abs=0.03)


def test_silence_and_nothing_do_no_harm() -> None:
    silent = estimate_words(Segment(0.0, 2.0, "take two"), np.zeros(2 * RATE, dtype=np.float32), RATE)
    assert [word.text for word in silent.words] == ["take", " two"]
    for segment, samples in ((Segment(0.0, 1.0, ""), np.ones(RATE)), (Segment(0.0, 0.0, "take"), np.zeros(0))):
        assert estimate_words(segment, samples, RATE) == segment


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), min_size=1, max_size=8),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=9), min_size=1, max_size=12),
)
def test_words_never_leave_the_segment_or_go_back(parts: list[tuple[float, bool]], texts: list[str]) -> None:
    samples = sound(*parts)
    seconds = len(samples) / RATE
    found = estimate_words(Segment(5.0, 5.0 + seconds, " ".join(texts)), samples, RATE).words
    assert [word.text.strip() for word in found] == texts
    assert found[0].start >= 5.0 and found[-1].end <= 5.0 + seconds
    starts = [word.start for word in found]
    assert starts == sorted(starts) and all(word.start <= word.end for word in found)
