"""Progress: a live view in a terminal, lines in a log elsewhere."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from asrmerge import progress
from asrmerge.progress import ProgressView


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_log_says_now_and_then_how_much_is_left(clock: list[float], quiet: Console, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asrmerge")
    with ProgressView(quiet) as view:
        for done in range(0, 101, 5):
            view.update("reading", done, 100)
            clock[0] += 2.0
    # Every 15 seconds at least and at the end; 0.4 s for each of what is left.
    assert lines(caplog) == [
        "reading: 40 of 100, about 24 s left",
        "reading: 80 of 100, about 8 s left",
        "reading: 100 of 100",
    ]


def test_long_waits_are_in_minutes(clock: list[float], quiet: Console, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asrmerge")
    with ProgressView(quiet) as view:
        view.update("learning", 0, 100)
        clock[0] += 60
        view.update("learning", 10, 100)
    assert lines(caplog) == ["learning: 10 of 100, about 9 min left"]


def test_what_was_done_before_the_start_does_not_count_as_speed(
    clock: list[float], quiet: Console, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asrmerge")
    with ProgressView(quiet) as view:
        view.update("learning", 90, 100)
        clock[0] += 20
        view.update("learning", 90, 100)
        clock[0] += 20
        view.update("learning", 92, 100)
    assert lines(caplog) == ["learning: 90 of 100", "learning: 92 of 100, about 3 min left"]


def test_tasks_are_kept_apart(clock: list[float], quiet: Console, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asrmerge")
    with ProgressView(quiet) as view:
        one, two = view.task("one"), view.task("two")
        one(1, 2)
        two(3, 3)
        one(2, 2)
    assert lines(caplog) == ["two: 3 of 3", "one: 2 of 2"]
    assert quiet.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_shows_the_tasks_that_are_under_way() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ProgressView(console) as view:
        view.update("finished work", 5, 5)
        view.update("unfinished work", 3, 5)
    last = console.file.getvalue().rpartition("unfinished work")[2]  # type: ignore[attr-defined]
    assert "3/5" in last


def test_a_note_stays_in_sight_until_its_task_ends() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)

    def shown() -> str:
        page = Console(file=io.StringIO(), width=100)
        page.print(view._progress.get_renderable())
        return page.file.getvalue()

    with ProgressView(terminal) as view:
        view.update("searching", 10, 100)
        view.note("searching", "best so far: a, 20.0 %")
        view.note("searching", "best so far: b, 19.0 % (legal 18.0)")
        view.update("searching", 20, 100)
        assert "20/100" in shown() and "best so far: b, 19.0 % (legal 18.0)" in shown() and ": a," not in shown()
        view.end("searching")
        assert "searching" not in shown() and "best so far" not in shown()
        view.end("never begun")
