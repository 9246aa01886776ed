"""One model × domain table for every figure of the scorecard: metrics, what was decoded how fast, what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asrmerge.evaluation.records import DomainScore, Figure, ModelScore
from asrmerge.report.data import ReportData, ReportModel, title_of
from asrmerge.report.numbers import MINUS, percent

Format = Callable[[float], str]


@dataclass(frozen=True)
class FigureCell:
    """A figure as people read it, and below it its interval or what else belongs to it."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class FigureTable:
    """``rows`` are models with a cell per column, ``None`` where there is nothing to measure."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[ReportModel, tuple[FigureCell | None, ...]], ...]


def figure_tables(data: ReportData) -> tuple[FigureTable, ...]:
    """The summaries over the target domains, then every figure that some model has in some domain."""
    card = data.scorecard
    found: list[FigureTable | None] = [_summaries(data)]
    metrics = {"wer": "WER"} | {name: metric.title for name, metric in card.metrics.items()}
    for name, title in metrics.items():
        found.append(_by_domain(data, name, f"{title}, %", _metric(name), _percent, higher=name in card.higher_is_better))
    found += [
        _by_domain(data, "gap_closed", "Share of the gap to the domain’s expert closed, %", _gap_closed, _percent, higher=True),
        _by_domain(data, "rtfx", "Seconds of audio decoded in a second (RTFx)", _rtfx, _times, higher=True, average=False),
    ]
    for name, title in (
        ("failed", "Utterances not transcribed by some model"),
        ("repeat_loops", "Utterances with a phrase over and over"),
        ("text_on_silence", "Utterances with text on silence"),
    ):
        found.append(_by_domain(data, name, title, _count(name), _whole, higher=None, average=False))
    return tuple(table for table in found if table is not None)


def _summaries(data: ReportData) -> FigureTable:
    scores = [data.scorecard.models[model.name] for model in data.models]
    general = data.scorecard.general
    columns: list[tuple[str, list[FigureCell | None]]] = [
        ("Macro WER", _cells([Figure(value=score.macro_wer, ci=score.macro_ci) for score in scores], _percent, higher=False)),
        ("Worst domain’s WER", _worst(scores)),
        ("Harmonic accuracy", _cells([score.harmonic_accuracy for score in scores], _percent, higher=True)),
    ]
    if general is not None:
        kept = [score.domains[general].retention or Figure(value=None) for score in scores]
        columns.append((f"Retention on {title_of(general)}", _cells(kept, _percent, higher=True)))
    shown = [(title, cells) for title, cells in columns if any(cells)]
    return FigureTable(
        name="summary",
        title="Over the target domains, %",
        caption="Macro WER: the mean of the domains’ rates. Harmonic accuracy: the harmonic mean of 1 − WER, which one bad "
        "domain pulls down. Retention: the share of the base’s accuracy that is kept.",
        columns=tuple(title for title, _ in shown),
        rows=tuple((model, tuple(cells[place] for _, cells in shown)) for place, model in enumerate(data.models)),
    )


def _worst(scores: Sequence[ModelScore]) -> list[FigureCell | None]:
    cells = _cells([Figure(value=score.worst_wer, ci=score.worst_ci) for score in scores], _percent, higher=False)
    return [
        cell and FigureCell(cell.text, f"{title_of(score.worst_domain)}, {cell.note}", cell.best)
        for cell, score in zip(cells, scores, strict=True)
    ]


def _by_domain(
    data: ReportData,
    name: str,
    title: str,
    read: Callable[[DomainScore], Figure | None],
    text: Format,
    *,
    higher: bool | None,
    average: bool = True,
) -> FigureTable | None:
    """``None`` where no model has the figure; ``higher`` says which way is better, ``average`` adds the mean of the targets."""
    scores = [data.scorecard.models[model.name] for model in data.models]
    found = {domain: [read(score.domains[domain]) or Figure(value=None) for score in scores] for domain in data.domains}
    measured = [domain for domain in data.domains if any(one.value is not None for one in found[domain])]
    if not measured or (higher is None and not any(one.value for row in found.values() for one in row)):
        return None
    columns = {title_of(domain): _cells(found[domain], text, higher=higher) for domain in measured}
    targets = [found[domain] for domain in data.scorecard.targets]
    if average and len(targets) > 1:
        columns["Macro average"] = _cells([_mean(row) for row in zip(*targets, strict=True)], text, higher=higher)
    way = {True: "Higher is better", False: "Lower is better", None: "Counted, not rated"}[higher]
    return FigureTable(
        name=name,
        title=title,
        caption=f"{way}; below a figure its {100 * data.scorecard.level:g} % bootstrap interval."
        if any(cell and cell.note for cells in columns.values() for cell in cells)
        else f"{way}.",
        columns=tuple(columns),
        rows=tuple((model, tuple(cells[place] for cells in columns.values())) for place, model in enumerate(data.models)),
    )


def _cells(figures: Sequence[Figure], text: Format, *, higher: bool | None) -> list[FigureCell | None]:
    """The best one is marked where the models differ."""
    values = [figure.value for figure in figures if figure.value is not None]
    best = None if higher is None or len({*values}) < 2 else max(values) if higher else min(values)
    return [
        None
        if figure.value is None
        else FigureCell(
            text(figure.value),
            f"{text(figure.ci[0])} – {text(figure.ci[1])}" if figure.ci else "",
            figure.value == best,
        )
        for figure in figures
    ]


def _mean(figures: Sequence[Figure]) -> Figure:
    values = [figure.value for figure in figures if figure.value is not None]
    return Figure(value=math.fsum(values) / len(values) if len(values) == len(figures) else None)


def _metric(name: str) -> Callable[[DomainScore], Figure | None]:
    return lambda score: Figure(value=score.wer, ci=score.ci) if name == "wer" else score.metrics.get(name)


def _count(name: str) -> Callable[[DomainScore], Figure]:
    return lambda score: Figure(value=float(getattr(score, name)))


def _gap_closed(score: DomainScore) -> Figure | None:
    return score.gap_closed


def _rtfx(score: DomainScore) -> Figure:
    return Figure(value=score.rtfx)


def _percent(value: float) -> str:
    return percent(value).replace("-", MINUS)


def _times(value: float) -> str:
    return f"{value:.3g}×"


def _whole(value: float) -> str:
    return f"{value:,.0f}"
