"""What the report takes from a search's result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.report import search_history
from asrmerge.search.budget import Spent
from asrmerge.search.candidate import Candidate, curve_point, fixed_candidates
from asrmerge.search.findings import findings
from asrmerge.search.objective import Objective
from asrmerge.search.result import CurvePoint, ExpectedOptimism, LossRanking, SearchResult, judged

EXPERTS = ("medical", "legal")


def result() -> SearchResult:
    objective = Objective.parse(EXPERTS, ("general",), ["general.wer <= 1.2 * base"])
    candidates = [*fixed_candidates(EXPERTS, (1.0,)), Candidate("odd", "other", {"medical": 2.0})]
    errors = {"base": (30, 30, 10), "uniform average": (20, 22, 11), "expert medical": (10, 40, 13), "expert legal": (40, 16, 13)}
    errors["λ = 1"] = (12, 14, 11)
    trials = []
    for number, candidate in enumerate(candidates):
        found = errors.get(candidate.label)
        counts = found and dict(zip((*EXPERTS, "general"), (ErrorCounts(100, count) for count in found), strict=True))
        base = trials[0].counts if trials else None
        trials.append(judged(number, candidate, counts, None if counts else "NaN", objective, base))
    return SearchResult(EXPERTS, objective, 1, (0.0, 1.0), tuple(trials), (CurvePoint(0.0, 0), CurvePoint(1.0, 4)))


def merge(method: str, medical: Any, legal: Any, parameters: Mapping[str, float] | None = None) -> Candidate:
    return Candidate("x", method, {"medical": medical, "legal": legal}, parameters or {})


def test_history_has_every_finished_trial() -> None:
    history = search_history(result())
    assert [trial.label for trial in history.trials] == ["base", "uniform average", "expert medical", "expert legal", "λ = 1"]
    assert (history.chosen, history.failed, history.constraints) == (4, 1, ("general.wer <= 1.2 * base",))
    assert [trial.feasible for trial in history.trials] == [True, True, False, False, True]
    assert history.trials[1].weights == {"medical": 0.5, "legal": 0.5}
    assert search_history(result(), chosen=1).chosen == 1


def test_references_and_curve_are_on_validation_audio() -> None:
    history = search_history(result())
    assert history.references == pytest.approx({"base": 0.3, "uniform": 0.21, "best expert": 0.25})
    assert [(point.scale, point.objective) for point in history.curve] == [(0.0, pytest.approx(0.3)), (1.0, pytest.approx(0.13))]
    assert curve_point(EXPERTS, 1.0).weights == history.trials[4].weights


def test_what_heard_a_part_of_the_audio_stands_as_far_from_the_best_as_there() -> None:
    found = result()
    trials = list(found.trials)
    trials[1] = replace(trials[1], complete=False, behind=0.02)
    history = search_history(replace(found, trials=tuple(trials)))
    assert history.trials[1].objective == history.references["uniform"] == pytest.approx(0.13 + 0.02)
    assert history.references["base"] == pytest.approx(0.3) and not history.trials[1].complete


def test_what_holds_beside_the_figures_is_said_in_sentences() -> None:
    found = result()
    assert findings(found) == ()  # a tuned merge is the best, and nobody counted what was decoded
    spent = replace(
        found,
        trials=found.trials[:4],
        spent=Spent(4, 600, 300),
        ranking=LossRanking(0.8732, 9, 300),
        optimism=ExpectedOptimism(0.0123, 0.001, 4),
    )
    assert search_history(spent).findings == findings(spent)
    assert findings(spent) == (
        "No merge that was tried beats the base or the uniform average or the best single expert: consider that in its place.",
        "The teacher-forced loss ranked 9 merges as their word errors do with a correlation of 0.87 (Spearman).",
        "The best was chosen by its errors on the validation audio: on new audio expect about 1.23 points more.",
        "For 4 candidates the search decoded 600 utterances, and computed the loss of 300.",
    )
    objective = Objective.parse(EXPERTS, ("general",), ["general.wer <= 0.5 * base"])
    base = found.trials[0].counts
    broken = tuple(judged(one.number, one.candidate, one.counts, one.error, objective, base) for one in found.trials)
    nearest = findings(replace(found, objective=objective, trials=broken))
    assert nearest[0] == "No candidate keeps every constraint; the best is the nearest."


@pytest.mark.parametrize(
    ("candidate", "ended"),
    [
        (merge("iso_c", 2.0, 1.999), "medical 2"),
        (merge("iso_c", 2.0, 2.0), "medical 2 and legal 2"),
        (merge("ties", 1.2, 0.8, {"scale": 1.0, "density": 0.9}), "medical 1.2"),  # shares, times the scale
        (merge("dare_ties", (0.5, 1.0), (0.2, 0.1)), "medical@last 1"),
        (merge("dare_ties", (0.5, 0.9), (0.2, 0.1)), None),
        (replace(merge("iso_cts", 0.5, 0.2), groups={"encoder": {"medical": 0.1, "legal": 1.5}}), "legal@encoder 1.5"),
        (replace(merge("iso_c", 2.0, 2.0), kind="curve"), None),
    ],
)
def test_weights_at_the_end_of_their_range_are_named(candidate: Candidate, ended: str | None) -> None:
    space = {
        "iso_c": {"dimensions": {"medical": [0.0, 2.0], "legal": [0.0, 2.0]}},
        "ties": {"dimensions": {"medical": [0.0, 1.2], "legal": [0.0, 1.2], "density": [0.1, 0.9]}},
        "dare_ties": {"dimensions": {name + last: [0.0, 1.0] for name in EXPERTS for last in ("", "@last")}},
        "iso_cts": {"dimensions": {name + "@encoder": [0.1, 1.5, "log"] for name in EXPERTS}},
    }
    found = result()
    best = replace(found.trials[4], candidate=candidate)
    said = findings(replace(found, space=space, trials=(*found.trials[:4], best)))
    assert [line.partition(":")[0] for line in said] == ([] if ended is None else [ended])
