from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from asrmerge.errors import ConfigError
from asrmerge.evaluation.gates import Gate, judge, parse_gates
from asrmerge.evaluation.junit import write_junit
from asrmerge.evaluation.records import (
    DomainComparison,
    DomainScore,
    Figure,
    MacroComparison,
    MetricRecord,
    ModelScore,
    Scorecard,
)

SETS = ("medical", "legal", "general")
MODELS = ("base", "uniform", "merged")


def domain(wer: float, recall: float | None = None, **figures: object) -> DomainScore:
    errors = round(1000 * wer)
    metrics = {} if recall is None else {"term_recall": Figure(value=recall, ci=(recall, recall))}
    return DomainScore.model_validate({
        "utterances": 10, "words": 1000, "substitutions": errors, "deletions": 0, "insertions": 0, "wer": wer, "ci": (wer, wer),
        "resampled_by": "utterance", "metrics": metrics, **figures,
    })  # fmt: skip


def model(medical: float, legal: float, general: float, **figures: object) -> ModelScore:
    domains = {"medical": domain(medical, 0.9), "legal": domain(legal, 0.8), "general": domain(general, **figures)}
    macro, worst = (medical + legal) / 2, max(medical, legal)
    return ModelScore(
        domains=domains, macro_wer=macro, macro_ci=(macro, macro), harmonic_accuracy=Figure(value=1 - macro),
        worst_domain="legal", worst_wer=worst, worst_ci=(worst, worst),
    )  # fmt: skip


SCORECARD = Scorecard(
    normalizer="none", seed=0, level=0.95, samples=100, targets=("medical", "legal"), base="base", general="general",
    metrics={"term_recall": MetricRecord(title="Term recall", higher_is_better=True)},
    models={"base": model(0.4, 0.5, 0.10), "uniform": model(0.25, 0.35, 0.12), "merged": model(0.2, 0.3, 0.102, repeat_loops=2)},
    comparisons=(
        DomainComparison(
            model="merged", reference="uniform", domain="medical", difference=-0.05, ci=(-0.08, -0.02),
            probability_of_improvement=0.99, p_value=0.03, p_holm=0.06, resampled_by="utterance",
        ),
    ),
    macro_comparisons=tuple(
        MacroComparison(
            figure=figure, model="merged", reference="uniform", difference=-0.05, ci=(-0.1, 0.0), p_value=p,
            probability_of_improvement=0.9,
        )
        for figure, p in (("macro", 0.01), ("worst_domain", 0.2))
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value", "limit", "passed"),
    [
        ("medical.wer <= 0.2", 0.2, 0.2, True),
        ("medical.wer < 0.2", 0.2, 0.2, False),
        ("general.wer <= 1.02 * base", 0.102, 0.102, True),
        ("general.wer <= base * 1.01", 0.102, 0.101, False),
        ("general.wer<=base", 0.102, 0.1, False),
        ("legal.term_recall >= 0.95", 0.8, 0.95, False),
        ("legal.term_recall >= .5", 0.8, 0.5, True),
        ("macro.wer < uniform", 0.25, 0.3, True),
        ("worst_domain.wer < uniform.worst_domain.wer", 0.3, 0.35, True),
        ("worst_domain.term_recall >= 0.8", 0.8, 0.8, True),
        ("medical.wer > uniform.legal.wer", 0.2, 0.35, False),
        ("general.repeat_loops <= 1", 2, 1, False),
    ],
)
def test_gates_compare_the_model_with_numbers_and_models(text: str, value: float, limit: float, passed: bool) -> None:
    gates = parse_gates([text], sets=SETS, models=MODELS, figures=("wer", "term_recall", "repeat_loops"))
    (result,) = judge(gates, SCORECARD, "merged")
    assert (result.value, result.limit) == pytest.approx((value, limit))
    assert result.passed is passed and result.sentence.startswith("passed" if passed else "FAILED")


@pytest.mark.parametrize(
    ("text", "p", "passed"),
    [
        ("medical.wer < uniform, p < 0.05", 0.03, True),
        ("medical.wer < uniform, p < 0.01", 0.03, False),
        ("macro.wer < uniform, p<0.05", 0.01, True),
        ("worst_domain.wer < uniform.worst_domain.wer, p < 0.05", 0.2, False),
        ("medical.wer > uniform, p < 0.05", 0.03, False),
    ],
)
def test_p_asks_for_more_than_chance(text: str, p: float, passed: bool) -> None:
    (result,) = judge([Gate.parse(text)], SCORECARD, "merged")
    assert (result.p, result.passed) == (p, passed) and f"p = {p:.3g}" in result.sentence


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("medical.wer 0.2", "cannot be read: write it as"),
        ("medical <= 0.2", "cannot be read"),
        ("medical.wer <= 12%", "cannot be read"),
        ("medical.wer <= 0.2, p < 0.05", "compares with a number, for which there is no p"),
        ("medical.term_recall > uniform, p < 0.05", "asks for p, which is known of one set's wer"),
        ("medical.wer < 0.9 * uniform, p < 0.05", "asks for p, which is known of one set's wer"),
        ("medcal.wer <= 0.2", "unknown set 'medcal'; did you mean 'medical'"),
        ("medical.were <= 0.2", "unknown figure 'were'; did you mean 'wer'"),
        ("medical.wer <= bass", "unknown model 'bass'; did you mean 'base'"),
    ],
)
def test_gates_that_cannot_be_judged_are_refused_before_work(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_gates([text], sets=SETS, models=MODELS, figures=("wer", "term_recall"))


def test_figures_that_are_not_there_are_refused() -> None:
    for text, problem in (
        ("general.term_recall >= 0.1", "general.term_recall, of which 'merged' has no figure"),
        ("legal.wer < uniform, p < 0.05", "'merged' was not compared with 'uniform'"),
        ("legal.wer < other", "names the model 'other', which was not evaluated"),
    ):
        with pytest.raises(ConfigError, match=problem):
            judge([Gate.parse(text)], SCORECARD, "merged")


def test_junit_lists_gates_and_failures(tmp_path: Path) -> None:
    gates = parse_gates(["medical.wer <= 0.3", "medical.wer < 0.2"], sets=SETS, models=MODELS, figures=("wer",))
    write_junit(tmp_path / "junit.xml", "demo", judge(gates, SCORECARD, "merged"))
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    cases = {case.get("name"): case.find("failure") for case in root.iter("testcase")}
    assert cases["medical.wer <= 0.3"] is None
    assert "merged: 0.2, limit 0.2" in cases["medical.wer < 0.2"].get("message")
