"""The page in a real browser: no errors, and search, filters, comparison and theme do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_sample import report_data
from test_report_html import hostile_data

from asrmerge.report import ReportData, render_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
    "--dump-dom",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH: apt-get install chromium")

PROBE = """<script>
const at = (selector) => document.querySelector(selector);
const rows = () => document.querySelectorAll("#list > li");
const set = (selector, value, event) => { at(selector).value = value; at(selector).dispatchEvent(new Event(event)); };
const wait = (time) => new Promise((done) => setTimeout(done, time));
(async () => {
  const seen = {};
  seen.first = rows().length;
  at("#more").click();
  seen.more = rows().length;
  seen.focused = document.activeElement === rows()[seen.first];
  set("#domain", "*", "change"); set("#show", "all", "change"); set("#query", "THE", "input"); await wait(200);
  seen.found = at("#status").textContent;
  seen.marked = document.querySelectorAll("#list mark").length > 0;
  seen.hash = location.hash;
  set("#query", "zzz", "input"); await wait(200);
  seen.nothing = rows()[0].textContent;
  set("#query", "", "input"); await wait(200);
  set("#sort", "gain-base", "change");
  rows()[0].querySelector("details").open = true; await wait(100);
  seen.others = document.querySelectorAll("#list .others > div").length;
  seen.counted = [...rows()].every((row) => {
    const wrong = row.querySelectorAll(":scope > .alignment .pair:not(.equal)").length;
    return wrong === parseInt(row.querySelector(".meta b").textContent, 10);
  });
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true }));
  seen.slash = document.activeElement.id;
  at("#theme").click();
  seen.theme = document.documentElement.dataset.theme;
  at("#counts").click();
  seen.edits = getComputedStyle(at(".heat .edits")).display;
  seen.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
  document.body.dataset.seen = JSON.stringify(seen);
})();
</script></body>"""


def load(folder: Path, html: str, state: str = "", *flags: str) -> str:
    """The page's DOM after its scripts ran; fails on anything in the console."""
    (folder / "report.html").write_text(html, encoding="utf-8")
    address = (folder / "report.html").as_uri() + state
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, *flags, profile, address], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data(utterances=30)


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render_report(data)


def test_loads_without_errors_and_shows_the_worst_utterances(tmp_path: Path, html: str) -> None:
    dom = load(tmp_path, html)
    assert 'class="js"' in dom
    assert len(re.findall(r'<details class="">|<details>', dom.split('id="list"')[1].split("</ol>")[0])) == 8


def test_the_address_keeps_filters_and_theme(tmp_path: Path, html: str, data: ReportData) -> None:
    said = [item.text for items in data.hypotheses["base"].values() for item in items if "landlord" in item.text]
    dom = load(tmp_path, html, "#domain=*&show=all&model=base&query=landlord&theme=dark")
    status = re.search(r'id="status"[^>]*>([^<]*)<', dom)
    assert status and f"in {len(said)} utterance" in status.group(1) and status.group(1).startswith("Base: ")
    assert 'data-theme="dark"' in dom


@pytest.mark.parametrize("width", [390, 1280])
def test_controls_do_what_they_say(tmp_path: Path, html: str, data: ReportData, width: int) -> None:
    dom = load(tmp_path, html.replace("</body>", PROBE), "", f"--window-size={width},900")
    found = re.search(r"data-seen=\"([^\"]*)\"", dom)
    assert found, "the probe did not finish"
    seen = json.loads(found.group(1).replace("&quot;", '"').replace("&amp;", "&"))
    assert (seen["first"], seen["more"], seen["focused"]) == (8, 28, True)
    assert re.match(r"Merged: \d+ errors in \d+ utterances", seen["found"]) and seen["marked"]
    assert "query=THE" in seen["hash"] and "show=all" in seen["hash"]
    assert seen["nothing"].startswith("Nothing matches")
    assert seen["others"] == len(data.models) - 1 and seen["counted"]
    assert (seen["slash"], seen["theme"], seen["edits"]) == ("query", "light", "block")
    assert seen["wide"], "the page scrolls sideways"


def test_hostile_text_runs_nothing(tmp_path: Path) -> None:
    dom = load(tmp_path, render_report(hostile_data()), "#show=all")
    assert "<img" not in dom and 'id="list"' in dom
