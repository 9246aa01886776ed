"""The rest of the page in a real browser: choices of a reference, a figure and a part, confusions, theme, width, no scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from devtools import Browser
from report_page import BASE, in_browser, listed
from test_report_html import hostile_data

from asrmerge.report import ReportData, render_report
from asrmerge.report.utterances import AlignedUtterance

pytestmark = in_browser


@pytest.mark.parametrize(("select", "group"), [("#reference", "reference"), ("#figure", "figure"), ("#term-domain", "terms")])
def test_a_choice_shows_its_part_alone(browser: Browser, address: str, select: str, group: str) -> None:
    browser.open(address)
    options = browser.run(f"[...document.querySelector('{select}').options].map((option) => option.value)")
    visible = (
        f"[...document.querySelectorAll('[data-part=\"{group}\"]')].filter((part) => part.getBoundingClientRect().height > 0)"
        ".map((part) => part.dataset.choice)"
    )
    assert len(options) > 3 and browser.run(visible) == options[:1]
    for option in options:
        browser.choose(select, option)
        assert browser.run(visible) == [option]


def test_every_reference_has_its_p_values(browser: Browser, address: str, shown: ReportData) -> None:
    browser.open(address + "#reference=expert-legal")
    cells = browser.run("[...document.querySelectorAll('[data-choice=\"expert-legal\"] tbody tr')].map((row) => "
                        "[...row.children].map((cell) => cell.textContent))")  # fmt: skip
    assert [row[0] for row in cells] == [
        "Conversation",
        "Technical",
        "Medical",
        "Legal",
        "General",
        "Macro average",
        "Worst domain",
    ]
    found = {item.domain: item for item in shown.scorecard.comparisons if item.reference == "expert-legal"}
    assert all(re.fullmatch(r"< 0\.001|[01]\.\d{2,3}", row[5]) for row in cells[:5])
    assert float(cells[2][5].removeprefix("< ")) == pytest.approx(found["medical"].p_holm, abs=5e-4)


def test_slices_are_compared(browser: Browser, address: str, shown: ReportData) -> None:
    browser.open(address + "#slice-domain=legal&slice-by=accent&slice-model=uniform")
    rows = browser.run(
        "[...document.querySelectorAll('#slices tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    ours, others = (shown.scorecard.models[name].domains["legal"].slices["accent"] for name in ("merged", "uniform"))
    assert [row[0] for row in rows] == list(ours)
    for row in rows:
        one, other = ours[row[0]], others[row[0]]
        assert row[3].startswith(f"{100 * one.wer:.1f}") and row[4].startswith(f"{100 * other.wer:.1f}")
        assert row[5].replace("−", "-") == f"{100 * (one.wer - other.wer):+.1f}"
    browser.choose("#slice-sort", "rate")
    sorted_rows = browser.run("[...document.querySelectorAll('#slices tbody th')].map((cell) => cell.textContent)")
    assert sorted_rows == sorted(ours, key=lambda name: -ours[name].wer)


def test_confusions_lead_to_their_utterances(browser: Browser, address: str, utterances: tuple[AlignedUtterance, ...]) -> None:
    browser.open(address + "#confusion-domain=legal&confusion-model=base")
    count = {
        name: sum(pair.kind == name for item in utterances if item.domain == "legal" for pair in item.alignments[BASE])
        for name in ("substitution", "deletion", "insertion")
    }
    captions = browser.run("[...document.querySelectorAll('#confusions caption')].map((node) => node.textContent)")
    assert captions == [f"{number} {name}s" for name, number in count.items()]
    times = browser.run("document.querySelector('#confusions .substitutions tbody .number').textContent")
    said, heard = browser.run("document.querySelector('#confusions .substitutions button').textContent").split(" → ")
    browser.run("document.querySelector('#confusions .substitutions button').click()")
    expected = {
        item.identifier: sum((pair.reference, pair.hypothesis) == (said, heard) for pair in item.alignments[BASE])
        for item in utterances
        if item.domain == "legal"
    }
    assert set(listed(browser)) == {name for name, number in expected.items() if number} and sum(expected.values()) == int(times)
    assert browser.run("[document.querySelector('#domain').value, document.querySelector('#model').value]") == ["legal", "base"]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_and_width(browser: Browser, address: str, scheme: str, width: int) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(address + "#beside=base&counts=1", width=width)
    light = "parseInt(getComputedStyle(document.body).backgroundColor.slice(4), 10) > 128"
    assert browser.run(light) is (scheme == "light")
    seen = []
    for _ in range(3):
        browser.run("document.querySelector('#theme').click()")
        seen.append((browser.run("document.querySelector('#theme-name').textContent"), browser.run(light)))
    assert seen == [("Light", True), ("Dark", False), ("Auto", scheme == "light")]
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
        "the page scrolls sideways"
    )
    assert browser.run("getComputedStyle(document.querySelector('.heat .edits')).display") == "block"


def test_hostile_text_runs_nothing(browser: Browser, folder: Path) -> None:
    (folder / "hostile.html").write_text(render_report(hostile_data()), encoding="utf-8")
    browser.open((folder / "hostile.html").as_uri() + "#show=all&open=1")
    assert browser.run(
        "[document.querySelectorAll('img, iframe, object').length, document.querySelectorAll('script').length]"
    ) == [0, 2]
    assert "onerror" in browser.run("document.querySelector('#list').textContent")


def test_without_scripts_everything_that_matters_is_there(browser: Browser, address: str) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    text = browser.run("document.body.innerText")
    for wanted in (
        "Term recall, %",
        "most frequent errors of the merged model",
        "The worst utterances",
        "against Uniform average",
    ):
        assert wanted in text
    assert "Sort by" not in text


@pytest.mark.parametrize(("width", "kind"), [(1280, "wide"), (400, "narrow")])
def test_merges_beside_their_experts_have_a_chart_of_the_page_s_width(
    browser: Browser, address: str, width: int, kind: str
) -> None:
    browser.open(address, width=width)
    visible = browser.run(
        "[...document.querySelectorAll('.diagnosis svg')].filter((one) => one.getBoundingClientRect().width > 0)"
        ".map((one) => one.parentElement.className)"
    )
    assert visible == [kind, kind]
    assert browser.run("document.documentElement.scrollWidth") <= width
