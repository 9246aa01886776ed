"""Subtitles: at most two lines of 42 characters and seven seconds, cut at pauses, and nothing of the text lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from asrmerge.speech.timed_text import Segment, Word
from asrmerge.transcribing.subtitles import subtitles

TEXT = "the county court was the sheriffs who sat there surrounded by the bishop and the magnates of the county " * 3


@st.composite
def segment_lists(draw: st.DrawFn) -> list[Segment]:
    position, found = 0.0, []
    for _ in range(draw(st.integers(0, 4))):
        texts = draw(st.lists(st.text(alphabet="abcé日", min_size=1, max_size=60), min_size=1, max_size=25))
        words, start = [], position
        for text in texts:
            position += draw(st.floats(0, 1.5))
            length = draw(st.floats(0.02, 1.0))
            words.append(Word(f" {text}", position, position + length))
            position += length
        known = draw(st.booleans())
        found.append(Segment(start, position, " ".join(texts), tuple(words) if known else ()))
    return found


@given(segment_lists())
def test_every_subtitle_can_be_read_and_the_text_is_whole(segments: list[Segment]) -> None:
    found = subtitles(segments)
    for subtitle in found:
        assert 1 <= len(subtitle.lines) <= 2 and all(0 < cell_len(line) <= 42 for line in subtitle.lines)
        assert 0 < subtitle.end - subtitle.start <= 7.001
    assert all(one.end <= other.start + 1e-9 for one, other in pairwise(found))
    shown = "".join(line for subtitle in found for line in subtitle.lines)
    assert shown.replace(" ", "") == "".join(segment.text for segment in segments).replace(" ", "")


def test_a_subtitle_ends_at_a_pause() -> None:
    words = (Word("yes", 0.0, 0.4), Word(" of", 2.0, 2.1), Word(" course", 2.1, 2.5), Word(" not", 2.6, 4.0))
    assert [(one.start, one.end, one.lines) for one in subtitles([Segment(0.0, 4.0, "yes of course not", words)])] == [
        (0.0, 1.0, ("yes",)),  # shown for a second, though said in less
        (2.0, 4.0, ("of course not",)),
    ]


def test_a_long_segment_is_cut_into_parts_of_like_length() -> None:
    found = subtitles([Segment(10.0, 40.0, TEXT.strip())])
    lengths = [len(" ".join(one.lines)) for one in found]
    assert len(found) == 5 and max(lengths) < 1.6 * min(lengths)
    assert (found[0].start, round(found[-1].end, 6)) == (10.0, 40.0)


def test_the_widest_gap_near_a_parts_end_is_preferred() -> None:
    texts = TEXT.split()[:24]
    words = tuple(
        Word(f" {text}", number * 0.3 + (0.4 if number >= 10 else 0.0), number * 0.3 + 0.3 + (0.4 if number >= 10 else 0.0))
        for number, text in enumerate(texts)
    )
    first, second = subtitles([Segment(0.0, words[-1].end, " ".join(texts), words)])
    assert " ".join(first.lines) == " ".join(texts[:10]) and second.start == 3.4


def test_text_without_spaces_is_broken_by_width() -> None:
    found = subtitles([Segment(0.0, 12.0, "日本語" * 30)])
    assert [line for subtitle in found for line in subtitle.lines] == ["日本語" * 7] * 4 + ["日本語" * 2]
    assert len(found) == 3
