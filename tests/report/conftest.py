"""One rendered report, one browser, and the rule that both keep to: nothing in the console, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from devtools import Browser
from report_sample import report_data

from asrmerge.report import ReportData, audio_links, render_report
from asrmerge.report.utterances import AlignedUtterance, align_utterances
from asrmerge.speech.audio import write_audio


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the report lies."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="package")
def shown(folder: Path) -> ReportData:
    """The sample, with audio beside the report for one utterance, a part of its file."""
    found = report_data(utterances=30)
    first = found.hypotheses["base"]["legal"][0]
    write_audio(folder / "clips" / "a b.wav", np.zeros(32_000))
    spoken = replace(first, audio=folder / "clips" / "a b.wav", start=0.5, duration=1.0)
    return replace(found, audio=audio_links(folder, {"base": {"legal": [spoken]}}))


@pytest.fixture(scope="package")
def utterances(shown: ReportData) -> tuple[AlignedUtterance, ...]:
    return align_utterances(shown)


@pytest.fixture(scope="package")
def address(folder: Path, shown: ReportData) -> str:
    (folder / "report.html").write_text(render_report(shown), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture
def quiet(browser: Browser, folder: Path) -> Iterator[None]:
    """After every test: nothing in the console, and nothing asked for but files beside the report."""
    yield
    assert browser.problems == []
    assert browser.requests and all(url.startswith(("about:", "data:", folder.as_uri())) for url in browser.requests)
