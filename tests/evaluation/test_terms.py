"""Phrases in texts, and lists of terms."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.errors import ConfigError
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.phrases import Occurrence, Phrases
from asrmerge.evaluation.terms import normalize_terms, read_terms

words = st.lists(st.sampled_from("abc"), max_size=10)


@given(words, st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join), max_size=5))
def test_phrases_are_found_longest_first(text: list[str], phrases: list[str]) -> None:
    free, expected = [True] * len(text), set()
    for length in (4, 3, 2, 1):
        for start in range(len(text) - length + 1):
            phrase = " ".join(text[start : start + length])
            if phrase in phrases and all(free[start : start + length]):
                expected.add(Occurrence(phrase, start, start + length))
                free[start : start + length] = [False] * length
    found = Phrases.of(phrases).find(text)
    assert set(found) == expected and list(found) == sorted(found, key=lambda one: one.start)


def test_phrases_are_whole_words() -> None:
    assert Phrases.of(["blood  pressure", " "]).find(["high", "blood", "pressure", "pressures"]) == (
        Occurrence("blood pressure", 1, 3),
    )
    assert Phrases.of(["blood pressure"]).find(["blood", "count"]) == ()
    assert Phrases.of(["pressure"]).find(["pressures"]) == ()
    assert not Phrases.of([""])


def test_terms_are_normalised_and_counted_once(tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("# British spelling\nHaemoglobin\n\n  hemoglobin \nTwo-step  Test\n", encoding="utf-8-sig")
    assert read_terms(file, normalizer("whisper")) == ("hemoglobin", "2 step test")
    assert normalize_terms(["uh", "Mr. Brown", "mister brown"], normalizer("whisper")) == ("mister brown",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plaintiff\n\nuh\n", "terms.txt, line 3: the text normaliser leaves nothing of the term 'uh'"),
        (b"# nothing\n\n", "terms.txt: there are no entries; write one a line"),
        (b"caf\xe9\n", "terms.txt: not UTF-8 text; save it as UTF-8"),
        (None, "terms.txt: cannot be read"),
    ],
)
def test_unusable_lists_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "terms.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_terms(file, normalizer("whisper"))
