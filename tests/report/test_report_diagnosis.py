"""The merges beside their experts in a report: sentences, charts, tables."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from diagnosis_sample import DECODER, ENCODER, collapsing, diagnosis, healthy, layer
from report_sample import report_data
from test_report_html import parse

from asrmerge.report import ReportData, render_report
from asrmerge.report.activations import diagnosis_section, layers_chart


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data(utterances=10)


def section(html: str) -> str:
    found = re.search(r'<section aria-labelledby="diagnosis-title".*?</section>', html, re.DOTALL)
    assert found
    return found.group()


def charts(html: str) -> list[str]:
    return re.findall(r'<svg class="chart activations".*?</svg>', html, re.DOTALL)


def test_both_merges_have_their_sentence_and_their_chart(data: ReportData) -> None:
    found = section(render_report(data))
    assert re.findall(r"<h3>(.*?)</h3>", found) == ["Uniform average", "Merged"]
    page = parse(found)
    text = " ".join(" ".join(page.text["p"]).split())
    for one in data.diagnoses.values():
        assert " ".join(one.sentence.split()) in text
    assert len(charts(found)) == 4  # each for screens and for phones
    labels = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert all(data.diagnoses[name].sentence in labels[at] for at, name in ((0, "uniform"), (2, "merged")))
    assert page.text["span"] == ["✗", "✓"]


def test_without_a_diagnosis_there_is_no_section(data: ReportData) -> None:
    assert "diagnosis-title" not in render_report(replace(data, diagnoses={}))
    assert diagnosis_section({}, 1080, 530, 350) == ""
    assert re.findall(r"<h3>(.*?)</h3>", section(render_report(replace(data, diagnoses={"merged": healthy()})))) == ["Merged"]


def test_marks_stand_where_the_figures_are() -> None:
    shown = collapsing()
    chart = layers_chart("Merged", shown, 1080)
    tips = dict(re.findall(r"<title>((?:en|de)coder\.\d, [^:]+): ([\d.]+)\u00a0% of the experts’</title>", chart))
    assert len(tips) == 40
    for one in shown.layers:
        for name, value in [
            ("variance", one.variance_ratio),
            ("effective rank", one.rank_ratio),
            ("weights ‖θ‖", one.norm_ratio),
            ("task vector ‖τ‖", one.task_vector_ratio),
        ]:
            assert float(tips[f"{one.layer}, {name}"]) == pytest.approx(100 * value, abs=0.51)
    circles = [tuple(map(float, pair)) for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart)]
    assert [x for x, _ in circles] == sorted(x for x, _ in circles)
    steps = [round(right - left, 1) for (left, _), (right, _) in pairwise(circles)]
    assert len({*steps[:5], *steps[6:]}) <= 2 and steps[5] > steps[0]  # the decoder stands apart
    (zero,), (whole,) = (re.findall(rf'y="([\d.]+)" class="tick" text-anchor="end">{number}<', chart) for number in ("0", "100"))
    for (_, y), one in zip(circles, shown.layers, strict=True):
        below = (float(zero) - y - 4) / (float(zero) - float(whole))
        assert below == pytest.approx(one.variance_ratio, abs=0.01)


def test_stacks_are_lines_of_their_own_and_what_is_missing_is_left_out() -> None:
    def lines(chart: str) -> int:
        return len(re.findall(r'<path d="[^"]+" class="series', chart))

    assert lines(layers_chart("a", healthy(), 530)) == 8
    without = [one.model_copy(update={"task_vector_ratio": None}) for one in healthy().layers]
    chart = layers_chart("a", diagnosis(without, base=None), 530)
    assert lines(chart) == 6 and "task vector" not in chart
    assert lines(layers_chart("a", diagnosis([layer("encoder.0")]), 530)) == 4
    odd = diagnosis([layer("encoder.0", None), layer("encoder.1", 0.9), layer("encoder.2", None)])
    assert len(re.findall("<circle", layers_chart("a", odd, 530))) == 1


def test_what_is_far_off_stays_within_the_chart() -> None:
    chart = layers_chart("a", diagnosis([layer("encoder.0"), layer("encoder.1", 40.0, task_vector=0.0)]), 530)
    assert "encoder.1, variance: 4000\u00a0%" in chart
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', chart)]
    assert len(heights) == 2 and all(0 < y < 300 for y in heights)


@pytest.mark.parametrize("width", [1080.0, 530.0, 350.0])
def test_many_layers_have_room(width: float) -> None:
    layers = [layer(f"{stack}.{number}") for stack in ("encoder", "decoder") for number in range(32)]
    chart = layers_chart("a", diagnosis(layers), width)
    numbers = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="273"', chart)]
    assert len(numbers) >= 6 and all(right - left > 17 for left, right in pairwise(numbers))
    assert re.findall(r">(\w+ layer)<", chart) == ["encoder layer", "decoder layer"]


def test_the_tables_have_every_layer_and_group() -> None:
    shown = diagnosis([layer(name, 0.5, 0.75, quiet=0.2) for name in (*ENCODER, *DECODER)])
    found = str(diagnosis_section({"Merged": shown}, 1080, 530, 350))
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", found)]
    assert [row[0] for row in rows] == [*ENCODER, *DECODER, "encoder.0", "head", "all"]
    assert rows[0][1:] == ["50.0", "75.0", "37.5", "50.0", "5.0", "fc1, 20.0", "100.0", "50.0"]
    assert rows[-1][1:] == ["60", "61", "98.4", "1.5", "3", "50.0"]
    plain = str(diagnosis_section({"Merged": diagnosis([layer("encoder.0")], base=None)}, 1080, 530, 350))
    assert "‖τ‖" not in plain.split("</figure>")[1]
    parse(plain)


def test_names_are_not_markup() -> None:
    found = str(diagnosis_section({"<b>&x": healthy()}, 1080, 530, 350))
    assert "<b>&x" not in found and "&lt;b&gt;&amp;x" in found
    parse(found)


def test_a_model_without_layers_has_norms_alone() -> None:
    found = str(diagnosis_section({"Merged": diagnosis([])}, 1080, 530, 350))
    assert charts(found) == [] and "layer by layer" not in found and "norms by structural group" in found
    parse(found)
