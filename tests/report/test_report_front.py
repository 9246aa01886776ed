"""The chart of trade-offs between several objectives."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import pytest
from report_sample import search_history

from asrmerge.report.data import SearchHistory, SearchTrial
from asrmerge.report.front_chart import front_chart
from asrmerge.report.standalone import standalone_svg

SVG = "{http://www.w3.org/2000/svg}"


def history(points: dict[str, tuple[float, ...]], **changes: object) -> SearchHistory:
    trials = [
        SearchTrial(number, name, {}, {}, first, further=tuple(rest))
        for number, (name, (first, *rest)) in enumerate(points.items())
    ]
    names = ("macro-average WER", "worst domain's WER", "third")[: len(next(iter(points.values())))]
    front = {name: number for number, name in enumerate(points) if name.startswith("front")}
    return replace(SearchHistory(tuple(trials), chosen=0, objectives=names, front=front), **changes)  # type: ignore[arg-type]


def read(search: SearchHistory, width: float = 530.0) -> ElementTree.Element:
    return ElementTree.fromstring(standalone_svg(front_chart(search, width)))


def test_every_candidate_has_a_mark_and_the_front_its_names() -> None:
    search = search_history()
    tips = [title.text or "" for title in read(search).iter(f"{SVG}title")]
    assert len(tips) == len(search.trials)
    for name, number in search.front.items():
        trial = next(trial for trial in search.trials if trial.number == number)
        assert any(
            tip.startswith(f"{name}: {number} ") and f"{100 * trial.objective:.1f} %, {100 * trial.further[0]:.1f} %" in tip
            for tip in tips
        )
    assert sum(", dropped early" in tip for tip in tips) == sum(not trial.complete for trial in search.trials) > 0


def test_the_line_goes_down_in_steps_through_the_front() -> None:
    drawn = read(history({"front-1": (0.1, 0.5), "front-2": (0.2, 0.3), "front-3": (0.4, 0.2), "other": (0.41, 0.4)}))
    [stair] = [one.get("d", "") for one in drawn.iter(f"{SVG}path") if one.get("class") == "stair"]
    places = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", stair)]
    assert len(places) == 5 and places == sorted(places)
    assert [second[1] == first[1] for first, second in pairwise(places)] == [True, False, True, False]


def test_what_is_far_off_stays_inside() -> None:
    drawn = read(history({"front-1": (0.1, 0.5), "front-2": (0.2, 0.3), "awful": (0.9, 0.95)}))
    width, height = (float(drawn.get(side, 0)) for side in ("width", "height"))
    [triangle] = [one for one in drawn.iter(f"{SVG}polygon") if "awful" in (one.get("data-tip") or "")]
    for pair in (triangle.get("points") or "").split():
        px, py = map(float, pair.split(","))
        assert 0 < px < width and 0 < py < height


def test_three_objectives_have_two_panels_and_no_line() -> None:
    drawn = read(history({"front-1": (0.1, 0.5, 0.2), "front-2": (0.2, 0.3, 0.3)}))
    assert [one.text for one in drawn.iter(f"{SVG}text") if one.text in ("worst domain's WER, %", "third, %")] == [
        "worst domain's WER, %",
        "third, %",
    ]
    assert not [one for one in drawn.iter(f"{SVG}path") if one.get("class") == "stair"]


@pytest.mark.parametrize("width", [350.0, 760.0])
def test_names_keep_out_of_each_others_way(width: float) -> None:
    points = {f"front-{index}": (0.1 + 0.001 * index**1.5, 0.5 - 0.002 * index) for index in range(1, 40)}
    places = [
        (float(one.get("x", 0)), float(one.get("y", 0)), one.get("text-anchor"))
        for one in read(history(points), width).iter(f"{SVG}text")
        if (one.text or "").startswith("front-")
    ]
    assert 3 < len(places) < len(points)
    for index, (x, y, anchor) in enumerate(places):
        for other_x, other_y, other_anchor in places[:index]:
            assert abs(y - other_y) >= 14 or abs(x - other_x) > 30 or anchor != other_anchor


def test_one_point_is_drawn() -> None:
    tips = [title.text for title in read(history({"front-1": (0.1, 0.5)})).iter(f"{SVG}title")]
    assert len(tips) == 1
