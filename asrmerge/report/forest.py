"""Differences of the report's main model to the others, with their intervals: what is drawn, and the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from asrmerge.evaluation.records import DomainComparison, MacroComparison, PairedTestRecord, Range
from asrmerge.report.charts import HEAD, ROW, Panel
from asrmerge.report.data import ReportData, ReportModel, title_of
from asrmerge.report.numbers import PERCENT, percent, points, probability
from asrmerge.report.significance import Summary, compared, domain_comparison, summary_comparison
from asrmerge.report.svg import Scale, Shape, drawing, line, marker, text, tick_text, ticks
from asrmerge.report.verdict import best_expert

FOOT = 48
LABEL = 18  # characters of a row's name that there is room for
USUAL = 4  # references that are shown side by side
SUMMARIES: dict[Summary, str] = {"macro": "Macro average", "worst_domain": "Worst domain"}


@dataclass(frozen=True)
class ForestRow:
    """One difference of word error rates; ``p_holm``, ``mapsswe`` and ``detectable`` are known of single domains alone."""

    title: str
    difference: float
    ci: Range
    improvement: float
    p_value: float
    p_holm: float | None = None
    mapsswe: PairedTestRecord | None = None
    detectable: float | None = None

    @property
    def tone(self) -> Literal["good", "bad", "open"]:
        """Whether the interval is clear of zero."""
        return "good" if self.ci[1] < 0 else "bad" if self.ci[0] > 0 else "open"

    @property
    def tip(self) -> str:
        """Everything that is known of the row."""
        low, high = map(points, self.ci)
        facts = [
            f"{self.title}: {points(self.difference)} points ({low} to {high})",
            f"better in {100 * self.improvement:.0f}{PERCENT} of draws",
            f"p {_equals(self.p_value)}",
        ]
        if self.p_holm is not None:
            facts.append(f"corrected by Holm {_equals(self.p_holm)}")
        if self.mapsswe is not None:
            facts.append(f"MAPSSWE p {_equals(self.mapsswe.p_value)}, by Holm {_equals(self.mapsswe.p_holm)}")
        if self.detectable is not None:
            facts.append(f"detectable from {percent(self.detectable)} points on")
        return "; ".join(facts)


@dataclass(frozen=True)
class Difference:
    """The report's main model against one other: domain by domain, then over the target domains."""

    reference: ReportModel
    rows: tuple[ForestRow, ...]
    summaries: int


def differences(data: ReportData) -> tuple[Difference, ...]:
    """Against every model that the main one was compared with."""
    return tuple(_difference(data, reference) for reference in compared(data))


def usual(data: ReportData, found: Sequence[Difference]) -> tuple[Difference, ...]:
    """Uniform average, best single expert, base and joint model, as far as they were compared; else the first few models."""
    wanted = [data.first("uniform"), best_expert(data), data.first("base"), data.first("joint")]
    by_model = {difference.reference.name: difference for difference in found}
    chosen = [by_model[model.name] for model in wanted if model is not None and model.name in by_model]
    return tuple(chosen or found[:USUAL])


def _difference(data: ReportData, reference: ReportModel) -> Difference:
    domains = [item for domain in data.domains if (item := domain_comparison(data, reference, domain))]
    summaries = [one for figure in SUMMARIES if (one := summary_comparison(data, reference, figure))]
    if len(data.scorecard.targets) == 1:  # of which they would say the same once more
        summaries = []
    return Difference(reference, (*map(_domain_row, domains), *map(_summary_row, summaries)), len(summaries))


def _domain_row(item: DomainComparison) -> ForestRow:
    return ForestRow(
        title=title_of(item.domain),
        difference=item.difference,
        ci=item.ci,
        improvement=item.probability_of_improvement,
        p_value=item.p_value,
        p_holm=item.p_holm,
        mapsswe=item.tests.get("mapsswe"),
        detectable=item.detectable,
    )


def _summary_row(item: MacroComparison) -> ForestRow:
    return ForestRow(
        title=SUMMARIES[item.figure],
        difference=item.difference,
        ci=item.ci,
        improvement=item.probability_of_improvement,
        p_value=item.p_value,
    )


def _equals(p_value: float) -> str:
    shown = probability(p_value)
    return shown if shown.startswith("<") else f"= {shown}"


def forest_chart(data: ReportData, shown: Sequence[Difference], width: float, columns: int) -> Markup:
    """Differences in points, a panel per reference, all on one scale: left of zero the main model is better."""
    columns = min(columns, len(shown))
    bounds = [100 * bound for difference in shown for row in difference.rows for bound in row.ci]
    low, high = min(*bounds, 0.0), max(*bounds, 0.0)
    pad = (high - low) * 0.06 or 1.0
    gutter, gap = (128.0, 26.0) if columns > 1 or width > 400 else (124.0, 22.0)
    inner = (width - gutter - gap * columns) / columns
    body = ROW * max(len(difference.rows) for difference in shown)
    height = HEAD + body + FOOT
    parts: list[Markup] = []
    for index, difference in enumerate(shown):
        row, column = divmod(index, columns)
        start = gutter + column * (inner + gap)
        panel = Panel(Scale(low - pad, high + pad, start, start + inner), row * (height + 6) + HEAD, body)
        parts += _panel(difference, panel)
        if column == 0:
            parts += _names(difference, panel, gutter - 12)
    rows = -(-len(shown) // columns)
    label = f"Differences in word error rate, {data.focus.phrase} less each reference, with intervals"
    return drawing(width, rows * (height + 6), label, parts, class_="forest")


def _names(difference: Difference, panel: Panel, x: float) -> list[Markup]:
    first = len(difference.rows) - difference.summaries
    return [
        text(x, panel.top + ROW * (place + 0.5) + 4, _short(row.title), "row strong" if place >= first else "row", "end")
        for place, row in enumerate(difference.rows)
    ]


def _short(title: str) -> str:
    return title if len(title) <= LABEL else title[: LABEL - 1] + "…"


def _panel(difference: Difference, panel: Panel) -> list[Markup]:
    x, bottom = panel.x, panel.top + panel.height
    parts = [text(x.start, panel.top - 12, f"against {difference.reference.title}", "heading")]
    for value in ticks(x.low, x.high, 4 if x.end - x.start < 300 else 8):
        place = x(value)
        parts += [
            line(place, panel.top, place, bottom, "zero" if value == 0 else "grid"),
            text(place, bottom + 16, tick_text(value), "tick", "middle"),
        ]
    if difference.summaries:
        rule = panel.top + ROW * (len(difference.rows) - difference.summaries)
        parts.append(line(x.start, rule, x.end, rule, "grid"))
    parts += [text(x.start, bottom + 33, "← better", "tick"), text(x.end, bottom + 33, "worse →", "tick", "end")]
    for index, row in enumerate(difference.rows):
        y = panel.top + ROW * (index + 0.5)
        shape: Shape = "ring" if row.tone == "open" else "circle"
        low, high = (100 * bound for bound in row.ci)
        parts += [
            line(x(low), y, x(high), y, f"whisker tone-{row.tone}"),
            marker(x(100 * row.difference), y, shape, 9, f"mark tone-{row.tone}", row.tip),
        ]
    return parts
