"""What the report shows of a search."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from asrmerge.errors import ConfigError
from asrmerge.report.data import CurvePoint, SearchHistory, SearchTrial

if TYPE_CHECKING:  # the search brings torch with it, which a report has no other use for
    from asrmerge.search.candidate import Candidate
    from asrmerge.search.result import SearchResult, Trial


def search_history(result: SearchResult, chosen: int | None = None) -> SearchHistory:
    """The history of ``result``; ``chosen`` is the number of the trial that was merged, what the search chose unless given."""
    from asrmerge.search.findings import findings
    from asrmerge.search.front import front_of

    objective = result.objective
    shown = {trial.number: found for trial in result.trials if (found := _trial(trial, result)) is not None}
    curve = [(point.scale, shown[point.trial]) for point in result.curve if point.trial in shown]
    return SearchHistory(
        trials=tuple(shown.values()),
        chosen=result.chosen.number if chosen is None else chosen,
        curve=tuple(CurvePoint(scale, trial.wer, trial.objective) for scale, trial in curve),
        references=_references(result),
        constraints=tuple(constraint.text for constraint in objective.constraints),
        objectives=tuple(one.title for one in (objective.settings, *objective.further)),
        failed=len(result.trials) - len(shown),
        front={name: trial.number for name, trial in front_of(result).items()} if objective.further else {},
        findings=findings(result),
    )


def _trial(trial: Trial, result: SearchResult) -> SearchTrial | None:
    objective = _comparable(trial, result)
    if trial.counts is None or objective is None:
        return None
    return SearchTrial(
        number=trial.number,
        label=trial.candidate.label,
        weights=_coefficients(trial.candidate),
        wer={domain: counts.wer for domain, counts in trial.counts.items()},
        objective=objective,
        feasible=trial.feasible,
        complete=trial.complete,
        further=() if trial.judgement is None else trial.judgement.further,
    )


def _comparable(trial: Trial, result: SearchResult) -> float | None:
    """The objective; where only a part of the audio was heard, by what it is behind the best there."""
    best = result.best.objective
    return trial.objective if trial.behind is None or best is None else best + trial.behind


def _coefficients(candidate: Candidate) -> dict[str, float]:
    """What multiplies the task vectors, where the method is such a sum; else its own weights, as means over the depth."""
    try:
        return candidate.coefficients()
    except ConfigError:
        groups = {f"{name} in {group}": weight for group, own in candidate.groups.items() for name, weight in own.items()}
        found = {**candidate.weights, **groups}
        return {name: fmean(weight) if isinstance(weight, tuple) else weight for name, weight in found.items()}


def _references(result: SearchResult) -> dict[str, float]:
    names = {"base": "base", "uniform": "uniform", "expert": "best expert"}
    found = {}
    for kind, name in names.items():
        rates = [_comparable(trial, result) for trial in result.trials if trial.candidate.kind == kind]
        if known := [rate for rate in rates if rate is not None]:
            found[name] = min(known)
    return found
