"""Scorers in processes of their own: unlike the standard library's pools, neither hanging nor going on when a worker dies."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from asrmerge.errors import AsrmergeError, SearchError
from asrmerge.processes import settle_in, worker_context
from asrmerge.search.scoring import Scorer, ScoringJob
from asrmerge.search.waiting_tasks import Task, WaitingTasks

_DYING_SECONDS = 5.0


class WorkerPool:
    """``count`` processes with a scorer each; each takes another task as soon as it has finished one."""

    def __init__(self, job: ScoringJob, count: int) -> None:
        """Start the processes and wait until all have loaded their models.

        Raises:
            AsrmergeError: what a scorer raised.
            SearchError: a process died.
        """
        context = worker_context()
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, job, dict(os.environ)), daemon=True, name="asrmerge search worker"
                )
                process.start()
                theirs.close()  # so that a dead worker's pipe ends
                self._processes.append(process)
                self._connections.append(ours)
            self.encoder_is_shared = all([self._receive(index) for index in range(count)])
        except BaseException:
            self.close()
            raise

    def map(self, tasks: Sequence[Task]) -> list[Any]:
        """The tasks' results in their order, shared out as ``WaitingTasks`` says.

        Raises:
            AsrmergeError: what a task raised; of several failures, that of the earliest task.
            SearchError: a process died, or the pool is closed.
        """
        if not self._processes:
            raise SearchError("the search's workers have been stopped: start the evaluator again.")
        try:
            return self._map(tasks)
        except AsrmergeError as error:
            if isinstance(error, _DeathError):
                self.close()
            raise
        except BaseException:  # Ctrl-C: answers are under way that nobody will read
            self.close()
            raise

    def broadcast(self, task: Task) -> None:
        """Have every worker do ``task``.

        Raises:
            AsrmergeError: what one of them raised; the pool is of no use then.
        """
        for worker in range(len(self._connections)):
            self._send(worker, task)
        for worker in range(len(self._connections)):
            self._receive(worker)

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.kill()  # a worker has nothing to put in order, and may be deep in a computation
        for process in self._processes:
            process.join()
        self._processes, self._connections = [], []

    def _map(self, tasks: Sequence[Task]) -> list[Any]:
        waiting = WaitingTasks(tasks)
        busy: dict[int, int] = {}  # worker → task
        results: dict[int, Any] = {}
        failures: dict[int, AsrmergeError] = {}
        while busy or (waiting and not failures):
            for worker in range(len(self._connections)):
                if worker not in busy and waiting and not failures:
                    busy[worker] = waiting.take(worker)
                    self._send(worker, tasks[busy[worker]])
            for worker in self._answering(busy):
                number = busy.pop(worker)
                try:
                    results[number] = self._receive(worker)
                except _DeathError:
                    raise
                except AsrmergeError as error:  # let the others finish, so that no answer is left in a pipe
                    failures[number] = error
        if failures:
            raise failures[min(failures)]
        return [results[number] for number in range(len(tasks))]

    def _answering(self, busy: Sequence[int] | dict[int, int]) -> list[int]:
        ready = set(wait([self._connections[worker] for worker in busy]))
        return [worker for worker in busy if self._connections[worker] in ready]

    def _send(self, worker: int, task: Task) -> None:
        try:
            self._connections[worker].send(task)
        except OSError as error:
            raise self._death(worker) from error

    def _receive(self, worker: int) -> Any:
        try:
            done, content = self._connections[worker].recv()
        except (EOFError, OSError) as error:
            raise self._death(worker) from error
        if done:
            return content
        raise content

    def _death(self, worker: int) -> _DeathError:
        self._processes[worker].join(_DYING_SECONDS)
        return _DeathError(
            f"a worker process of the search {_ending(self._processes[worker].exitcode)}: run the command again, with fewer "
            "workers if memory was short; finished trials are kept."
        )


class _DeathError(SearchError):
    """A worker ended by itself."""


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was ended by {name}"
    return f"ended with exit code {code}" if code is not None else "stopped answering"


def _serve(connection: Connection, job: ScoringJob, environment: Mapping[str, str]) -> None:
    """A worker's life: load, then answer tasks until the pipe closes, as it does when the search is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the search's own one decides
    settle_in(environment, threads=1)
    compute_alone()
    try:
        scorer = _answer(connection, Scorer, job)
        while scorer is not None:
            name, *arguments = connection.recv()
            _answer(connection, getattr(scorer, name), *arguments)
    except (EOFError, OSError):
        # Nobody listens any more. At once, because the interpreter's own clean-up may write to a terminal that is gone.
        os._exit(0)


def compute_alone() -> None:
    """Set up a process of which many run beside each other, on this machine or on others."""
    torch.set_num_threads(1)  # also, sums over several threads round differently
    disable_progress_bar()  # transformers' own, from every worker at once


def _answer(connection: Connection, function: Any, *arguments: Any) -> Any:
    """Send what ``function`` returns (of a scorer, whether the encoder is shared), or the error it raised."""
    try:
        value = function(*arguments)
    except Exception as error:
        connection.send((False, portable(error)))
        return None
    connection.send((True, value.encoder_is_shared if isinstance(value, Scorer) else value))
    return value


def portable(error: Exception) -> AsrmergeError:
    """An error that survives the way to the other process."""
    if isinstance(error, AsrmergeError):
        try:
            pickle.loads(pickle.dumps(error))
            return error
        except Exception:
            return SearchError(str(error))
    traceback.print_exc(file=sys.stderr)  # a bug: its trace is of use, and would be lost
    return SearchError(f"a worker process of the search failed ({type(error).__name__}: {error}): its trace is printed above.")
