"""Word error rates by speaker, duration and field: they split the set, and have intervals where there is enough to draw from."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrmerge.errors import ConfigError
from asrmerge.evaluation.bootstrap import bootstrap_interval
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.records import Scorecard, SliceScore
from asrmerge.evaluation.scorecard import build_scorecard
from asrmerge.evaluation.slices import duration_labels


def utterance(number: int, prediction: str, speaker: str | None = None, duration: float = 1.0, **fields: str) -> Hypothesis:
    return Hypothesis(f"u{number}", Path("x.wav"), duration, "a b c d", prediction, speaker, fields=fields)


def card(slices: list[str], *sets: list[Hypothesis]) -> Scorecard:
    domains = {f"d{number}": found for number, found in enumerate(sets)}
    return build_scorecard({"m": domains}, normalizer="none", targets=["d0"], slices=slices, seed=3, samples=50)


def test_a_slice_is_its_own_small_set() -> None:
    right, wrong = (
        [utterance(number, text, accent=accent) for number in numbers]
        for text, accent, numbers in (("a b c d", "es", range(20)), ("a c d x", "en", range(20, 30)))
    )
    found = card(["accent"], right + wrong).models["m"].domains["d0"].slices["accent"]
    assert list(found) == ["en", "es"]
    assert found["en"] == SliceScore(utterances=10, words=40, errors=20, wer=0.5, ci=(0.5, 0.5))
    assert (found["es"].wer, found["es"].utterances) == (0.0, 20)


@pytest.mark.parametrize("by", ["speaker", "duration", "accent", "age"])
def test_slices_add_up_to_the_set(by: str) -> None:
    predictions = ["a b c d", "a x c d", "b c d", "a b c d e"] * 8
    found = card(
        [by],
        [
            utterance(number, text, f"s{number % 9}", 0.7 * number, accent="en" if number % 3 else "", age=str(number // 20))
            for number, text in enumerate(predictions)
        ],
    )
    score = found.models["m"].domains["d0"]
    parts = score.slices[by].values()
    assert sum(part.utterances for part in parts) == score.utterances == 32
    assert sum(part.words for part in parts) == score.words
    assert sum(part.errors for part in parts) == score.substitutions + score.deletions + score.insertions
    assert [part.ci is not None for part in parts] == [part.utterances >= 8 for part in parts]
    assert all(part.ci is None or part.ci[0] <= part.wer <= part.ci[1] for part in parts)


def test_what_is_not_known_is_a_slice_of_its_own() -> None:
    found = card(["speaker"], [utterance(1, "a", "z"), utterance(2, "a"), utterance(3, "a b c d", "b")], [utterance(1, "a")])
    domains = found.models["m"].domains
    assert {value: part.utterances for value, part in domains["d0"].slices["speaker"].items()} == {"b": 1, "z": 1, "unknown": 1}
    assert list(domains["d0"].slices["speaker"]) == ["b", "z", "unknown"]
    assert domains["d1"].slices == {}


def test_durations_fall_into_bins() -> None:
    found = card(["duration"], [utterance(number, "a", duration=length) for number, length in enumerate((4.9, 5.0, 30.0, 99.0))])
    parts = found.models["m"].domains["d0"].slices["duration"]
    assert {name: part.utterances for name, part in parts.items()} == {"under 5 s": 1, "5-10 s": 1, "30 s on": 2}
    assert duration_labels([2.5]) == ["under 2.5 s", "2.5 s on"]


def test_speakers_are_drawn_within_a_slice_where_enough() -> None:
    utterances = [
        utterance(number, "a b" if number % 8 < 4 else "a b c d", f"s{number % 8}", accent="en") for number in range(64)
    ]
    ci = card(["accent"], utterances).models["m"].domains["d0"].slices["accent"]["en"].ci
    assert ci is not None
    narrow = bootstrap_interval([2, 0] * 32, [4] * 64, samples=50, seed=3)
    assert ci[1] - ci[0] > 1.5 * (narrow.high - narrow.low)


def test_an_unknown_slice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"No utterance has a 'acent' to slice by; did you mean 'accent'\?"):
        card(["acent"], [utterance(1, "a", accent="en")])
