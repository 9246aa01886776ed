"""What tests of the page read from it and do to it."""

from __future__ import annotations

import json

import pytest
from devtools import CHROMIUM, Browser

in_browser = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on PATH: apt-get install chromium"),
    pytest.mark.usefixtures("quiet"),
]
MERGED, BASE, UNIFORM = 6, 0, 5  # their places among the sample's models
IDS = "[...document.querySelectorAll('#list > li')].map((row) => row.item && row.item.id)"
STATUS = "document.querySelector('#status').textContent"
WAIT = "new Promise((done) => setTimeout(done, 150))"  # longer than the search waits for the next letter


def listed(browser: Browser) -> list[str]:
    """Every utterance that the list holds, all of its pages."""
    browser.run("(() => { const more = document.querySelector('#more'); while (!more.hidden) more.click(); })()")
    return [found for found in browser.run(IDS) if found is not None]


def search(browser: Browser, text: str) -> None:
    """Type a search at once."""
    browser.run(f"document.querySelector('#query').value = {json.dumps(text)}")
    browser.run("document.querySelector('#query').dispatchEvent(new Event('input'))")
    browser.run(WAIT)
