"""The findings in words, the table, the page and the JSON file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO

import pytest
import torch
from rich.console import Console
from tiny_models import edit_config, fine_tuned, tiny_model

from asrmerge.inspection.findings import find, headline, patterns
from asrmerge.inspection.heatmap import render_heatmap
from asrmerge.inspection.inspecting import inspect_models, run_inspection
from asrmerge.inspection.result import Inspection
from asrmerge.inspection.tables import inspection_table, ratio_text, shade, table_width

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Checks that elements are balanced; collects elements and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text += data


def parse(html):
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def printed(inspection, width=140, **options):
    stream = StringIO()
    Console(file=stream, width=width, **options).print(inspection_table(inspection))
    return stream.getvalue()


def check_ratios(shown, ratios):
    for text, ratio in zip(shown, ratios, strict=True):
        assert text == "–" if ratio is None else float(text) == pytest.approx(100 * ratio, rel=0.006), (text, ratio)


@pytest.fixture
def found(saved) -> Inspection:
    base, experts = tiny_model("ctc"), {f"e{seed}": fine_tuned("ctc", seed, 0.002) for seed in (1, 2, 3)}
    experts["e2"].lm_head.load_state_dict(base.lm_head.state_dict())
    return inspect_models(saved(base, "base"), {name: saved(model, name) for name, model in experts.items()})


@pytest.fixture
def refused(saved) -> Inspection:
    other = saved(tiny_model("ctc"), "other")
    edit_config(other.folder, num_attention_heads=4)
    experts = {"one": saved(fine_tuned("ctc", 1), "one"), "other": type(other).open(other.folder)}
    experts["whisper"] = saved(tiny_model("whisper"), "whisper")
    return inspect_models(saved(tiny_model("ctc"), "base"), experts)


def test_json_both_ways(found, refused):
    for inspection in (found, refused):
        text = inspection.model_dump_json()
        assert Inspection.model_validate_json(text) == inspection
        assert (
            Inspection.model_validate(json.loads(json.dumps(inspection.model_dump(mode="json"), allow_nan=False))) == inspection
        )


def test_the_table_s_figures_are_the_inspection_s(found):
    lines = {line.split("  ")[0].strip(): line for line in printed(found).splitlines()}
    for row in (*found.groups, found.overall):
        cells = lines[row.group].split()
        assert cells[1] == f"{row.parameters:,}"
        check_ratios(cells[3:6], row.ratios)
        assert cells[7:] == [f"{100 * row.contested:.1f}", f"{100 * row.contested_magnitude:.1f}"]
    assert f"{100 * found.overall.conflicts[1][2]:.1f}" in lines["e2 · e3"]


def test_the_table_shades_cells_where_there_are_colours(found):
    coloured = printed(found, force_terminal=True, color_system="truecolor")
    assert "\x1b[30;48;2;226;122;40m" in coloured  # the darkest cell
    assert "\x1b" not in printed(found)
    assert [shade(value, 4.0) for value in (None, 0.0, 1.0, 4.0)] == [0, 0, 0.5, 1] and shade(0.0, 0.0) == 0


def test_nothing_is_cut_off_at_the_width_asked_for(found, embedded):
    same = inspect_models(embedded("whisper"), {f"a very long name {index}": embedded("whisper") for index in range(6)})
    for inspection in (found, same):
        lines = printed(inspection, table_width(inspection)).splitlines()
        assert "…" not in "".join(lines)
        for row in (*inspection.groups, inspection.overall):
            cells = next(line for line in lines if line.split("  ")[0].strip() == row.group).split()
            assert len(cells) == 6 + len(inspection.names), cells


@pytest.mark.parametrize(
    ("ratio", "text"), [(None, "–"), (0.0, "0"), (0.024, "2.40"), (1.37, "137"), (0.00592, "0.592"), (0.5, "50.0")]
)
def test_ratios_have_three_digits(ratio, text):
    assert ratio_text(ratio) == text


def test_names_are_not_markup(saved):
    name = "[red]<b>&x[/]"
    base = saved(tiny_model("ctc"), "base")
    found = inspect_models(base, {name: saved(fine_tuned("ctc", 1), "one"), "two": saved(fine_tuned("ctc", 2), "two")})
    assert "[red]<b>&x[/]" in printed(found, 220)
    html = render_heatmap(found)
    assert name in parse(html).text and "<b>&x" not in html


def test_findings(found):
    texts = [finding.text for finding in find(found)]
    assert headline(found) == "One architecture, one base"
    assert texts[0].startswith("One architecture and vocabulary: wav2vec2, ")
    assert (
        texts[1]
        == "e1: same base, with 100.0\u00a0% of its units and 100.0\u00a0% of its attention heads in the places of the base."
    )
    assert any(text.startswith("e2 left these as in the base: ") and "lm_head.* (2)" in text for text in texts)
    assert not any(text.startswith("Identical in all") for text in texts)  # each of the others moved everything


def test_models_given_twice_are_noticed(saved):
    base, one = saved(tiny_model("ctc"), "base"), saved(fine_tuned("ctc", 1, 0.002), "one")
    found = inspect_models(base, {"one": one, "again": one, "unmoved": base})
    texts = [finding.text for finding in find(found) if finding.tone == "bad"]
    assert texts == [
        "unmoved equals the base: nothing was fine-tuned, or the base was given twice.",
        "one and again are the same model: leave one of them out.",
    ]
    assert found.overall.cosines[0] == (1.0, pytest.approx(1.0), None)
    parse(render_heatmap(found))
    assert "–" in printed(found)


def test_names_of_tensors_in_short():
    every = ["a.b.one", "a.b.two", "a.c", "d.e.one", "d.e.two", "d.f"]
    assert patterns(every, every) == ["all 6"]
    assert patterns(["a.b.one", "a.b.two", "d.f"], every) == ["a.b.* (2)", "d.f"]
    assert patterns(["a.b.one", "d.e.one", "d.e.two", "d.f"], every) == ["a.b.one", "d.* (3)"]
    assert patterns(["only"], ["only"]) == ["only"] and patterns([], every) == []


def test_the_page_is_whole_and_needs_no_network(found):
    html = render_heatmap(found)
    page = parse(html)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    assert not any({"src", "srcset"} & attributes.keys() or tag in ("link", "iframe") for tag, attributes in page.elements)
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    labels = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert len(identifiers) == len(set(identifiers)) and labels <= set(identifiers)
    assert render_heatmap(found) == html


def test_the_page_has_a_map_for_each_group(found):
    html = render_heatmap(found)
    maps = re.findall(r'<svg class="chart squares".*?</svg>', html, re.DOTALL)
    assert len(maps) == 2 + len(found.groups) + 1
    last = found.overall.cosines
    titles = re.findall(r"<title>(e\d) · (e\d): ([+−]?[\d.]+)</title>", maps[-1])
    assert len(titles) == 6
    for one, two, shown in titles:
        wanted = last[found.names.index(one)][found.names.index(two)]
        assert float(shown.replace("−", "-")) == pytest.approx(wanted, abs=0.0051)
    rows = re.findall(r"<tr.*?</tr>", html[html.index('id="norms"') :], re.DOTALL)[1 : len(found.groups) + 2]
    for row, geometry in zip(rows, (*found.groups, found.overall), strict=True):
        check_ratios(re.findall(r"<b>(.*?)</b>", row), geometry.ratios)


def test_one_expert_has_no_pairs(saved):
    found = inspect_models(saved(tiny_model("ctc"), "base"), {"one": saved(fine_tuned("ctc", 1, 0.002), "one")})
    assert "opposite" not in printed(found) and "pairs" not in printed(found)
    page = parse(render_heatmap(found))
    assert not any(tag == "svg" for tag, _ in page.elements) and "How far each expert moved" in page.text


def test_incompatible_models_are_the_answer(refused):
    assert set(refused.incompatible) == {"other", "whisper"} and not refused.compatible
    assert refused.overall is None and refused.groups == ()
    text = printed(refused, 400)
    assert text.startswith("These models can't be merged\n") and "num_attention_heads" in text and "whisper" in text
    page = parse(render_heatmap(refused))
    assert "num_attention_heads" in page.text and "How far" not in page.text


def test_run_writes_what_it_is_asked_for(embedded, altered, tmp_path):
    base = embedded("whisper")
    experts = {
        name: str(altered(base.folder, name, lambda tensors, sign=sign: {
            key: value + sign * torch.full_like(value, 0.01) for key, value in tensors.items()
        }).folder)
        for name, sign in (("up", 1), ("down", -1))
    }  # fmt: skip
    html, figures = tmp_path / "out" / "page.html", tmp_path / "out" / "figures.json"
    found = run_inspection("embedded:whisper", experts, html, figures)
    assert Inspection.model_validate_json(figures.read_text("utf-8")) == found
    assert parse(html.read_text("utf-8")).text.count("up") > 2
    assert found.overall.cosines[0][1] == pytest.approx(-1, abs=0.01) and found.overall.conflicts[0][1] > 0.95
    assert run_inspection("embedded:whisper", experts) == found
