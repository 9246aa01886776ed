from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.evaluation.normalizers import normalizer
from asrmerge.experts.transcripts import restyle


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("written", "Mr. Neild’s  “forty-two” prisoners' rules."),
        ("lower", "mr. neild’s “forty-two” prisoners' rules."),
        ("plain", "mr neild's forty two prisoners rules"),
    ],
)
def test_styles(style, expected) -> None:
    assert restyle("Mr. Neild’s  “forty-two” prisoners' rules.", style) == expected


def test_plain_keeps_letters_with_marks_and_other_scripts() -> None:
    assert restyle("Être — «там», 東京?", "plain") == "être там 東京"
    assert restyle("Cafe\u0301!", "plain") == "café"


def test_text_without_words_becomes_empty() -> None:
    assert restyle("… — !", "plain") == ""


@given(st.text(max_size=40))
def test_plain_is_final_and_says_the_same_words(text: str) -> None:
    plain = restyle(text, "plain")
    assert restyle(plain, "plain") == plain
    assert restyle(text.upper().lower(), "lower") == restyle(restyle(text.upper().lower(), "lower"), "lower")


@given(st.lists(st.sampled_from(["Newgate,", "it's", "prison.", "Felons;", "debtors'", "gaol!"]), min_size=1, max_size=6))
def test_the_normalizer_sees_the_same_words(words: list[str]) -> None:
    text = " ".join(words)
    normalize = normalizer("whisper")
    assert normalize(restyle(text, "plain")) == normalize(text)
