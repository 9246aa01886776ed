"""What workers do in tests: module-level functions, because they travel to other processes by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from asrmerge.errors import AudioError
from asrmerge.pipeline.workers import Report, Task, run_tasks
from asrmerge.progress import ProgressView


def wait(report: Report, seconds: float, value: int) -> tuple[int, str | None]:
    time.sleep(seconds)
    report(1, 1)
    return value, os.environ.get("OMP_NUM_THREADS")


def fail(report: Report) -> None:
    raise AudioError("/audio/17.wav: there is no such audio file; check the path.")


def stumble(report: Report) -> None:
    raise ZeroDivisionError("a bug")


def die(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(report: Report, folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(300)


if __name__ == "__main__":
    import sys

    tasks = [Task(str(number), sleep, {"folder": Path(sys.argv[1])}) for number in range(2)]
    run_tasks(tasks, 2, ProgressView())
