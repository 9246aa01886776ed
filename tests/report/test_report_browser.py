"""The list of utterances in a real browser: filters, order, search, keys, models side by side, audio, ten thousand of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from devtools import Browser
from report_page import BASE, IDS, MERGED, STATUS, UNIFORM, WAIT, in_browser, listed, search
from report_sample import FAILED, LOOPING, SILENT

from asrmerge.report import ReportData
from asrmerge.report.term_errors import term_digests
from asrmerge.report.utterances import AlignedUtterance

pytestmark = in_browser
Test = Callable[[AlignedUtterance], bool]


def kind(name: str) -> Test:
    return lambda item: any(pair.kind == name for pair in item.alignments[MERGED])


@pytest.mark.parametrize(
    ("show", "test"),
    [
        ("all", lambda item: True),
        ("wrong", lambda item: item.errors(MERGED) > 0),
        ("right", lambda item: item.errors(MERGED) == 0),
        ("substitution", kind("substitution")),
        ("deletion", kind("deletion")),
        ("insertion", kind("insertion")),
        ("worse:base", lambda item: item.errors(MERGED) > item.errors(BASE)),
        ("better:base", lambda item: item.errors(MERGED) < item.errors(BASE)),
        ("loop", lambda item: MERGED in item.loops),
        ("silence", lambda item: MERGED in item.on_silence),
    ],
)
@pytest.mark.parametrize("domain", ["*", "conversation"])
def test_filters_by_domain_and_error(
    browser: Browser, address: str, utterances: tuple[AlignedUtterance, ...], domain: str, show: str, test: Test
) -> None:
    browser.open(address)
    browser.choose("#domain", domain)
    browser.choose("#show", show)
    expected = {item.identifier for item in utterances if domain in ("*", item.domain) and test(item)}
    found = listed(browser)
    assert (expected or domain != "*") and set(found) == expected and len(found) == len(expected)
    errors = sum(item.errors(MERGED) for item in utterances if item.identifier in expected)
    assert (
        browser.run(STATUS)
        == f"Merged: {errors} error{'s' * (errors != 1)} in {len(expected)} utterance{'s' * (len(expected) != 1)}"
    )


def test_filters_missed_terms_and_what_was_not_transcribed(
    browser: Browser, address: str, shown: ReportData, utterances: tuple[AlignedUtterance, ...]
) -> None:
    browser.open(address + "#domain=medical&show=missed")
    digest = next(found for found in term_digests(shown, utterances) if found.domain == "medical")
    assert 0 < len(listed(browser)) <= digest.said - digest.recognised
    browser.choose("#domain", "*")
    browser.choose("#show", "failed")
    assert listed(browser) == [f"conversation-{FAILED:04d}"] and browser.run(STATUS) == "1 utterance"
    text = browser.run("document.querySelector('#list').textContent")
    assert "not transcribed" in text and "Base: 0007.wav: the audio cannot be decoded" in text


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("errors", lambda item: (-item.errors(MERGED), -item.wer(MERGED))),
        ("rate", lambda item: -item.wer(MERGED)),
        ("length", lambda item: -item.duration),
        ("words", lambda item: -len(item.reference.split())),
        ("order", lambda item: 0),
        ("gain:base", lambda item: item.errors(MERGED) - item.errors(BASE)),
        ("loss:base", lambda item: item.errors(BASE) - item.errors(MERGED)),
    ],
)
def test_sorts(
    browser: Browser, address: str, utterances: tuple[AlignedUtterance, ...], sort: str, key: Callable[[AlignedUtterance], object]
) -> None:
    browser.open(address + f"#domain=*&show=all&sort={sort}")
    expected = sorted(utterances, key=key)  # type: ignore[arg-type]
    assert listed(browser) == [item.identifier for item in expected]


@pytest.mark.parametrize(
    ("query", "test"),
    [
        ("LANDLORD", lambda item: "landlord" in item.reference or any(
            "landlord" in (pair.hypothesis or "") for pair in item.alignments[MERGED])),
        ("voice-03", lambda item: item.speaker == "voice-03"),
        ("legal-0004", lambda item: item.identifier == "legal-0004"),
        ("the > a", lambda item: any((pair.reference, pair.hypothesis) == ("the", "a") for pair in item.alignments[MERGED])),
        ("the >", lambda item: any((pair.reference, pair.hypothesis) == ("the", None) for pair in item.alignments[MERGED])),
        ("> a", lambda item: any((pair.reference, pair.hypothesis) == (None, "a") for pair in item.alignments[MERGED])),
    ],
)  # fmt: skip
def test_searches(browser: Browser, address: str, utterances: tuple[AlignedUtterance, ...], query: str, test: Test) -> None:
    browser.open(address + "#domain=*&show=all")
    search(browser, query)
    expected = {item.identifier for item in utterances if test(item)}
    assert expected and set(listed(browser)) == expected
    search(browser, "zzz")
    assert browser.run("document.querySelector('#list').textContent").startswith("Nothing matches")
    search(browser, "")
    assert len(listed(browser)) == len(utterances)


def test_the_address_keeps_every_choice(browser: Browser, address: str) -> None:
    browser.open(address)
    choices = {
        "#domain": "legal",
        "#model": "joint",
        "#show": "all",
        "#sort": "order",
        "#reference": "base",
        "#figure": "cer",
        "#term-domain": "legal",
        "#slice-by": "accent",
        "#confusion-model": "base",
    }
    for selector, value in choices.items():
        browser.choose(selector, value)
    search(browser, "the")
    browser.run("[...document.querySelectorAll('#beside input')].slice(0, 2).forEach((box) => box.click())")
    state = browser.run("location.hash")
    read = f"[...document.querySelectorAll('select')].map((node) => node.value).concat({IDS}.slice(0, 8), {STATUS})"
    before = browser.run(read)
    browser.open(address + state)
    assert browser.run(read) == before
    assert browser.run("[...document.querySelectorAll('#beside input:checked')].map((box) => box.parentElement.textContent)") == [
        "Base",
        "Conversation expert",
    ]
    assert browser.run("document.querySelector('#utterances').getBoundingClientRect().top") < 900


def test_keys_move_open_and_search(browser: Browser, address: str) -> None:
    browser.open(address)
    focused = "document.activeElement.item ? document.activeElement.item.id : document.activeElement.id"
    ids = listed(browser)
    browser.open(address)
    seen = []
    for key in ("j", "j", "ArrowDown", "k", "ArrowUp"):
        browser.press(key)
        seen.append(browser.run(focused))
    assert seen == [ids[0], ids[1], ids[2], ids[1], ids[0]]
    opened = "document.activeElement.querySelector('button.open').getAttribute('aria-expanded')"
    lines = "document.activeElement.querySelectorAll('.line:first-child .gutter span').length"
    assert (browser.run(opened), browser.run(lines)) == ("false", 2)
    browser.press("Enter")
    assert (browser.run(opened), browser.run(lines)) == ("true", 9)
    browser.press("Enter")
    assert (browser.run(opened), browser.run(lines)) == ("false", 2)
    for _ in range(10):  # beyond the first page
        browser.press("j")
    assert browser.run(focused) == ids[10]
    browser.press("/")
    for letter in "jk":
        browser.press(letter)
    browser.run(WAIT)
    assert browser.run("[document.activeElement.id, document.activeElement.value]") == ["query", "jk"]
    search(browser, "the")
    browser.press("Escape")
    assert browser.run(focused) == browser.run(IDS)[0]
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "open"


def test_models_stand_side_by_side(browser: Browser, address: str, utterances: tuple[AlignedUtterance, ...]) -> None:
    browser.open(address + "#domain=*&show=all&sort=order&beside=base&beside=uniform")
    by_id = {item.identifier: item for item in utterances}
    rows = browser.run("""[...document.querySelectorAll('#list > li')].map((row) => ({
        id: row.item.id,
        names: [...row.querySelectorAll('.line:first-child .gutter span')].map((node) => node.textContent),
        kinds: [1, 2, 3].map((place) => [...row.querySelectorAll('.pair')].map((pair) => pair.children[place])
            .filter((cell) => /substitution|deletion|insertion/.test(cell.className)).length),
        said: [...row.querySelectorAll('.said')].map((node) => node.textContent).filter((word) => word !== '·').join(' '),
        wide: row.querySelector('.alignment').scrollWidth - row.querySelector('.alignment').clientWidth,
        labelled: [...row.querySelectorAll('.heard.substitution')].every((cell) => cell.title.endsWith(': substitution')),
    }))""")
    assert len(rows) == 8
    for row in rows:
        item = by_id[row["id"]]
        assert row["names"] == ["said", "Merged", "Base", "Uniform average"]
        assert row["kinds"] == [item.errors(model) for model in (MERGED, BASE, UNIFORM)]
        assert (row["said"], row["wide"], row["labelled"]) == (item.reference, 0, True)
    browser.run("[...document.querySelectorAll('#beside input')].at(-1).click()")  # all
    assert browser.run("document.querySelectorAll('#list .line:first-child')[0].querySelectorAll('.gutter span').length") == 9


def test_what_went_wrong_is_marked(browser: Browser, address: str) -> None:
    browser.open(address + "#show=all&sort=order")
    listed(browser)
    marked = browser.run("Object.fromEntries([...document.querySelectorAll('#list > li')].map((row) => [row.item.id, "
                         "[...row.querySelectorAll('.trouble')].map((node) => node.textContent).join()]))")  # fmt: skip
    assert "⚠ over and over: so we went on (6×)" in marked[f"conversation-{LOOPING:04d}"]
    assert marked[f"conversation-{SILENT:04d}"] == "⚠ text on silence"


def test_audio_beside_the_report_plays_just_the_utterance(browser: Browser, address: str, folder: Path) -> None:
    browser.open(address + "#domain=legal&show=all&sort=order&open=1")
    attributes = "[node.controls, node.preload, node.getAttribute('src')]"
    players = browser.run(f"[...document.querySelectorAll('audio')].map((node) => {attributes})")
    assert players == [[True, "none", "clips/a%20b.wav#t=0.5,1.5"]]
    browser.press("p")
    assert browser.run("document.querySelector('audio').paused") is False
    heard = """(async () => {
        const node = document.querySelector('audio');
        await node.play();
        return [node.currentTime >= 0.5, node.duration];
    })()"""
    assert browser.run(heard) == [True, 2.0]
    assert (folder / "clips" / "a b.wav").as_uri() in {url.partition("#")[0] for url in browser.requests}
    browser.run("document.querySelectorAll('#list > li button.open')[1].click()")
    assert browser.run("document.querySelectorAll('audio').length") == 1  # the second has none


def test_a_long_recording_is_drawn_whole_only_when_opened(browser: Browser, folder: Path, address: str) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    words = 4000
    row = [0, "talk", None, 1800.0, " ".join(f"word{number}" for number in range(words)), [[3000, "~heard", words - 3001]] * 8]
    text = re.sub(r'"utterances":\[.*?\],"failed"', lambda _: f'"utterances":[{json.dumps(row)}],"failed"', html, flags=re.DOTALL)
    (folder / "long.html").write_text(text, encoding="utf-8")
    browser.open((folder / "long.html").as_uri() + "#show=all&domain=*")
    read = "[document.querySelectorAll('#list .pair').length, document.querySelectorAll('#list .substitution').length]"
    left_out = "[...document.querySelectorAll('#list .left-out')].map((node) => node.textContent)"
    assert browser.run(read) == [150, 1]
    assert browser.run(left_out) == ["… 2,980 words before: open to see all", "… 870 words after: open to see all"]
    browser.run("document.querySelector('#list button.open').click()")
    assert (browser.run(read), browser.run(left_out)) == ([words, 8], [])


def test_ten_thousand_utterances_stay_fluid(browser: Browser, folder: Path, address: str) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    packed = re.search(r'(<script type="application/json" id="data">)(.*?)(</script>)', html, re.DOTALL)
    assert packed
    content = json.loads(packed.group(2))
    rows = content["utterances"]
    content["utterances"] = [
        [*row[:1], f"{row[1]}-{number}", *row[2:]] for number in range(10_000 // len(rows) + 1) for row in rows
    ]
    text = json.dumps(content).replace("<", "\\u003c")
    (folder / "large.html").write_text(html[: packed.start(2)] + text + html[packed.end(2) :], encoding="utf-8")
    browser.open((folder / "large.html").as_uri() + "#domain=*&show=all")
    took = browser.run("""(async () => {
        const query = document.querySelector("#query"), took = [];
        for (const text of ["t", "th", "the", "the > a"]) {
            query.value = text;
            query.dispatchEvent(new Event("input"));
            const before = document.querySelector("#status").textContent;
            const start = performance.now();
            while (document.querySelector("#status").textContent === before && performance.now() - start < 3000) {
                await new Promise((done) => setTimeout(done, 5));
            }
            took.push(performance.now() - start - 80);
        }
        return took;
    })()""")
    assert int(browser.run(STATUS).split(" in ")[1].split()[0].replace(",", "")) > 100
    assert browser.run("document.querySelectorAll('#list > li').length") <= 20  # no more is drawn than is looked at
    assert sorted(took)[1] < 1000, f"a key takes {took} ms"  # far above what it takes, so that a busy machine passes
