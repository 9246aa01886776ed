"""Charts of the test figures: word error rates per domain and model, and differences with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from asrmerge.evaluation.records import DomainComparison
from asrmerge.report.data import ReportData, ReportModel, Role, title_of
from asrmerge.report.numbers import percent, points
from asrmerge.report.svg import Scale, Shape, drawing, element, line, marker, text, tick_text, ticks
from asrmerge.report.verdict import best_expert

SHAPES: dict[Role, Shape] = {
    "base": "square",
    "expert": "circle",
    "joint": "triangle",
    "uniform": "ring",
    "merged": "diamond",
    "other": "circle",
}
ROW = 24
HEAD = 30
FOOT = 30


@dataclass(frozen=True)
class Panel:
    """Where one domain's rows are drawn."""

    x: Scale
    top: float
    height: float


def wer_chart(data: ReportData, width: float, columns: int) -> Markup:
    """One panel per domain, ``columns`` side by side; a row per model, a mark at its WER, a whisker over its interval."""
    scores = [data.scorecard.models[model.name].domains[domain] for model in data.models for domain in data.domains]
    top = max(max(score.ci[1], score.wer) for score in scores) * 100 * 1.04 or 1.0
    gutter = 158.0 if columns > 1 else 140.0
    gap = 22.0
    inner = (width - gutter - gap * columns) / columns
    height = HEAD + ROW * len(data.models) + FOOT
    parts: list[Markup] = []
    for index, domain in enumerate(data.domains):
        row, column = divmod(index, columns)
        start = gutter + column * (inner + gap)
        panel = Panel(Scale(0, top, start, start + inner), row * (height + 6) + HEAD, ROW * len(data.models))
        parts += _panel(data, domain, panel, 4 if inner > 130 else 3)
        if column == 0:
            parts += [
                _label(data, model, gutter - 12, panel.top + ROW * (place + 0.5)) for place, model in enumerate(data.models)
            ]
    rows = -(-len(data.domains) // columns)
    label = "Word error rate of every model in every domain, with intervals; the same figures as in the table"
    return drawing(width, rows * (height + 6), label, parts, class_="wer")


def _label(data: ReportData, model: ReportModel, x: float, y: float) -> Markup:
    title = model.title if len(model.title) < 22 else model.title[:20] + "…"
    return text(x, y + 4, title, "row strong" if model == data.focus else "row", "end")


def _panel(data: ReportData, domain: str, panel: Panel, count: int) -> list[Markup]:
    bottom = panel.top + panel.height
    parts = [text(panel.x.start, panel.top - 12, title_of(domain), "heading")]
    for value in ticks(0, panel.x.high, count):
        x = panel.x(value)
        parts += [line(x, panel.top, x, bottom, "grid"), text(x, bottom + 16, tick_text(value), "tick", "middle")]
    merged = panel.x(100 * data.wer(data.focus, domain))
    parts.append(line(merged, panel.top, merged, bottom, f"guide role-{data.focus.role}"))
    for place, model in enumerate(data.models):
        parts += _dot(data, model, domain, panel.x, panel.top + ROW * (place + 0.5))
    return parts


def _dot(data: ReportData, model: ReportModel, domain: str, x: Scale, y: float) -> list[Markup]:
    score = data.scorecard.models[model.name].domains[domain]
    low, high = (100 * bound for bound in score.ci)
    role = f"role-{model.role}"
    tip = f"{model.title}, {title_of(domain)}: {percent(score.wer)} % ({percent(score.ci[0])}–{percent(score.ci[1])})"
    size = 11 if model == data.focus else 9
    strong = model == data.focus or (model.role == "expert" and model.domain == domain)
    faint = "" if strong or model.role != "expert" else " away"
    return [
        line(x(low), y, x(high), y, f"whisker {role}{faint}"),
        marker(x(100 * score.wer), y, SHAPES[model.role], size, f"mark {role}{faint}", tip),
    ]


@dataclass(frozen=True)
class Difference:
    """The report's main model against one other, domain by domain."""

    reference: ReportModel
    comparisons: tuple[DomainComparison, ...]


def differences(data: ReportData) -> tuple[Difference, ...]:
    """Against uniform average, best single expert, base and joint model, as far as they were compared."""
    wanted = [data.first("uniform"), best_expert(data), data.first("base"), data.first("joint")]
    found = []
    for reference in wanted:
        if reference is None:
            continue
        items = {
            item.domain: item
            for item in data.scorecard.comparisons
            if (item.model, item.reference) == (data.focus.name, reference.name)
        }
        if set(data.domains) <= items.keys():
            found.append(Difference(reference, tuple(items[domain] for domain in data.domains)))
    return tuple(found)


def forest_chart(data: ReportData, shown: tuple[Difference, ...], width: float, columns: int) -> Markup:
    """Differences of word error rates in points, with intervals: left of zero the main model is better."""
    columns = min(columns, len(shown))
    bounds = [100 * bound for difference in shown for item in difference.comparisons for bound in item.ci]
    low, high = min(*bounds, 0.0), max(*bounds, 0.0)
    pad = (high - low) * 0.06 or 1.0
    gutter, gap = (118.0, 26.0) if columns > 1 else (108.0, 22.0)
    inner = (width - gutter - gap * columns) / columns
    height = HEAD + ROW * len(data.domains) + FOOT + 18
    parts: list[Markup] = []
    for index, difference in enumerate(shown):
        row, column = divmod(index, columns)
        start = gutter + column * (inner + gap)
        panel = Panel(Scale(low - pad, high + pad, start, start + inner), row * (height + 6) + HEAD, ROW * len(data.domains))
        parts += _forest(difference, panel)
        if column == 0:
            parts += [
                text(gutter - 12, panel.top + ROW * (place + 0.5) + 4, title_of(domain), "row", "end")
                for place, domain in enumerate(data.domains)
            ]
    rows = -(-len(shown) // columns)
    label = f"Differences in word error rate, {data.focus.phrase} less each reference, with intervals"
    return drawing(width, rows * (height + 6), label, parts, class_="forest")


def _forest(difference: Difference, panel: Panel) -> list[Markup]:
    x, bottom = panel.x, panel.top + panel.height
    parts = [text(x.start, panel.top - 12, f"against {difference.reference.title}", "heading")]
    for value in ticks(x.low, x.high, 4):
        place = x(value)
        parts += [
            line(place, panel.top, place, bottom, "zero" if value == 0 else "grid"),
            text(place, bottom + 16, tick_text(value), "tick", "middle"),
        ]
    parts += [text(x.start, bottom + 33, "← better", "tick"), text(x.end, bottom + 33, "worse →", "tick", "end")]
    for index, item in enumerate(difference.comparisons):
        y = panel.top + ROW * (index + 0.5)
        tone = "good" if item.ci[1] < 0 else "bad" if item.ci[0] > 0 else "open"
        low, high = (100 * bound for bound in item.ci)
        chance = f"better in {100 * item.probability_of_improvement:.0f} % of draws"
        tip = (
            f"{title_of(item.domain)}: {points(item.difference)} points ({points(item.ci[0])} to {points(item.ci[1])}), {chance}"
        )
        shape: Shape = "ring" if tone == "open" else "circle"
        parts += [
            line(x(low), y, x(high), y, f"whisker tone-{tone}"),
            marker(x(100 * item.difference), y, shape, 9, f"mark tone-{tone}", tip),
        ]
    return parts


def legend_mark(role: Role) -> Markup:
    """A model's mark, as in the charts, to stand beside its name."""
    size = 11 if role == "merged" else 9
    shape = marker(7, 7, SHAPES[role], size, f"mark role-{role}", role)
    return element("svg", shape, viewBox="0 0 14 14", width=14, height=14, class_="chart key", aria_hidden="true")
