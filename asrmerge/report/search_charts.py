"""Charts of the search on validation audio: its history, the λ curve, the coefficients that it chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from asrmerge.report.data import CurvePoint, ReportData, SearchHistory, SearchTrial, title_of
from asrmerge.report.numbers import percent, signed
from asrmerge.report.svg import Scale, Shape, drawing, element, line, marker, path, spread, text, tick_text, ticks

HEIGHT = 300.0
TOP = 14.0
BOTTOM = HEIGHT - 44.0
ROW = 26.0
SERIES_SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond", "ring")


@dataclass(frozen=True)
class Label:
    """Words at a line's right end, and the height they belong to."""

    y: float
    content: str
    class_: str


def history_chart(search: SearchHistory, width: float) -> Markup:
    """Every trial's objective, the best feasible one so far as a stair, references as lines; what is far off sits at the top."""
    gutter, right = 44.0, 136.0 if width > 400 else 118.0
    low, high = _history_range(search)
    x = Scale(0, max(len(search.trials) - 1, 1), gutter + 8, width - right - 8)
    y = Scale(low, high, BOTTOM, TOP)
    parts = vertical_axis(y, gutter, width - right, "WER, %")
    for value in ticks(0, max(len(search.trials) - 1, 1), 5):
        if value == round(value):
            parts.append(text(x(value), BOTTOM + 17, tick_text(value), "tick", "middle"))
    parts.append(text((x.start + x.end) / 2, HEIGHT - 6, "candidate", "tick", "middle"))
    labels = []
    for name, objective in search.references.items():
        place = y(min(100 * objective, high))
        parts.append(line(gutter, place, width - right, place, "reference"))
        labels.append(Label(place, f"{name} {percent(objective)}", "note"))
    best = _best_so_far(search.trials)
    stair = _stair([(index, value) for index, value in enumerate(best) if value is not None], len(best), x, y)
    if stair:
        parts.append(path(stair, "stair"))
        labels.append(Label(stair[-1][1], f"best {percent(min(v for v in best if v is not None))}", "note strong role-merged"))
    parts += [_trial(trial, index, x, y, trial.number == search.chosen) for index, trial in enumerate(search.trials)]
    parts += end_labels(labels, width - right + 8)
    return drawing(width, HEIGHT, "Search history: objective of every candidate on validation audio", parts, class_="history")


def _history_range(search: SearchHistory) -> tuple[float, float]:
    values = sorted(100 * trial.objective for trial in search.trials)
    references = [100 * value for value in search.references.values()]
    low = min([*values, *references])
    usual = values[int(0.85 * (len(values) - 1))]  # a few hopeless candidates must not flatten the rest
    high = max([usual, *references])
    pad = (high - low) * 0.08 or 1.0
    return max(low - pad, 0.0), high + pad


def _best_so_far(trials: Sequence[SearchTrial]) -> list[float | None]:
    def better(best: float | None, value: float | None) -> float | None:
        return value if best is None else best if value is None else min(best, value)

    counting = (trial.objective if trial.feasible and trial.complete else None for trial in trials)
    return list(accumulate(counting, better))


def _stair(steps: list[tuple[int, float]], count: int, x: Scale, y: Scale) -> list[tuple[float, float]]:
    if not steps:
        return []
    points: list[tuple[float, float]] = []
    for index, value in steps:
        place = y(min(100 * value, y.high))
        if points:
            points.append((x(index), points[-1][1]))
        points.append((x(index), place))
    return [*points, (x(max(count - 1, 1)), points[-1][1])]


def _trial(trial: SearchTrial, index: int, x: Scale, y: Scale, chosen: bool) -> Markup:
    value = 100 * trial.objective
    beyond = value > y.high
    tip = f"{trial.number} {trial.label}: {percent(trial.objective)} %{trial_state(trial)}"
    class_ = "mark role-merged" if chosen else trial_class(trial)
    shape: Shape = "diamond" if chosen else "triangle" if beyond else "circle" if trial.feasible else "ring"
    return marker(x(index), y(min(value, y.high)) + (5 if beyond else 0), shape, 12 if chosen else 6.5, class_, tip)


def trial_class(trial: SearchTrial) -> str:
    """How a candidate's mark looks."""
    return f"mark trial{'' if trial.feasible else ' infeasible'}{'' if trial.complete else ' dropped'}"


def trial_state(trial: SearchTrial) -> str:
    """What a candidate's tip says after its figures."""
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in trial.weights.items())
    broken = "" if trial.feasible else ", breaks a constraint"
    return f"{broken}{'' if trial.complete else ', dropped early: expected'} ({weights})"


def curve_chart(data: ReportData, curve: Sequence[CurvePoint], width: float) -> Markup:
    """WER per domain over λ, the objective in bold, its lowest point marked."""
    gutter, right = 44.0, 136.0 if width > 400 else 118.0
    points = sorted(curve, key=lambda point: point.scale)
    names = [domain for domain in data.domains if all(domain in point.wer for point in points)]
    values = [100 * rate for point in points for rate in (*(point.wer[name] for name in names), point.objective)]
    pad = (max(values) - min(values)) * 0.06 or 1.0
    x = Scale(points[0].scale, points[-1].scale, gutter + 8, width - right - 8)
    y = Scale(max(min(values) - pad, 0), max(values) + pad, BOTTOM, TOP)
    parts = vertical_axis(y, gutter, width - right, "WER, %")
    parts += [text(x(value), BOTTOM + 17, tick_text(value), "tick", "middle") for value in ticks(x.low, x.high, 5)]
    parts.append(text((x.start + x.end) / 2, HEIGHT - 6, "λ", "tick", "middle"))
    labels = []
    for index, name in enumerate(names):
        series = [(point.scale, 100 * point.wer[name]) for point in points]
        apart = " apart" if name not in data.scorecard.targets else ""
        parts += _series(series, x, y, f"series-{index % 6}{apart}", title_of(name), SERIES_SHAPES[index % len(SERIES_SHAPES)])
        labels.append(Label(y(series[-1][1]), title_of(name), f"note series-{index % 6}"))
    macro = [(point.scale, 100 * point.objective) for point in points]
    parts.append(path([(x(scale), y(value)) for scale, value in macro], "series macro"))
    lowest = min(points, key=lambda point: (point.objective, point.scale))
    tip = f"lowest: λ = {lowest.scale:g}, {percent(lowest.objective)} %"
    parts.append(marker(x(lowest.scale), y(100 * lowest.objective), "diamond", 11, "mark macro", tip))
    labels.append(Label(y(macro[-1][1]), "objective", "note strong"))
    parts += end_labels(labels, width - right + 8)
    return drawing(width, HEIGHT, "Word error rate per domain over the scale λ of all task vectors", parts, class_="curve")


def _series(series: Sequence[tuple[float, float]], x: Scale, y: Scale, class_: str, name: str, shape: Shape) -> list[Markup]:
    marks = [
        marker(x(scale), y(value), shape, 6, f"mark {class_}", f"{name}, λ = {scale:g}: {value:.1f} %") for scale, value in series
    ]
    return [path([(x(scale), y(value)) for scale, value in series], f"series {class_}"), *marks]


def vertical_axis(y: Scale, left: float, right: float, name: str) -> list[Markup]:
    """Grid lines with numbers from ``left`` to ``right``, and the axis' name beside them."""
    parts: list[Markup] = []
    for value in ticks(y.low, y.high, 5):
        place = y(value)
        parts += [line(left, place, right, place, "grid"), text(left - 8, place + 4, tick_text(value), "tick", "end")]
    middle = (y.start + y.end) / 2
    parts.append(
        element("text", name, x=11, y=middle, class_="tick", text_anchor="middle", transform=f"rotate(-90 11 {middle:g})")
    )
    return parts


def end_labels(labels: Sequence[Label], x: float) -> list[Markup]:
    """Labels at ``x`` that keep out of each other's way, each with a leader to its line's end."""
    places = spread([label.y for label in labels], 16, TOP, BOTTOM)
    return [
        part
        for label, place in zip(labels, places, strict=True)
        for part in (
            path([(x - 6, label.y), (x - 1, place)], "leader"),
            text(x + 2, place + 4, label.content, label.class_),
        )
    ]


def weights_chart(weights: Sequence[tuple[str, float]], width: float) -> Markup:
    """A bar per expert; negative weights go to the left of zero."""
    low, high = min(0.0, *(value for _, value in weights)), max(0.0, *(value for _, value in weights))
    gutter = 118.0
    room = 52.0
    x = Scale(low, high if high > low else low + 1, gutter + (room if low < 0 else 0), width - room)
    parts = [line(x(0), 2, x(0), ROW * len(weights) + 2, "zero")]
    for index, (name, value) in enumerate(weights):
        middle = ROW * (index + 0.5) + 2
        left, right = sorted((x(0), x(value)))
        after = value >= 0
        parts += [
            text(gutter - 12, middle + 4, name, "row", "end"),
            element("rect", x=left, y=middle - 7, width=right - left, height=14, rx=2, class_="bar"),
            text(right + 7 if after else left - 7, middle + 4, _weight(value), "value", "start" if after else "end"),
        ]
    return drawing(width, ROW * len(weights) + 6, "Weight of every expert in the merge", parts, class_="weights")


def _weight(value: float) -> str:
    return f"{value:.2f}" if value >= 0 else signed(value, 2)
