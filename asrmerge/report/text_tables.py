"""The tables of an evaluation, ready to be written in any plain markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from asrmerge.evaluation.records import DomainComparison, DomainScore, Figure, MacroComparison, Range, Scorecard
from asrmerge.report.data import ReportModel, domains_of, title_of
from asrmerge.report.numbers import listed, percent, points, probability
from asrmerge.report.table import Cell, build_table

ABSENT = "–"
_SUMMARIES = {"macro": "Macro average", "worst_domain": "Worst domain"}


@dataclass(frozen=True)
class Entry:
    """``value`` as people read it, its interval where there is one; ``best`` stands out."""

    value: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class TextTable:
    """``columns`` are headings; every row has an entry per column. The first ``texts`` columns are words, the others figures.
    ``note`` has neither capital nor full stop."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""
    texts: int = 1


def shown_models(scorecard: Scorecard, models: Sequence[ReportModel]) -> tuple[ReportModel, ...]:
    """``models``, or without any, all of the scorecard's under their own names."""
    return tuple(models) or tuple(ReportModel(name) for name in scorecard.models)


def how_measured(scorecard: Scorecard) -> str:
    """What any of the figures stands on: texts, alignment and intervals, without a full stop."""
    count = len(scorecard.substitutions)
    substitutions = f" with {count} substitution{'s' if count > 1 else ''}" if count else ""
    return (
        f"text normaliser: {scorecard.normalizer}{substitutions}; alignment: {scorecard.alignment}; "
        f"{100 * scorecard.level:g} % bootstrap intervals of {scorecard.samples} draws {_drawn(scorecard)}, seed {scorecard.seed}"
    )


def _drawn(scorecard: Scorecard) -> str:
    """``by speaker``; where sets differ, which were drawn how."""
    units: dict[str, list[str]] = {}
    for domain, score in next(iter(scorecard.models.values())).domains.items():
        units.setdefault(score.resampled_by, []).append(title_of(domain))
    if len(units) == 1:
        return f"by {next(iter(units))}"
    return listed([f"by {unit} ({', '.join(domains)})" for unit, domains in units.items()])


def all_tables(scorecard: Scorecard, models: Sequence[ReportModel] = ()) -> tuple[TextTable, ...]:
    """Word error rates, summary, comparisons, test sets, then a table for every further figure that was measured."""
    return (
        rate_table(scorecard, models),
        summary_table(scorecard, models),
        *comparison_tables(scorecard, models),
        set_table(scorecard),
        *metric_tables(scorecard, models),
    )


def rate_table(scorecard: Scorecard, models: Sequence[ReportModel] = (), *, intervals: bool = True) -> TextTable:
    """The model × domain word error rates that the HTML report shows."""
    table = build_table(scorecard, shown_models(scorecard, models))
    rows = tuple((Entry(row.model.title), *(_rate(cell, intervals) for cell in row.cells)) for row in table.rows)
    columns = ("Model", *(column.title for column in table.columns))
    return TextTable("Word error rates", columns, rows, "WER in %, pooled per domain; the best of each column in bold")


def _rate(cell: Cell, intervals: bool) -> Entry:
    interval = _interval(cell.score.ci, percent, "–") if cell.score is not None and intervals else ""
    return Entry(percent(cell.wer), interval, cell.best)


def _interval(bounds: Range, text: Callable[[float], str], between: str) -> str:
    return between.join(text(bound) for bound in bounds)


def summary_table(scorecard: Scorecard, models: Sequence[ReportModel] = ()) -> TextTable:
    """Each model over all domains: averages, its worst domain, retention, and what it made up."""
    shown = shown_models(scorecard, models)
    scores = [scorecard.models[model.name] for model in shown]

    def total(count: Callable[[DomainScore], int]) -> list[Figure | None]:
        return [Figure(value=sum(count(domain) for domain in score.domains.values())) for score in scores]

    macro: list[Figure | None] = [Figure(value=score.macro_wer, ci=score.macro_ci) for score in scores]
    worst: list[Figure | None] = [Figure(value=score.worst_wer, ci=score.worst_ci) for score in scores]
    columns = [
        ("Macro average", _column(macro)),
        ("Harmonic mean accuracy", _column([score.harmonic_accuracy for score in scores], higher_is_better=True)),
        ("Worst domain", [Entry(title_of(score.worst_domain)) for score in scores]),
        ("WER there", _column(worst)),
    ]
    note = f"in %, over {listed([title_of(target) for target in scorecard.targets])}"
    if scorecard.general is not None and scorecard.base is not None:
        kept = [score.domains[scorecard.general].retention for score in scores]
        columns.append(("Retention", _column(kept, higher_is_better=True)))
        note += f"; retention: the share of the base's accuracy that is kept on {title_of(scorecard.general)}"
    columns.append(("Repeat loops", _column(total(lambda score: score.repeat_loops), text=_whole)))
    columns.append(("Text on silence", _column(total(lambda score: score.text_on_silence), text=_whole)))
    return _assemble("Summary", shown, columns, f"{note}; last, counts of utterances over all sets; the best of each in bold")


def comparison_tables(
    scorecard: Scorecard, models: Sequence[ReportModel] = (), pairs: Sequence[tuple[str, str]] | None = None
) -> tuple[TextTable, ...]:
    """One table for every model and reference that were compared, or for those of ``pairs`` that were, in their order."""
    titles = {model.name: model.title for model in models}
    compared = dict.fromkeys((item.model, item.reference) for item in scorecard.comparisons)
    return tuple(
        _comparison_table(scorecard, model, reference, titles.get(model, model), titles.get(reference, reference))
        for model, reference in (compared if pairs is None else [pair for pair in pairs if pair in compared])
    )


def _comparison_table(scorecard: Scorecard, model: str, reference: str, title: str, other: str) -> TextTable:
    chosen = (model, reference)
    compared = {item.domain: item for item in scorecard.comparisons if (item.model, item.reference) == chosen}
    summaries = [item for item in scorecard.macro_comparisons if (item.model, item.reference) == chosen]
    error = 1 - scorecard.level
    rows = [_domain_row(compared[domain], error) for domain in domains_of(scorecard) if domain in compared]
    rows += [_summary_row(item, error) for item in summaries]
    columns = ("Domain", "Difference", "Better in % of draws", "p", "p (Holm)", "MAPSSWE p (Holm)", "Detectable")
    note = (
        f"difference in WER points by the paired bootstrap, {title} is better below zero; Holm: corrected for the domains that "
        "were compared; detectable: the smallest difference that the set could have shown; in bold what is beyond chance, "
        f"p < {error:.2g}, corrected where it is a domain's"
    )
    return TextTable(f"{title} against {other}", columns, tuple(rows), note)


def _domain_row(item: DomainComparison, error: float) -> tuple[Entry, ...]:
    test = item.tests.get("mapsswe")
    return (
        Entry(title_of(item.domain)),
        _difference(item, item.p_holm < error),
        Entry(percent(item.probability_of_improvement)),
        Entry(probability(item.p_value)),
        Entry(probability(item.p_holm)),
        Entry(ABSENT if test is None else probability(test.p_holm)),
        Entry(ABSENT if item.detectable is None else percent(item.detectable)),
    )


def _summary_row(item: MacroComparison, error: float) -> tuple[Entry, ...]:
    figures = (percent(item.probability_of_improvement), probability(item.p_value), *[ABSENT] * 3)
    return (Entry(_SUMMARIES[item.figure]), _difference(item, item.p_value < error), *(Entry(figure) for figure in figures))


def _difference(item: DomainComparison | MacroComparison, beyond_chance: bool) -> Entry:
    return Entry(points(item.difference), _interval(item.ci, points, " to "), beyond_chance)


def set_table(scorecard: Scorecard) -> TextTable:
    """What the figures stand on: the test sets, which are the same for all models."""
    scores = next(iter(scorecard.models.values())).domains
    rows = tuple(
        (
            Entry(title_of(domain)),
            Entry(_whole(score.utterances)),
            Entry(_whole(score.failed)),
            Entry(_whole(score.words)),
            Entry(f"{score.seconds / 60:.1f}"),
            Entry(score.resampled_by),
        )
        for domain, score in ((domain, scores[domain]) for domain in domains_of(scorecard))
    )
    columns = ("Domain", "Utterances", "Failed", "Words", "Minutes", "Drawn by")
    note = "failed: utterances that some model gave no transcript of, left out for all; drawn by: what the bootstrap draws"
    return TextTable("Test sets", columns, rows, note)


def metric_tables(scorecard: Scorecard, models: Sequence[ReportModel] = ()) -> tuple[TextTable, ...]:
    """Model × domain for every metric, gap closed, speed, hallucinations and word errors; without what has no value anywhere."""
    shown = shown_models(scorecard, models)
    measured = {name for model in shown for score in scorecard.models[model.name].domains.values() for name in score.metrics}

    def table(
        title: str,
        read: Callable[[DomainScore], Figure | None],
        unit: str,
        higher_is_better: bool,
        text: Callable[[float], str] = percent,
    ) -> TextTable:
        columns = []
        for domain in domains_of(scorecard):
            figures = [read(scorecard.models[model.name].domains[domain]) for model in shown]
            # Where nobody hallucinates there is nothing to show either.
            if any(figure is not None and (figure.value if text is _whole else figure.value is not None) for figure in figures):
                columns.append((title_of(domain), _column(figures, higher_is_better=higher_is_better, text=text)))
        way = "higher" if higher_is_better else "lower"
        return _assemble(title, shown, columns, f"{unit}; {way} is better; the best of each column in bold")

    def of(name: str) -> Callable[[DomainScore], Figure | None]:
        return lambda score: score.metrics.get(name)

    found = []
    for name in sorted(measured):
        record = scorecard.metrics.get(name)
        found.append(table(record.title if record else name, of(name), "in %", name in scorecard.higher_is_better))
    gap = "in % of the way from the base's word error rate to that of the domain's expert"
    found.append(table("Gap closed", lambda score: score.gap_closed, gap, True))
    speed = "seconds of audio decoded in a second"
    found.append(table("Speed", lambda score: Figure(value=score.rtfx), speed, True, lambda value: f"{value:.1f}"))
    loops = "utterances whose transcript has a phrase over and over"
    found.append(table("Repeat loops", lambda score: Figure(value=score.repeat_loops), loops, False, _whole))
    silence = "utterances without sound that got a transcript"
    found.append(table("Text on silence", lambda score: Figure(value=score.text_on_silence), silence, False, _whole))
    return (*(one for one in found if len(one.columns) > 1), _error_table(scorecard, shown))


def _error_table(scorecard: Scorecard, models: Sequence[ReportModel]) -> TextTable:
    columns = [
        (
            title_of(domain),
            [
                Entry(f"{score.substitutions} / {score.deletions} / {score.insertions}")
                for score in (scorecard.models[model.name].domains[domain] for model in models)
            ],
        )
        for domain in domains_of(scorecard)
    ]
    return _assemble("Word errors", models, columns, "substitutions / deletions / insertions")


def _column(
    figures: Sequence[Figure | None], *, higher_is_better: bool = False, text: Callable[[float], str] = percent
) -> list[Entry]:
    """Entries of one column; where values differ, the best stand out."""
    values = [figure.value for figure in figures if figure is not None and figure.value is not None]
    best = (max if higher_is_better else min)(values) if len(set(values)) > 1 else None
    entries = []
    for figure in figures:
        if figure is None or figure.value is None:
            entries.append(Entry(ABSENT))
        else:
            interval = "" if figure.ci is None else _interval(figure.ci, text, "–")
            entries.append(Entry(text(figure.value), interval, figure.value == best))
    return entries


def _assemble(title: str, models: Iterable[ReportModel], columns: Sequence[tuple[str, list[Entry]]], note: str) -> TextTable:
    rows = zip([Entry(model.title) for model in models], *(entries for _, entries in columns), strict=True)
    return TextTable(title, ("Model", *(heading for heading, _ in columns)), tuple(rows), note)


def _whole(value: float) -> str:
    return f"{value:.0f}"
