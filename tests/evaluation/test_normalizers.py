"""Normalisers: openai/whisper's results, and names."""

from __future__ import annotations

import pytest

from asrmerge.errors import ConfigError
from asrmerge.evaluation.normalizers import normalizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let's", "let us"),
        ("he's like", "he is like"),
        ("she's been like", "she has been like"),
        ("Mr. Park visited Assoc. Prof. Kim Jr.", "mister park visited associate professor kim junior"),
        ("uh, the colour of [noise] anaemia (coughs)", "the color of anemia"),
        ("two point five million", "2500000"),
        ("two dollars and seventy cents", "$2.70"),
        ("july third twenty twenty", "july 3rd 2020"),
        ("double oh seven", "007"),
        ("10km", "10 km"),
        ("one", "one"),
        ("", ""),
        ("uh", ""),
    ],
)
def test_whisper_gives_what_openai_whisper_gives(text: str, expected: str) -> None:
    assert normalizer("whisper")(text).strip() == expected


@pytest.mark.parametrize("text", ["kinda", "sorta", "i dunno", "the cause of death"])
def test_contractions_that_openai_whisper_does_not_know_stay(text: str) -> None:
    assert normalizer("whisper")(text) == text


def test_basic_and_none() -> None:
    assert normalizer("basic")("Héllo, [noise] Wörld! Two") == "héllo wörld two"
    assert normalizer("none")(" As it IS. ") == " As it IS. "


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("lowercase+strip_punctuation", "It's Élan, ok.", "its élan ok"),
        ("strip_diacritics + uppercase", "Ä naïve café", "A NAIVE CAFE"),
        ("nfc", "e\u0301", "é"),
        ("nfkc+lowercase", "ﬁve №5", "five no5"),
        ("strip_kaldi_non_words", "so [noise]yes <unk>no", "so yes no"),
        ("string:capwords+none", "take two", "Take Two"),
    ],
)
def test_chains_and_functions(name: str, text: str, expected: str) -> None:
    assert normalizer(name)(text) == expected


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        ConfigError, match=r"There is no text normaliser 'english'; choose among whisper, basic, none, lowercase,"
    ):
        normalizer("lowercase+english")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent_module:clean", "'absent_module:clean' cannot be used (ModuleNotFoundError"),
        ("string:clean", "'string:clean' cannot be used (AttributeError"),
        ("builtins:len", "'builtins:len' returns int; make it return a text."),
    ],
)
def test_unusable_functions_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        normalizer(name)
    assert message in str(caught.value)
