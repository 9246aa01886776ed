"""What a recogniser makes up is counted; what people do say, over and over or into a quiet microphone, is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrmerge.evaluation.hallucination import RepeatLoop, find_hallucinations, repeat_loop, text_on_silence
from asrmerge.evaluation.hypotheses import Hypothesis


def hypothesis(prediction: str, text: str = "", *, name: str = "u", silent: bool = False, error: str | None = None) -> Hypothesis:
    return Hypothesis(name, Path("u.wav"), 3.0, text, prediction, silent=silent, error=error)


@pytest.mark.parametrize(
    ("text", "phrase", "repeats"),
    [
        ("the " * 8, "the", 8),
        ("and so I said the the the the the the the the the and left", "the", 9),
        ("thank you " * 5, "thank you", 5),
        ("i don't know. " * 4, "i don't know", 4),
        ("No, no, NO! no no No, no? no.", "no", 8),
        ("please go on " * 7 + "please", "please go on", 7),
        ("so we see that it is " * 4 + "then it stops", "so we see that it is", 4),
        # Characters of a script without spaces are compared one by one.
        ("谢谢观看" * 12, "谢 谢 观 看", 12),
        # Of two loops the one that repeats most; of a phrase and its double the phrase.
        ("a b c " * 4 + "x " * 9, "x", 9),
        ("one two " * 8, "one two", 8),
    ],
)
def test_loops_are_found(text: str, phrase: str, repeats: int) -> None:
    assert repeat_loop(text) == RepeatLoop(phrase, repeats)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "no no no no no no no",
        "five five five five two two oh",
        "thank you thank you thank you thank you",
        "i do not know i do not know i do not know",
        # Often, but not back to back.
        "the cat and the dog and the bird and the fish and the horse and the cow and the hen and the fox",
        "yes it is no it is yes it was no it was yes it will no it will",
        # A ninth of a word is no word: longer ones only begin alike.
        "tele telex telegram telephone television telegraph telescope telemetry",
        "hahahahahahahahahahahahahahahahaha",
    ],
)
def test_what_people_say_is_no_loop(text: str) -> None:
    assert repeat_loop(text) is None


@pytest.mark.parametrize(
    ("reference", "prediction", "repeats"),
    [
        ("no " * 9, "no " * 9, None),
        ("no " * 9, "no " * 18, None),
        ("no " * 9, "no " * 19, 19),
        ("ring ring " * 4, "ring " * 8, None),
        ("no " * 20, "no " * 20 + "thank you " * 5, 5),
        # Begun at another of its words, it is the same phrase.
        ("never give up " * 4, "give up never " * 5, None),
        ("he said never give up", "never give up " * 6, 6),
    ],
)
def test_loops_that_were_said_do_not_count(reference: str, prediction: str, repeats: int | None) -> None:
    loop = repeat_loop(prediction, reference)
    assert (loop and loop.repeats) == repeats


@pytest.mark.parametrize(
    ("prediction", "silent", "counted"),
    [("thanks for watching", True, True), ("thanks for watching", False, False), ("", True, False), (" . … ♪", True, False)],
)
def test_words_on_silence(prediction: str, silent: bool, counted: bool) -> None:
    assert text_on_silence(hypothesis(prediction, silent=silent)) == counted


def test_a_set_is_counted_by_utterance() -> None:
    found = find_hallucinations(
        [
            hypothesis("take two tablets", "take two tablets", name="right"),
            hypothesis("you " * 10, "you", name="loop"),
            hypothesis("you " * 10, silent=True, name="both"),
            hypothesis("thank you", silent=True, name="silence"),
            hypothesis("", silent=True, name="quiet"),
            hypothesis("you " * 10, silent=True, name="failed", error="cannot be decoded"),
        ]
    )
    assert found.loops == {"loop": RepeatLoop("you", 10), "both": RepeatLoop("you", 10)}
    assert found.on_silence == ("both", "silence")
    assert find_hallucinations([]).loops == {} and find_hallucinations([]).on_silence == ()
