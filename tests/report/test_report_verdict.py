"""The verdict: what it says when the merge wins, loses, does both or neither, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from asrmerge.errors import ConfigError
from asrmerge.evaluation.records import DomainComparison, DomainScore, Figure, MacroComparison, ModelScore, Scorecard
from asrmerge.report import ReportData, ReportModel
from asrmerge.report.tiles import tiles
from asrmerge.report.verdict import verdict

ROLES = (
    ReportModel("base", "base"),
    ReportModel("m", "expert", "medical"),
    ReportModel("l", "expert", "legal"),
    ReportModel("uniform", "uniform"),
    ReportModel("merged", "merged"),
)
OTHERS = {"base": (0.40, 0.30, 0.10), "m": (0.10, 0.32, 0.14), "l": (0.44, 0.12, 0.13), "uniform": (0.20, 0.24, 0.11)}


def score(wer: float) -> DomainScore:
    errors = round(1000 * wer)
    return DomainScore(
        utterances=100,
        words=1000,
        substitutions=errors,
        deletions=0,
        insertions=0,
        wer=wer,
        ci=(wer * 0.9, wer * 1.1),
        resampled_by="utterance",
    )


def data(
    merged: tuple[float, float, float],
    comparisons: tuple[DomainComparison, ...] = (),
    macro_comparisons: tuple[MacroComparison, ...] = (),
    **changes: object,
) -> ReportData:
    rates: Mapping[str, tuple[float, float, float]] = {**OTHERS, "merged": merged}
    models = {
        name: ModelScore(
            domains=dict(zip(("medical", "legal", "general"), map(score, row), strict=True)),
            macro_wer=(row[0] + row[1]) / 2,
            macro_ci=(0.0, 1.0),
            harmonic_accuracy=Figure(value=None),
            worst_domain="medical",
            worst_wer=row[0],
            worst_ci=(0.0, 1.0),
        )
        for name, row in rates.items()
    }
    card = Scorecard(
        normalizer="whisper",
        seed=1,
        level=0.95,
        samples=100,
        targets=("medical", "legal"),
        models=models,
        comparisons=comparisons,
        macro_comparisons=macro_comparisons,
    )
    values = {"title": "t", "family": "ctc", "base": "tiny", "scorecard": card, "models": ROLES, "general": "general", **changes}
    return ReportData(**values)  # type: ignore[arg-type]


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def against(reference: str, domain: str, difference: float, low: float, high: float) -> DomainComparison:
    return DomainComparison(
        model="merged",
        reference=reference,
        domain=domain,
        difference=difference,
        ci=(low, high),
        probability_of_improvement=0.5,
        p_value=1.0,
        p_holm=1.0,
        resampled_by="utterance",
    )


def test_a_win_is_measured_against_the_best_alternative() -> None:
    found = verdict(data((0.15, 0.18, 0.112)))
    assert found.outcome == "win"
    assert plain(found.headline) == "Merging wins: 21 % fewer word errors than the best single expert"
    assert plain(found.sentence) == (
        "The merged model makes 16.5 % word errors on average over the two domains, against 22.0 % for the uniform average, "
        "21.0 % for the best single expert (Medical) and 35.0 % for the base; "
        "on general speech it gives up 1.2 points (10.0 % → 11.2 %)."
    )


def test_a_loss_is_said_as_plainly() -> None:
    found = verdict(data((0.5, 0.4, 0.1)))
    assert found.outcome == "loss"
    assert plain(found.headline) == "Merging loses: 114 % more word errors than the best single expert"
    assert "costs nothing (10.0 %, as the base)" in plain(found.sentence)


def test_a_mixed_result_names_both_sides() -> None:
    found = verdict(data((0.22, 0.21, 0.09)))
    assert found.outcome == "mixed"
    assert found.headline == (
        "Merging wins in part: better than the uniform average and the base, but worse than the best single expert"
    )
    assert "even gains 1.0 points" in plain(found.sentence)


def test_a_merge_that_is_the_uniform_average_gains_nothing_over_it() -> None:
    assert verdict(data((0.2, 0.24, 0.1))).headline.endswith(
        "better than the base, but worse than the best single expert and level with the uniform average"
    )
    only = data((0.2, 0.24, 0.1), models=(ROLES[3], ROLES[4]))
    assert verdict(only).headline == "Merging gains nothing: level with the uniform average"


def summary(reference: str, difference: float, low: float, high: float) -> MacroComparison:
    return MacroComparison(
        figure="macro",
        model="merged",
        reference=reference,
        difference=difference,
        ci=(low, high),
        probability_of_improvement=0.5,
        p_value=0.5,
    )


def test_without_a_comparison_only_the_rate_is_named() -> None:
    found = verdict(data((0.2, 0.24, 0.1), models=ROLES[:3]))
    assert (found.outcome, plain(found.headline)) == ("plain", "Medical expert: 21.0 % word errors")
    assert "not compared with the other models" in found.sentence and found.further == ()
    alone = verdict(data((0.2, 0.24, 0.1), models=ROLES[:1]))
    assert plain(alone.sentence) == (
        "Base makes 35.0 % word errors on average over the two domains (95 % interval 0.0 to 100.0 %)."
    )


def test_a_merge_does_not_win_by_chance() -> None:
    sure, unsure = summary("base", -0.2, -0.3, -0.1), summary("uniform", -0.055, -0.12, 0.01)
    found = data((0.15, 0.18, 0.112), macro_comparisons=(sure, unsure), models=(ROLES[0], ROLES[3], ROLES[4]))
    assert verdict(found).headline == "Merging wins in part: better than the base, but within chance of the uniform average"
    shown = {tile.label: (tile.tone, "could be chance" in tile.note) for tile in tiles(found)}
    assert shown["vs uniform"] == ("neutral", True) and shown["vs base"] == ("good", False)


@pytest.mark.parametrize(
    ("intervals", "outcome", "headline"),
    [
        ({"base": (-0.3, -0.1)}, "win", "Candidate makes 53 % fewer word errors than Base"),
        ({"base": (-0.3, -0.1), "m": (-0.1, -0.01)}, "win", "Candidate makes fewer word errors than Base and Medical expert"),
        ({"base": (-0.3, 0.1)}, "draw", "Candidate is within chance of Base: no difference on average is beyond it"),
        ({"base": (-0.3, -0.1), "l": (-0.1, 0.1)}, "mixed", "Candidate is better than Base and within chance of Legal expert"),
        (
            {"base": (-0.3, 0.1), "m": (-1, 1), "l": (-1, 1), "uniform": (-1, 1)},
            "draw",
            "Candidate is within chance of four models: no",
        ),
    ],
)
def test_a_model_that_is_no_merge_is_judged_by_its_intervals(
    intervals: Mapping[str, tuple[float, float]], outcome: str, headline: str
) -> None:
    models = (*ROLES[:4], ReportModel("merged", label="Candidate"))
    comparisons = tuple(summary(name, sum(ci) / 2, *ci) for name, ci in intervals.items())
    found = verdict(data((0.15, 0.18, 0.112), macro_comparisons=comparisons, models=models, candidate="merged"))
    assert found.outcome == outcome and plain(found.headline).startswith(headline)
    assert "erg" not in found.headline + found.sentence
    shown = [
        tile.tone for tile in tiles(data((0.15, 0.18, 0.112), macro_comparisons=comparisons, models=models, candidate="merged"))
    ]
    assert shown[0] == "neutral" and ("good" in shown[1 : 1 + min(len(intervals), 3)]) == (outcome in ("win", "mixed"))
    assert ("against" in found.sentence) and "(95 % interval" in found.sentence


def test_the_report_is_about_the_candidate_else_the_merge_else_the_best() -> None:
    assert data((0.5, 0.5, 0.1), candidate="l").focus.name == "l"
    assert data((0.5, 0.5, 0.1)).focus.name == "merged"
    assert data((0.5, 0.5, 0.1), models=ROLES[:3]).focus.name == "m"
    with pytest.raises(ConfigError, match="is to be about 'x', which it does not show; choose among base, m,"):
        data((0.5, 0.5, 0.1), candidate="x")


def test_chance_is_named_where_intervals_include_zero() -> None:
    comparisons = (
        against("uniform", "medical", -0.05, -0.08, -0.01),
        against("uniform", "legal", -0.06, -0.1, 0.02),
        against("base", "medical", -0.2, -0.3, -0.1),
        against("base", "legal", -0.2, -0.3, -0.1),
        against("base", "general", 0.012, -0.01, 0.03),
    )
    found = verdict(data((0.15, 0.18, 0.112), comparisons))
    assert plain(found.further[0]) == (
        "Beyond chance (paired bootstrap, 95 %) it is better than the uniform average in one of two domains "
        "and better than the base in all two domains."
    )
    assert "gives up 1.2 points (10.0 % → 11.2 %), which could be chance." in plain(found.sentence)
    assert tiles(data((0.15, 0.18, 0.112), comparisons))[-1].tone == "neutral"


def test_tiles_carry_the_sentence_s_figures() -> None:
    found = {tile.label: (plain(tile.value), tile.tone) for tile in tiles(data((0.15, 0.18, 0.112)))}
    assert found == {
        "Merged": ("16.5 %", "neutral"),
        "vs uniform": ("−25 %", "good"),
        "vs best expert": ("−21 %", "good"),
        "vs base": ("−53 %", "good"),
        "Gap closed": ("77 %", "good"),
        "General speech": ("+1.2", "bad"),
    }
    assert {tile.tone for tile in tiles(data((0.5, 0.4, 0.3)))} == {"neutral", "bad"}


def test_models_and_domains_must_be_in_the_scorecard() -> None:
    with pytest.raises(ConfigError, match="'other' is not in the scorecard; choose among base"):
        data((0.1, 0.1, 0.1), models=(ReportModel("other"),))
    with pytest.raises(ConfigError, match="'music' is not in the scorecard"):
        data((0.1, 0.1, 0.1), general="music")
    with pytest.raises(ConfigError, match="at least one model"):
        data((0.1, 0.1, 0.1), models=())
