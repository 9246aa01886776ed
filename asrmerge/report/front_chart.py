"""The trade-offs between several objectives of a search: every candidate, and by name those that no other beats in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from asrmerge.report.data import SearchHistory, SearchTrial
from asrmerge.report.numbers import percent
from asrmerge.report.search_charts import trial_class, trial_state, vertical_axis
from asrmerge.report.svg import Scale, drawing, marker, path, text, tick_text, ticks

PANEL = 330.0
GUTTER = 48.0
RIGHT = 62.0
LETTER = 6.6  # about the width of a letter of a label

Box = tuple[float, float, float, float]  # left, top, right, bottom


def front_chart(search: SearchHistory, width: float) -> Markup:
    """A panel for each further objective over the first, one below the other; what is far off sits at the edge as a triangle."""
    panels = [_panel(search, index, width, PANEL * index) for index in range(len(search.objectives) - 1)]
    label = f"Trade-offs between {' and '.join(search.objectives)} on validation audio"
    return drawing(width, PANEL * len(panels), label, [part for panel in panels for part in panel], class_="front")


def _panel(search: SearchHistory, index: int, width: float, above: float) -> list[Markup]:
    numbers = {trial.number: trial for trial in search.trials}
    front = {name: numbers[number] for name, number in search.front.items() if number in numbers}
    chosen = numbers.get(search.chosen) if search.chosen is not None else None
    within = [*front.values(), *([] if chosen is None else [chosen])]
    top, bottom = above + 16.0, above + PANEL - 46.0
    x = _scale([trial.objective for trial in within], [trial.objective for trial in search.trials], GUTTER + 10, width - RIGHT)
    y = _scale([trial.further[index] for trial in within], [trial.further[index] for trial in search.trials], bottom, top)
    parts = vertical_axis(y, GUTTER, width - RIGHT + 10, f"{search.objectives[index + 1]}, %")
    for value in ticks(x.low, x.high, 5):
        parts.append(text(x(value), bottom + 17, tick_text(value), "tick", "middle"))
    parts.append(text((x.start + x.end) / 2, above + PANEL - 8, f"{search.objectives[0]}, %", "tick", "middle"))
    ordered = sorted({trial.number: trial for trial in front.values()}.values(), key=lambda trial: trial.objective)
    places = {trial.number: _place(trial, index, x, y) for trial in search.trials}
    if len(search.objectives) == 2 and ordered:  # of three, a stair through the projection would mean nothing
        stair = [places[ordered[0].number]]
        for trial in ordered[1:]:
            at = places[trial.number]
            stair += [(at[0], stair[-1][1]), at]
        parts.append(path(stair, "stair"))
    own = {trial.number for trial in (*ordered, *([] if chosen is None else [chosen]))}
    names = {number: [name for name, one in search.front.items() if one == number] for number in own}
    for trial in sorted(search.trials, key=lambda trial: (trial.number in own, trial == chosen)):
        parts.append(_mark(trial, index, places[trial.number], (x, y), names.get(trial.number), trial == chosen))
    return [*parts, *_labels({number: " · ".join(found) for number, found in names.items()}, places, width)]


def _scale(best: Sequence[float], every: Sequence[float], start: float, end: float) -> Scale:
    """From the lowest of all to what the front reaches, and half as much again towards the worse."""
    low, high = 100 * min(every, default=0.0), 100 * max(best, default=1.0)
    extent = high - low or max(0.05 * high, 0.1)
    return Scale(max(low - 0.08 * extent, 0.0), high + 0.5 * extent, start, end)


def _place(trial: SearchTrial, index: int, x: Scale, y: Scale) -> tuple[float, float]:
    return x(min(100 * trial.objective, x.high)), y(min(100 * trial.further[index], y.high))


def _mark(
    trial: SearchTrial,
    index: int,
    place: tuple[float, float],
    scales: tuple[Scale, Scale],
    names: Sequence[str] | None,
    chosen: bool,
) -> Markup:
    figures = f"{percent(trial.objective)} %, {percent(trial.further[index])} %"
    name = f"{', '.join(names)}: " if names else ""
    tip = f"{name}{trial.number} {trial.label}: {figures}{trial_state(trial)}"
    if chosen:
        return marker(*place, "diamond", 12, "mark role-merged", tip)
    if names is not None:
        return marker(*place, "circle", 9, "mark role-merged", tip)
    beyond = 100 * trial.objective > scales[0].high or 100 * trial.further[index] > scales[1].high
    return marker(*place, "triangle" if beyond else "circle" if trial.feasible else "ring", 6.5, trial_class(trial), tip)


def _labels(names: Mapping[int, str], places: Mapping[int, tuple[float, float]], width: float) -> list[Markup]:
    """Names beside their marks, the knee's first; what finds no free room is left to the tip and the list."""
    taken: list[Box] = [(px - 5, py - 5, px + 5, py + 5) for px, py in (places[number] for number in names)]
    parts = []
    for number in sorted(names, key=lambda number: ("knee" not in names[number], places[number])):
        (px, py), reach = places[number], LETTER * len(names[number])
        tries = [(left, py + below) for left in (px + 9, px - 9 - reach) for below in (-10, 10)]
        boxes = [(left, middle - 7, left + reach, middle + 7) for left, middle in tries]
        free = [box for box in boxes if box[0] > GUTTER and box[2] < width and not any(_overlap(box, other) for other in taken)]
        if names[number] and free:
            taken.append(free[0])
            before = free[0][0] < px
            anchor = px - 9 if before else px + 9
            parts.append(text(anchor, free[0][1] + 11, names[number], "note", "end" if before else "start"))
    return parts


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
