"""Scorecards: figures checked by hand, JSON both ways, the table, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asrmerge.errors import AsrmergeError, ConfigError, ManifestError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.scorecard import Scorecard, build_scorecard, score


def utterances(*predictions: str, text: str = "Take two tablets, daily.") -> list[Hypothesis]:
    return [
        Hypothesis(f"u{number}", Path(f"{number}.wav"), 1.0, text, prediction, f"s{number}")
        for number, prediction in enumerate(predictions)
    ]


RIGHT, WRONG, WORSE = "take 2 tablets daily", "take 2 tablet daily", "take tablet a day"

MODELS = {
    "base": {"medical": utterances(WRONG, WORSE), "legal": utterances(RIGHT, WRONG), "general": utterances(RIGHT, RIGHT)},
    "merged": {"medical": utterances(RIGHT, WRONG), "legal": utterances(RIGHT, RIGHT), "general": utterances(RIGHT, WRONG)},
}


@pytest.fixture(scope="module")
def card() -> Scorecard:
    return build_scorecard(MODELS, normalizer="whisper", targets=["medical", "legal"], candidate="merged", seed=1, samples=200)


def test_texts_are_normalised_when_scored() -> None:
    assert score(utterances(RIGHT, WRONG), normalizer("whisper")) == (ErrorCounts(4, 0, 0, 0), ErrorCounts(4, 1, 0, 0))
    assert score(utterances(RIGHT), normalizer("none"))[0].errors == 4


def test_figures_are_pooled_per_domain_and_averaged_over_the_targets(card: Scorecard) -> None:
    base = card.models["base"]
    medical = base.domains["medical"]
    assert (medical.utterances, medical.words, medical.wer) == (2, 8, 0.5)
    assert medical.substitutions + medical.deletions + medical.insertions == 4
    assert medical.ci[0] <= medical.wer <= medical.ci[1] and medical.resampled_by == "utterance"
    assert base.macro_wer == pytest.approx((0.5 + 0.125) / 2)
    assert card.models["merged"].macro_wer == pytest.approx((0.125 + 0) / 2)


def test_the_candidate_is_compared_on_every_domain(card: Scorecard) -> None:
    found = {(item.model, item.reference, item.domain): item.difference for item in card.comparisons}
    assert found == {
        ("merged", "base", "medical"): -0.375,
        ("merged", "base", "legal"): -0.125,
        ("merged", "base", "general"): 0.125,
    }
    assert card.comparisons[0].probability_of_improvement == 1.0
    assert card.comparisons[2].probability_of_improvement == 0.0


def test_references_can_be_chosen_and_comparison_left_out() -> None:
    models = {**MODELS, "expert": MODELS["base"]}
    options = {"normalizer": "none", "targets": ["legal"], "seed": 0, "samples": 10}
    chosen = build_scorecard(models, candidate="merged", references=["expert"], **options)  # type: ignore[arg-type]
    assert {item.reference for item in chosen.comparisons} == {"expert"}
    assert len(build_scorecard(models, candidate="merged", **options).comparisons) == 6  # type: ignore[arg-type]
    none = build_scorecard(models, candidate="merged", references=[], **options)  # type: ignore[arg-type]
    assert none.comparisons == build_scorecard(models, **options).comparisons == ()  # type: ignore[arg-type]


def test_speakers_are_resampled_where_enough() -> None:
    models = {"base": {"legal": utterances(*[RIGHT, WRONG] * 4)}}
    card = build_scorecard(models, normalizer="whisper", targets=["legal"], seed=0)
    assert card.models["base"].domains["legal"].resampled_by == "speaker"


def test_json_both_ways(card: Scorecard, tmp_path: Path) -> None:
    card.write(tmp_path / "scorecard.json")
    assert Scorecard.read(tmp_path / "scorecard.json") == card == Scorecard.from_json(card.to_json())
    content = json.loads(card.to_json())
    assert content["models"]["merged"]["domains"]["legal"]["wer"] == 0.0
    assert content["models"]["merged"]["macro_wer"] == 0.0625
    assert (content["normalizer"], content["seed"]) == ("whisper", 1)


def test_the_same_seed_gives_the_same_scorecard(card: Scorecard) -> None:
    again = build_scorecard(MODELS, normalizer="whisper", targets=["medical", "legal"], candidate="merged", seed=1, samples=200)
    assert again.to_json() == card.to_json()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; run the evaluation first"),
        ("{", r"not a scorecard \(JSON: "),
        ("{}", r"not a scorecard \(normalizer: "),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "scorecard.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AsrmergeError, match=f"scorecard.json: {message}"):
        Scorecard.read(path)


def build(models: dict[str, dict[str, list[Hypothesis]]], **options: object) -> Scorecard:
    defaults = {"normalizer": "none", "targets": ["legal"], "seed": 0}
    return build_scorecard(models, **{**defaults, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "A scorecard needs at least one model and one target domain; evaluate some."),
        (MODELS, {"targets": []}, "A scorecard needs at least one model and one target domain; evaluate some."),
        (MODELS, {"candidate": "soup"}, "The model 'soup' was not evaluated; choose one of base, merged."),
        (MODELS, {"candidate": "base", "references": ["tin"]}, "The model 'tin' was not evaluated; choose one of base, merged."),
        (MODELS, {"targets": ["art"]}, "The model 'base' was not evaluated on art; evaluate it there too."),
        (MODELS, {"normalizer": "x"}, "There is no text normaliser 'x'; choose one of whisper, basic, none."),
        (
            {"a": MODELS["base"], "b": {"legal": MODELS["base"]["legal"]}},
            {},
            "The model 'b' was not evaluated on general, medical; evaluate it there too.",
        ),
        (
            {"b": {"legal": MODELS["base"]["legal"]}, "a": MODELS["base"]},
            {},
            "The model 'b' was not evaluated on general, medical; evaluate it there too.",
        ),
    ],
)
def test_names_that_were_not_evaluated_are_refused(
    models: dict[str, dict[str, list[Hypothesis]]], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(models, **options)
    assert str(caught.value) == message


def test_sets_out_of_step_are_refused() -> None:
    right = utterances(RIGHT, RIGHT)
    with pytest.raises(ManifestError, match=r"There are no utterances of 'legal'; check its test manifest\."):
        build({"a": {"legal": []}})
    with pytest.raises(ManifestError, match=r"On 'legal', 'a' has 2 utterances and 'b' has 1; evaluate both on the same"):
        build({"a": {"legal": right}, "b": {"legal": right[:1]}})
    for other in (right[::-1], [right[0], replace(right[1], text="else")]):
        with pytest.raises(ManifestError, match=r"On 'legal', 'a' has utterance 'u\d' where 'b' has 'u\d', or their reference"):
            build({"a": {"legal": right}, "b": {"legal": other}})
