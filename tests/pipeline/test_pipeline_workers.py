"""Workers: results in order, failures as they were raised, deaths explained, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pipeline_tasks
import pytest

from asrmerge.errors import AsrmergeError, AudioError
from asrmerge.pipeline.workers import Task, run_tasks
from asrmerge.progress import ProgressView


class Recorder(ProgressView):
    """Remembers what it should show."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, int, int]] = []

    def update(self, name: str, done: int, total: int) -> None:
        self.shown.append((name, done, total))


def waiting(seconds: float, value: int = 0) -> Task:
    return Task(f"waiting {value}", pipeline_tasks.wait, {"seconds": seconds, "value": value})


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_results_are_in_the_order_of_the_tasks_and_each_worker_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    view = Recorder()
    results = run_tasks([waiting(0.5, 1), waiting(0, 2), waiting(0, 3)], 2, view)
    assert results == [(1, "1"), (2, "1"), (3, "1")]
    assert sorted(view.shown) == [(f"waiting {value}", 1, 1) for value in (1, 2, 3)]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_no_tasks_need_no_workers() -> None:
    assert run_tasks([], 2, Recorder()) == []


def test_an_error_is_raised_as_it_was_without_waiting_for_the_others() -> None:
    began = time.monotonic()
    with pytest.raises(AudioError, match=r"^/audio/17\.wav: there is no such audio file; check the path\.$"):
        run_tasks([waiting(120), Task("failing", pipeline_tasks.fail, {})], 2, Recorder())
    assert time.monotonic() - began < 60


def test_a_bug_keeps_its_kind_and_the_workers_trace() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        run_tasks([Task("stumbling", pipeline_tasks.stumble, {})], 1, Recorder())
    assert "in stumble" in str(raised.value.__cause__)


def test_a_killed_worker_is_one_clear_sentence() -> None:
    with pytest.raises(AsrmergeError, match=r"^A worker died during 'dying' \(killed, or out of memory\); start again"):
        run_tasks([Task("dying", pipeline_tasks.die, {})], 1, Recorder())


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_process_behind(sign: signal.Signals, tmp_path: Path) -> None:
    def gone(process: int) -> bool:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    command = [sys.executable, pipeline_tasks.__file__, str(tmp_path)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    assert until(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    workers = [int(file.name) for file in tmp_path.iterdir()]
    children = set(map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())) | set(workers)
    (os.killpg if sign == signal.SIGINT else os.kill)(run.pid, sign)  # a terminal sends Ctrl-C to all of them
    assert until(lambda: run.poll() is not None, 20)
    try:
        assert until(lambda: all(gone(process) for process in children), 20)
    finally:
        for process in children:
            if not gone(process):
                os.kill(process, signal.SIGKILL)
    assert run.stderr is not None
    assert run.stderr.read().count(b"Traceback") == (1 if sign == signal.SIGINT else 0), "workers leave Ctrl-C to the run"
    run.stderr.close()
