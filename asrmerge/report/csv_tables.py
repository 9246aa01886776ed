"""Every figure of a scorecard as CSV in long form, for spreadsheets and pandas: rates are fractions, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping

from asrmerge.evaluation.records import DomainComparison, DomainScore, Figure, PairedTestRecord, Range, Scorecard

Value = str | int | float | None
_COUNTS = (
    "utterances",
    "failed",
    "words",
    "substitutions",
    "deletions",
    "insertions",
    "repeat_loops",
    "text_on_silence",
    "seconds",
    "rtfx",
)


def figures_csv(scorecard: Scorecard) -> str:
    """``model, domain, figure, value, low, high``, with an interval where there is one.

    Averages over the target domains have no domain; ``worst_wer`` stands beside the domain that is the worst. A value is empty
    where the set had nothing to measure.
    """
    return _csv(("model", "domain", "figure", "value", "low", "high"), _figures(scorecard))


def _figures(scorecard: Scorecard) -> Iterator[tuple[Value, ...]]:
    for model, score in scorecard.models.items():
        for domain, found in score.domains.items():
            yield from ((model, domain, name, *figure) for name, figure in _domain_figures(found))
        yield (model, None, "macro_wer", score.macro_wer, *score.macro_ci)
        yield (model, None, "harmonic_accuracy", *_cells(score.harmonic_accuracy))
        yield (model, score.worst_domain, "worst_wer", score.worst_wer, *score.worst_ci)


def _domain_figures(score: DomainScore) -> Iterator[tuple[str, tuple[Value, ...]]]:
    yield "wer", (score.wer, *score.ci)
    for name, figure in score.metrics.items():
        yield name, _cells(figure)
    for name in ("retention", "gap_closed"):
        figure = getattr(score, name)
        if figure is not None:
            yield name, _cells(figure)
    for name in _COUNTS:
        value = getattr(score, name)
        if value is not None:
            yield name, (value, None, None)


def _cells(figure: Figure) -> tuple[Value, ...]:
    return (figure.value, *_bounds(figure.ci))


def _bounds(bounds: Range | None) -> tuple[Value, Value]:
    return (None, None) if bounds is None else bounds


def comparisons_csv(scorecard: Scorecard) -> str:
    """One row per comparison: ``figure`` is ``wer`` of a domain, ``macro`` or ``worst_domain``; columns for each test."""
    tests = sorted({name for item in scorecard.comparisons for name in item.tests})
    fields = ("statistic", "p_value", "p_holm", "units", "unit")
    columns = ["model", "reference", "figure", "domain", "difference", "low", "high", "probability_of_improvement", "p_value"]
    columns += ["p_holm", "resampled_by", "detectable", *(f"{test}_{name}" for test in tests for name in fields)]
    rows = [_comparison(item, tests, fields) for item in scorecard.comparisons]
    rows += [
        (item.model, item.reference, item.figure, None, item.difference, *item.ci, item.probability_of_improvement, item.p_value)
        for item in scorecard.macro_comparisons
    ]
    return _csv(columns, ([*row, *[None] * (len(columns) - len(row))] for row in rows))


def _comparison(item: DomainComparison, tests: Iterable[str], fields: Iterable[str]) -> tuple[Value, ...]:
    beginning: list[Value] = [item.model, item.reference, "wer", item.domain, item.difference, *item.ci]
    beginning += [item.probability_of_improvement, item.p_value, item.p_holm, item.resampled_by, item.detectable]
    return (*beginning, *(_test_value(item.tests, test, name) for test in tests for name in fields))


def _test_value(tests: Mapping[str, PairedTestRecord], test: str, name: str) -> Value:
    value: Value = getattr(tests[test], name) if test in tests else None
    return value


def slices_csv(scorecard: Scorecard) -> str:
    """One row per model, domain and part of it: ``by`` what (speaker, duration, …) and which ``value`` of that."""
    rows = (
        (model, domain, by, value, part.utterances, part.words, part.errors, part.wer, *_bounds(part.ci))
        for model, score in scorecard.models.items()
        for domain, found in score.domains.items()
        for by, parts in found.slices.items()
        for value, part in parts.items()
    )
    return _csv(("model", "domain", "by", "value", "utterances", "words", "errors", "wer", "low", "high"), rows)


def _csv(columns: Iterable[str], rows: Iterable[Iterable[Value]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()
