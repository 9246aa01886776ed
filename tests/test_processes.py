"""How worker processes begin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from asrmerge.processes import settle_in, worker_context


def about() -> tuple[int, int, bool, str | None]:
    """Of the process that it runs in: its number, its parent's, whether torch has one thread, a variable."""
    return os.getpid(), os.getppid(), torch.get_num_threads() == 1, os.environ.get("ASRMERGE_TEST")


def ask(**environment: str) -> tuple[int, int, bool, str | None]:
    arguments = ({**os.environ, **environment}, 1)
    with ProcessPoolExecutor(1, mp_context=worker_context(), initializer=settle_in, initargs=arguments) as pool:
        return pool.submit(about).result()


def test_workers_have_the_environment_and_one_thread() -> None:
    threads = torch.get_num_threads()
    for value in ("a", "b"):
        process, _, alone, found = ask(ASRMERGE_TEST=value)
        assert process != os.getpid() and alone and found == value
    assert "ASRMERGE_TEST" not in os.environ and torch.get_num_threads() == threads


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="workers are spawned here")
def test_workers_are_forked_from_one_server() -> None:
    parents = {ask()[1] for _ in range(2)}
    assert len(parents) == 1 and os.getpid() not in parents


def test_workers_are_spawned_where_a_fork_could_not_use_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert worker_context().get_start_method() == "spawn"
    assert ask()[1] == os.getpid()


PROGRAM = """
import time
from asrmerge.processes import worker_context
worker_context()
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="workers are spawned here")
def test_an_interrupt_while_the_server_loads_is_the_programs_own() -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as program:
        assert program.stdout is not None and program.stdout.readline() == "begun\n"
        time.sleep(0.5)  # the server loads for seconds
        os.killpg(program.pid, signal.SIGINT)
        _, messages = program.communicate(timeout=60)  # ends when the server has closed its standard error, too
    assert messages.count("Traceback") == messages.count("KeyboardInterrupt") == 1
