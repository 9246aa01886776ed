"""Scorecards: figures checked by hand and against the parts they are made of, JSON both ways, and refusals."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asrmerge.errors import AsrmergeError, ConfigError, ManifestError
from asrmerge.evaluation.bootstrap import Resampling, interval, two_sided_p_value
from asrmerge.evaluation.counts import Scheme, count_errors
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.mapsswe import mapsswe
from asrmerge.evaluation.multiple_testing import holm
from asrmerge.evaluation.paired_tests import sign_test, wilcoxon_test
from asrmerge.evaluation.records import Figure, Scorecard
from asrmerge.evaluation.scorecard import build_scorecard


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
    for name, errors in (("whisper", 1), ("none", 8)):
        found = build({"a": {"legal": utterances(RIGHT, WRONG)}}, normalizer=name).models["a"].domains["legal"]
        assert (found.words, found.substitutions + found.deletions + found.insertions) == (8, errors)


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


WORDS = [f"w{number}" for number in range(40)]


def speech(seed: int, rate: float, count: int = 60) -> list[Hypothesis]:
    """Utterances that are the same for every seed, with as many wrong words as the seed and ``rate`` give."""
    said, heard = random.Random("said"), random.Random(seed)
    found = []
    for number in range(count):
        words = [said.choice(WORDS) for _ in range(said.randint(2, 12))]
        prediction = " ".join(
            heard.choice(WORDS) if heard.random() < rate else word for word in words if heard.random() > rate / 4
        )
        found.append(Hypothesis(f"u{number}", Path("x.wav"), 2.0, " ".join(words), prediction, f"s{number % 10}"))
    return found


SPEECH = {
    "base": {"medical": speech(1, 0.5), "legal": speech(2, 0.4), "general": speech(3, 0.1)},
    "doctor": {"medical": speech(4, 0.1), "legal": speech(5, 0.5), "general": speech(6, 0.3)},
    "lawyer": {"medical": speech(7, 0.5), "legal": speech(8, 0.41), "general": speech(9, 0.3)},
    "merged": {"medical": speech(10, 0.2), "legal": speech(11, 0.3), "general": speech(12, 0.15)},
}


@pytest.fixture(scope="module")
def full() -> Scorecard:
    return build_scorecard(
        SPEECH,
        normalizer="none",
        targets=["medical", "legal"],
        candidate="merged",
        base="base",
        general="general",
        experts={"medical": "doctor", "legal": "lawyer"},
        terms={"medical": ["w1", "w2 w3"]},
        rtfx={"merged": {"legal": 12.5}},
        seed=5,
        samples=300,
    )


def errors(model: str, domain: str) -> list[int]:
    return [count_errors(one.text, one.prediction).errors for one in SPEECH[model][domain]]


def lengths(domain: str) -> list[int]:
    return [len(one.text.split()) for one in SPEECH["base"][domain]]


def drawn_rates(model: str, domain: str) -> np.ndarray:
    """A domain's own draws of its ten speakers."""
    resampling = Resampling(60, 300, 5, [one.speaker for one in SPEECH[model][domain]], domain)
    errors_drawn, words_drawn = resampling.sums([errors(model, domain), lengths(domain)])
    return np.asarray(errors_drawn / words_drawn)


def test_every_model_stands_on_the_draws_of_its_domain(full: Scorecard) -> None:
    for model, score in full.models.items():
        for domain, found in score.domains.items():
            assert found.ci == pytest.approx(interval(drawn_rates(model, domain)))
            assert (found.seconds, found.failed, found.resampled_by) == (120.0, 0, "speaker")
        targets = [drawn_rates(model, domain) for domain in full.targets]
        assert score.macro_ci == pytest.approx(interval(np.mean(targets, axis=0)))
        assert score.worst_ci == pytest.approx(interval(np.max(targets, axis=0)))
        rates = {domain: score.domains[domain].wer for domain in full.targets}
        assert score.worst_wer == max(rates.values()) == rates[score.worst_domain]
        harmonic = 2 / sum(1 / (1 - rate) for rate in rates.values())
        assert score.harmonic_accuracy.value == pytest.approx(harmonic)


def test_what_was_kept_and_what_was_gained(full: Scorecard) -> None:
    models = full.models
    base, merged, expert = (models[name].domains for name in ("base", "merged", "doctor"))
    general = merged["general"].retention
    assert general is not None and general.value == pytest.approx((1 - merged["general"].wer) / (1 - base["general"].wer))
    assert general.ci == pytest.approx(interval((1 - drawn_rates("merged", "general")) / (1 - drawn_rates("base", "general"))))
    assert base["general"].retention == Figure(value=1.0, ci=(1.0, 1.0)) and merged["legal"].retention is None
    gap = merged["medical"].gap_closed
    assert gap is not None and gap.value == pytest.approx(
        (base["medical"].wer - merged["medical"].wer) / (base["medical"].wer - expert["medical"].wer)
    )
    assert expert["medical"].gap_closed == Figure(value=1.0, ci=(1.0, 1.0))
    assert merged["legal"].gap_closed == Figure(value=None)  # the lawyer is not better than the base beyond chance
    assert merged["general"].gap_closed is None
    assert (merged["legal"].rtfx, merged["medical"].rtfx) == (12.5, None)


def test_comparisons_are_those_of_their_tests(full: Scorecard) -> None:
    against = {item.domain: item for item in full.comparisons if item.reference == "base"}
    p_values = {"bootstrap": [], "mapsswe": [], "sign": [], "wilcoxon": []}  # type: dict[str, list[float]]
    for domain, found in against.items():
        one, other = SPEECH["merged"][domain], SPEECH["base"][domain]
        drawn = drawn_rates("merged", domain) - drawn_rates("base", domain)
        assert found.ci == pytest.approx(interval(drawn)) and found.p_value == two_sided_p_value(drawn)
        counts = (errors("merged", domain), errors("base", domain), lengths(domain), [item.speaker for item in one])
        segments = mapsswe(*([item.text for item in one], *([item.prediction for item in side] for side in (one, other))))
        for test in (segments, sign_test(*counts), wilcoxon_test(*counts)):
            record = found.tests[test.name]
            assert (record.statistic, record.p_value, record.units) == (test.statistic, test.p_value, test.units)
            p_values[test.name].append(test.p_value)
        p_values["bootstrap"].append(found.p_value)
        assert found.detectable is not None and 0 < found.detectable < 0.5
    assert [item.p_holm for item in against.values()] == list(holm(p_values.pop("bootstrap")))
    for name, found_values in p_values.items():
        assert [item.tests[name].p_holm for item in against.values()] == list(holm(found_values))


def test_summaries_are_compared_on_independent_draws(full: Scorecard) -> None:
    macro, worst = (item for item in full.macro_comparisons if item.reference == "base")
    models = full.models
    rates = {name: [drawn_rates(name, domain) for domain in full.targets] for name in ("merged", "base")}
    assert macro.difference == pytest.approx(models["merged"].macro_wer - models["base"].macro_wer)
    assert macro.ci == pytest.approx(interval(np.mean(rates["merged"], axis=0) - np.mean(rates["base"], axis=0)))
    assert worst.difference == pytest.approx(models["merged"].worst_wer - models["base"].worst_wer)
    assert worst.ci == pytest.approx(interval(np.max(rates["merged"], axis=0) - np.max(rates["base"], axis=0)))
    assert (macro.figure, worst.figure) == ("macro", "worst_domain") and macro.probability_of_improvement > 0.95


def test_metrics_are_recorded_with_what_they_need(full: Scorecard) -> None:
    medical, legal = (full.models["merged"].domains[domain].metrics for domain in ("medical", "legal"))
    assert medical.keys() == full.metrics.keys() - {"wer"}
    recall = medical["term_recall"]
    assert recall.value is not None and recall.ci is not None and recall.ci[0] <= recall.value <= recall.ci[1]
    assert legal["term_recall"] == Figure(value=None) and legal["cer"].value is not None
    assert {"term_recall", "wip", "retention", "rtfx"} < full.higher_is_better and "cer" not in full.higher_is_better


def test_other_domains_do_not_change_a_domain_s_figures(full: Scorecard) -> None:
    alone = {model: {"legal": domains["legal"]} for model, domains in SPEECH.items()}
    found = build_scorecard(alone, normalizer="none", targets=["legal"], seed=5, samples=300)
    assert found.models["merged"].domains["legal"].ci == full.models["merged"].domains["legal"].ci


@pytest.mark.parametrize(("alignment", "counts"), [("levenshtein", (2, 0, 0)), ("sclite", (0, 1, 1))])
def test_either_alignment_is_counted(alignment: Scheme, counts: tuple[int, int, int]) -> None:
    heard = utterances("a b c", text="a a b")
    found = build({"m": {"legal": heard}}, alignment=alignment).models["m"].domains["legal"]
    assert (found.substitutions, found.deletions, found.insertions) == counts


def test_substitutions_are_applied_to_both_texts_and_recorded() -> None:
    found = build({"m": {"legal": utterances("the color", text="the colour")}}, substitutions={"colour": "color"})
    assert found.models["m"].domains["legal"].wer == 0 and found.substitutions == {"colour": "color"}


def test_what_one_model_could_not_transcribe_counts_for_none() -> None:
    whole = utterances(RIGHT, WRONG, WORSE)
    torn = [replace(whole[0], prediction="", error="the file is not audio"), *whole[1:]]
    card = build({"a": {"legal": whole}, "b": {"legal": torn}}, candidate="b")
    scores = [model.domains["legal"] for model in card.models.values()]
    assert [(score.utterances, score.failed, score.words) for score in scores] == [(2, 1, 8)] * 2
    assert card.comparisons[0].difference == 0 == 1 - card.comparisons[0].p_value
    with pytest.raises(
        ManifestError, match=r"None of the 1 utterances of 'legal' was .* \(the file is not audio\); mend the audio"
    ):
        build({"b": {"legal": torn[:1]}})


def test_empty_references_count_insertions() -> None:
    found = build({"m": {"legal": [*utterances("", text=""), *utterances("a b", text="")]}}).models["m"].domains["legal"]
    assert (found.words, found.insertions, found.wer) == (0, 2, 2.0)
    json.loads(build({"m": {"legal": utterances("", text="")}}).to_json(), parse_constant=pytest.fail)


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
        (MODELS, {"base": "tin"}, "The model 'tin' was not evaluated; choose one of base, merged."),
        (MODELS, {"experts": {"legal": "tin"}}, "The model 'tin' was not evaluated; choose one of base, merged."),
        (MODELS, {"general": "art"}, "The model 'base' was not evaluated on art; evaluate it there too."),
        (MODELS, {"terms": {"art": ["oil"]}}, "The model 'base' was not evaluated on art; evaluate it there too."),
        (MODELS, {"targets": ["art"]}, "The model 'base' was not evaluated on art; evaluate it there too."),
        (MODELS, {"normalizer": "x"}, "There is no text normaliser 'x'; choose among "),
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
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        build(models, **options)


def test_sets_out_of_step_are_refused() -> None:
    right = utterances(RIGHT, RIGHT)
    with pytest.raises(ManifestError, match=r"There are no utterances of 'legal'; check its test manifest\."):
        build({"a": {"legal": []}})
    with pytest.raises(ManifestError, match=r"On 'legal', 'a' has 2 utterances and 'b' has 1; evaluate both on the same"):
        build({"a": {"legal": right}, "b": {"legal": right[:1]}})
    for other in (right[::-1], [right[0], replace(right[1], text="else")]):
        with pytest.raises(ManifestError, match=r"On 'legal', 'a' has utterance 'u\d' where 'b' has 'u\d', or their reference"):
            build({"a": {"legal": right}, "b": {"legal": other}})
