"""The HTML file: well formed, offline, safe, reproducible, and true to the scorecard."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from markupsafe import escape
from report_sample import DOMAINS, FAILED, LOOPING, MODELS, SILENT, TARGETS, report_data

from asrmerge.errors import ManifestError
from asrmerge.evaluation.counts import align
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.phrases import Phrases
from asrmerge.evaluation.scorecard import build_scorecard
from asrmerge.report import (
    CurvePoint,
    ReportData,
    ReportModel,
    SearchHistory,
    SearchTrial,
    markdown_table,
    render_report,
    write_report,
)
from asrmerge.report.digests import digests
from asrmerge.report.forest import differences, usual
from asrmerge.report.metric_tables import figure_tables
from asrmerge.report.numbers import probability
from asrmerge.report.packing import browser_data, pack
from asrmerge.report.significance import marks
from asrmerge.report.svg import spread, ticks
from asrmerge.report.term_errors import said_terms, term_digests
from asrmerge.report.utterances import align_utterances, failed_utterances

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Checks that elements are balanced; collects elements, table cells and scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}: {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data(utterances=30)


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render_report(data)


def test_is_well_formed(html: str) -> None:
    page = parse(html)
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    labels = {name for _, attributes in page.elements for name in (attributes.get("aria-labelledby") or "").split()}
    assert labels <= set(identifiers)


def test_needs_no_network(html: str) -> None:
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    assert not any({"src", "srcset"} & attributes.keys() or tag in ("link", "iframe") for tag, attributes in parse(html).elements)
    assert "default-src 'none'" in html


def test_same_data_same_bytes(data: ReportData, html: str, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report_data(utterances=30))
    assert (tmp_path / "report.html").read_bytes() == html.encode()


def table_cells(html: str) -> list[list[str]]:
    table = re.search(r'<table class="heat".*?</tbody>', html, re.DOTALL)
    assert table
    rows = re.findall(r"<tr.*?</tr>", table.group(), re.DOTALL)[1:]
    return [re.findall(r"<b>(.*?)</b>|<span class=\"interval\">([\d.–]+)</span>", row) for row in rows]  # type: ignore[misc]


def test_the_table_s_figures_are_the_scorecard_s(data: ReportData, html: str) -> None:
    for model, cells in zip(MODELS, table_cells(html), strict=True):
        score = data.scorecard.models[model.name]
        wanted = []
        for domain in (*TARGETS, None, "general"):
            rate, (low, high) = (
                (score.macro_wer, score.macro_ci) if domain is None else (score.domains[domain].wer, score.domains[domain].ci)
            )
            wanted += [f"{100 * rate:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"]
        kept = score.domains["general"].retention
        assert kept is not None and kept.value is not None and kept.ci is not None
        wanted += [f"{100 * kept.value:.1f}", f"{100 * kept.ci[0]:.1f}–{100 * kept.ci[1]:.1f}"]
        assert ["".join(cell) for cell in cells] == wanted
    counts = data.scorecard.models["merged"].domains["legal"]
    assert f"S {counts.substitutions} · D {counts.deletions} · I {counts.insertions}" in html


def count_best(data: ReportData) -> int:
    """Marks due: one a column, more where models tie."""
    models = data.scorecard.models.values()
    columns = [[model.domains[domain].wer for model in models] for domain in DOMAINS] + [[model.macro_wer for model in models]]
    return sum(column.count(min(column)) for column in columns)


def test_the_best_of_each_column_is_marked(data: ReportData, html: str) -> None:
    table = html.split('id="wer-table"')[1].split("</table>")[0]
    assert table.count('class="star"') == count_best(data)
    ties = replace(data, models=(ReportModel("merged", "merged"),), hypotheses={})
    assert 'class="star"' not in render_report(ties)


def test_signs_are_the_corrected_p_values(data: ReportData, html: str) -> None:
    found = marks(data)
    table = html.split('id="wer-table"')[1].split("</table>")[0]
    for mark, sign in (("better", "✓"), ("worse", "✗"), ("open", "≈")):
        assert table.count(f">{sign}</span>") == sum(one == mark for one in found.values()) > 0
    for item in data.scorecard.comparisons:
        expected = "open" if item.p_holm >= 0.05 else "better" if item.difference < 0 else "worse"
        assert found[item.reference, item.domain] == expected
    assert not any(model == "merged" for model, _ in found)
    assert marks(replace(data, candidate="base")) == {}


HOSTILE = '<script>alert("1")</script> </script><img src=x onerror=alert(1)> & "quoted" {{ 7 * 7 }} <!-- \ud800'


def hostile_data() -> ReportData:
    heard = {
        name: {HOSTILE: [Hypothesis(HOSTILE, Path("a.wav"), 1.0, "said so", HOSTILE, HOSTILE, HOSTILE)]}
        for name in ("base", HOSTILE)
    }
    card = build_scorecard(heard, normalizer="none", targets=[HOSTILE], candidate=HOSTILE, seed=0, samples=10)
    trial = SearchTrial(0, HOSTILE, {HOSTILE: 1.0}, {HOSTILE: 0.1}, 0.1)
    return ReportData(
        title=HOSTILE,
        family=HOSTILE,
        base=HOSTILE,
        scorecard=card,
        models=(ReportModel("base", "base"), ReportModel(HOSTILE, "merged", label=HOSTILE)),
        general=HOSTILE,
        hypotheses=heard,
        search=SearchHistory(
            (trial,),
            0,
            (CurvePoint(0, {HOSTILE: 0.2}, 0.2), CurvePoint(1, {HOSTILE: 0.3}, 0.3)),
            {HOSTILE: 0.2},
            (HOSTILE,),
        ),
    )


def test_hostile_text_stays_text() -> None:
    html = render_report(hostile_data())
    page = parse(html)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.elements)
    assert "{{ 7 * 7 }}" in html and "onerror=alert" in html
    assert json.loads("".join(page.text["script"]).split('\n"use strict"')[0])["utterances"][0][4] == "said so"


def test_parts_without_data_are_left_out(data: ReportData) -> None:
    bare = ReportData("t", "ctc", "tiny", data.scorecard, (ReportModel("base"),))
    html = render_report(bare)
    page = parse(html)
    headings = [text for text in page.text["h2"] if text.strip()]
    assert headings == ["Word error rate by model and domain", "Where each model stands", "Every figure", "How it was made"]


def test_what_the_search_found_stands_beside_its_charts(data: ReportData, html: str) -> None:
    assert data.search is not None and len(data.search.findings) == 2
    assert all(f"<li>{finding}</li>" in html for finding in data.search.findings)
    assert "About the search" not in render_report(replace(data, search=replace(data.search, findings=())))


def test_one_trial_and_failed_candidates_can_be_drawn(data: ReportData) -> None:
    trial = SearchTrial(0, "base", {}, {}, 0.0, feasible=False)
    html = render_report(replace(data, search=SearchHistory((trial,), failed=2), recipe=None))
    parse(html)
    assert "2 more failed" in html and "Weights in the merge" not in html


def test_negative_and_zero_weights_are_drawn(data: ReportData) -> None:
    assert data.recipe is not None
    inputs = tuple(replace(item, weight=weight) for item, weight in zip(data.recipe.inputs, (None, -0.2, 0, 0.5, 1), strict=True))
    html = render_report(replace(data, recipe=replace(data.recipe, inputs=inputs)))
    assert "−0.20</text>" in html and "0.00</text>" in html
    assert not re.search(r'(width|height|r)="-', html)


def test_utterances_are_packed_without_loss(data: ReportData) -> None:
    assert pack(align("a b c d e", "a x c c d")) == [1, "~x", 1, "+c", 1, -1]
    assert pack(align("a b", "")) == [-2] and pack(align("", "uh")) == ["+uh"]
    assert len(align_utterances(data)) == 30 * len(DOMAINS) - 1  # one has failed
    assert align_utterances(replace(data, hypotheses={})) == ()
    assert failed_utterances(replace(data, hypotheses={})) == ()


def test_alignments_add_up_to_the_scorecard(data: ReportData) -> None:
    utterances = align_utterances(data)
    for place, model in enumerate(data.models):
        for domain in data.domains:
            score = data.scorecard.models[model.name].domains[domain]
            errors = sum(item.errors(place) for item in utterances if item.domain == domain)
            assert errors == score.substitutions + score.deletions + score.insertions


def test_the_worst_utterances_come_first(data: ReportData) -> None:
    for digest in digests(data, align_utterances(data)):
        errors = [item.errors(6) for item in digest.worst]
        assert len(errors) == 5 and errors == sorted(errors, reverse=True) and errors[-1] > 0
        assert digest.confusions[0].count == max(item.count for item in digest.confusions)


def test_utterances_of_different_numbers_are_refused(data: ReportData) -> None:
    shorter = {**data.hypotheses, "base": {**data.hypotheses["base"], "legal": data.hypotheses["base"]["legal"][1:]}}
    with pytest.raises(ManifestError, match="different numbers of utterances on 'legal'"):
        render_report(replace(data, hypotheses=shorter))


def test_differences_are_shown_for_what_was_compared(data: ReportData) -> None:
    found = differences(data)
    assert [item.reference.name for item in found] == [model.name for model in MODELS if model.name != "merged"]
    assert [item.reference.role for item in usual(data, found)] == ["uniform", "expert", "base", "joint"]
    assert [row.title for row in found[0].rows] == [*map(str.capitalize, DOMAINS), "Macro average", "Worst domain"]
    assert differences(replace(data, models=data.models[:1])) == ()


def test_a_difference_s_tip_says_all_that_is_known_of_it(data: ReportData, html: str) -> None:
    item = next(one for one in data.scorecard.comparisons if (one.reference, one.domain) == ("uniform", "medical"))
    assert item.detectable is not None
    tip = next(one for one in differences(data) if one.reference.name == "uniform").rows[2].tip
    mapsswe = item.tests["mapsswe"]
    for value in (item.p_value, item.p_holm, mapsswe.p_value, mapsswe.p_holm):
        assert probability(value) in tip
    assert tip.endswith(f"detectable from {100 * item.detectable:.1f} points on")
    assert html.count(str(escape(tip))) == 8  # tip and title, in two sizes, alone and beside the others


def test_markdown_shows_the_same_table(data: ReportData) -> None:
    lines = markdown_table(data.scorecard, data.models).splitlines()
    assert lines[0] == "| Model | Conversation | Technical | Medical | Legal | Macro average | General |"
    merged = data.scorecard.models["merged"]
    row = next(line for line in lines if line.startswith("| Merged "))
    assert f"{100 * merged.domains['legal'].wer:.1f} (" in row and f"| {100 * merged.macro_wer:.1f} |" in row
    assert sum(line.count("**") for line in lines) == 2 * count_best(data)
    plain = markdown_table(data.scorecard, (ReportModel("base", label="a|b"),), intervals=False)
    assert "a\\|b" in plain and "–" not in plain
    assert len(markdown_table(data.scorecard).splitlines()) == len(MODELS) + 4


def test_labels_keep_apart_and_ticks_are_round() -> None:
    placed = spread([10, 11, 12, 90], 16, 0, 100)
    assert all(later - earlier >= 16 for earlier, later in pairwise(placed)) and placed[-1] <= 100
    assert ticks(0, 47, 5) == [0, 10, 20, 30, 40] and ticks(1, 1) == [1]


def test_terms_are_counted_as_the_metric_counts_them(data: ReportData) -> None:
    found = term_digests(data, align_utterances(data))
    assert [digest.domain for digest in found] == list(TARGETS)
    for digest in found:
        recall = data.scorecard.models["merged"].domains[digest.domain].metrics["term_recall"].value
        assert digest.recognised / digest.said == recall != 1.0
        shares = [term.recognised - term.said for term in digest.missed]
        assert shares == sorted(shares) and all(share < 0 for share in shares)
        assert all(sum(count for _, count in term.heard) <= term.said - term.recognised for term in digest.missed)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the load balancer failed", "the load balancer failed", [("load balancer", True, "load balancer")]),
        ("the load balancer failed", "the low balancer failed", [("load balancer", False, "low balancer")]),
        ("the load balancer failed", "the load uh balancer failed", [("load balancer", False, "load uh balancer")]),
        ("the load balancer failed", "the failed", [("load balancer", False, "")]),
        ("nothing to find", "load balancer to find", []),
        ("load and load balancer", "load and balancer", [("load", True, "load"), ("load balancer", False, "balancer")]),
    ],
)
def test_terms_and_what_stands_in_their_place(reference: str, hypothesis: str, expected: list[tuple[str, bool, str]]) -> None:
    found = said_terms(align(reference, hypothesis), Phrases.of(["load balancer", "load"]))
    assert [(term.phrase, term.recognised, term.heard) for term in found] == expected


def test_every_figure_of_the_scorecard_is_in_a_table(data: ReportData, html: str) -> None:
    tables = {table.name: table for table in figure_tables(data)}
    wanted = {"summary", "wer", *data.scorecard.metrics, "gap_closed", "rtfx", "failed", "repeat_loops", "text_on_silence"}
    assert tables.keys() == wanted
    for name, table in tables.items():
        assert f'<option value="{name}">' in html and f'data-choice="{name}"' in html
        assert [model for model, _ in table.rows] == list(data.models)
    place = MODELS.index(next(model for model in MODELS if model.name == "merged"))
    cells = dict(zip(tables["cer"].columns, tables["cer"].rows[place][1], strict=True))
    figure = data.scorecard.models["merged"].domains["legal"].metrics["cer"]
    assert figure.value is not None and figure.ci is not None and cells["Legal"] is not None
    assert (cells["Legal"].text, cells["Legal"].note) == (
        f"{100 * figure.value:.1f}",
        f"{100 * figure.ci[0]:.1f} – {100 * figure.ci[1]:.1f}",
    )
    best = [cell.text for _, (cell, *_) in tables["term_recall"].rows if cell and cell.best]
    recalls = [data.scorecard.models[model.name].domains["conversation"].metrics["term_recall"].value for model in MODELS]
    assert set(best) == {f"{100 * max(value for value in recalls if value is not None):.1f}"}
    assert "General" not in tables["term_recall"].columns  # which has no terms


def test_what_went_wrong_is_counted_and_marked(data: ReportData) -> None:
    packed = browser_data(data, align_utterances(data), failed_utterances(data))
    rows = {row[1]: row[6] for row in packed["utterances"] if len(row) > 6}  # type: ignore[attr-defined]
    merged = [model.name for model in data.models].index("merged")
    assert rows[f"conversation-{LOOPING:04d}"]["loops"] == {merged: "so we went on (6×)"}
    assert rows[f"conversation-{SILENT:04d}"]["silence"] == (merged,)
    assert [row[1] for row in packed["failed"]] == [f"conversation-{FAILED:04d}"]  # type: ignore[attr-defined]
    assert packed["failed"][0][5]["reasons"] == {0: "0007.wav: the audio cannot be decoded"}  # type: ignore[index]
    score = data.scorecard.models["merged"].domains["conversation"]
    assert (score.failed, score.repeat_loops, score.text_on_silence) == (1, 1, 1)


def test_gates_stand_near_the_top(data: ReportData, html: str) -> None:
    failed = sum(not result.passed for result in data.gates)
    assert 0 < failed < len(data.gates) and f"{failed} of 3 gates failed" in html
    assert html.count("✗ FAILED") == failed and html.index("gates failed") < html.index('id="wer-table"')
    passed = tuple(result for result in data.gates if result.passed)
    assert "All gates passed" in render_report(replace(data, gates=passed, hypotheses={}))
    assert "gates" not in re.sub(
        r"<style>.*?</style>", "", render_report(replace(data, gates=(), hypotheses={})), flags=re.DOTALL
    )


def test_slices_are_those_of_the_scorecard(data: ReportData) -> None:
    slices = browser_data(data, (), ())["slices"]
    legal = data.scorecard.models["base"].domains["legal"].slices["accent"]
    assert [row[:3] for row in slices[3]["accent"]] == [[name, one.utterances, one.words] for name, one in legal.items()]  # type: ignore[index]
    assert [row[3][0][0] for row in slices[3]["accent"]] == [one.errors for one in legal.values()]  # type: ignore[index]


def test_models_that_are_no_merge_read_well(data: ReportData) -> None:
    systems = tuple(ReportModel(name) for name in ("base", "merged", "joint"))
    html = render_report(
        replace(data, models=systems, family=None, base="", candidate="merged", search=None, recipe=None, gates=())
    )
    parse(html)
    assert "merge" not in html.split("</header>")[0].split("<body>")[1].replace("merged", "")
    assert "<span>None</span>" not in html and "<span></span>" not in html and "<dt>Base</dt>" not in html
    assert "merged is better than base and worse than joint" in html
    assert html.count("mark role-merged") == 1 + 2 * len(DOMAINS)  # the main model, in the table and in both sizes of the chart
