"""The chart of the test figures: word error rates per domain and model."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from asrmerge.report.data import ReportData, ReportModel, Role, title_of
from asrmerge.report.numbers import percent
from asrmerge.report.svg import Scale, Shape, drawing, element, line, marker, text, tick_text, ticks

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
    parts.append(line(merged, panel.top, merged, bottom, f"guide role-{mark_role(data, data.focus)}"))
    for place, model in enumerate(data.models):
        parts += _dot(data, model, domain, panel.x, panel.top + ROW * (place + 0.5))
    return parts


def _dot(data: ReportData, model: ReportModel, domain: str, x: Scale, y: float) -> list[Markup]:
    score = data.scorecard.models[model.name].domains[domain]
    low, high = (100 * bound for bound in score.ci)
    part = mark_role(data, model)
    role = f"role-{part}"
    tip = f"{model.title}, {title_of(domain)}: {percent(score.wer)} % ({percent(score.ci[0])}–{percent(score.ci[1])})"
    size = 11 if model == data.focus else 9
    strong = model == data.focus or (model.role == "expert" and model.domain == domain)
    faint = "" if strong or model.role != "expert" else " away"
    return [
        line(x(low), y, x(high), y, f"whisker {role}{faint}"),
        marker(x(100 * score.wer), y, SHAPES[part], size, f"mark {role}{faint}", tip),
    ]


def mark_role(data: ReportData, model: ReportModel) -> Role:
    """The part that a mark shows: the report's main model stands out among models without parts."""
    return "merged" if model == data.focus and model.role == "other" else model.role


def legend_mark(role: Role) -> Markup:
    """A model's mark, as in the charts, to stand beside its name."""
    size = 11 if role == "merged" else 9
    shape = marker(7, 7, SHAPES[role], size, f"mark role-{role}", role)
    return element("svg", shape, viewBox="0 0 14 14", width=14, height=14, class_="chart key", aria_hidden="true")
