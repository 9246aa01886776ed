"""Independent tasks in processes of one thread each, unless asked otherwise: the same bytes whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from queue import Queue
from typing import Any

from asrmerge.errors import AsrmergeError
from asrmerge.processes import settle_in, threads_of_children, worker_context
from asrmerge.progress import ProgressView

_STOP = None
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """One call of a module-level function ``function(report, **arguments)`` in a worker; ``name`` is shown as progress."""

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]


def run_tasks(tasks: Sequence[Task], workers: int, view: ProgressView, *, threads: int = 1) -> list[Any]:
    """The results in the order of ``tasks``; the first failure ends the others and is raised.

    Args:
        threads: of each process. Sums over several threads round by how many there are.

    Raises:
        AsrmergeError: a worker died (out of memory, killed), or what a task raised.
    """
    if not tasks:
        return []
    context = worker_context()
    manager = SyncManager(ctx=context)
    manager.start(_follow_parent)
    with manager:
        queue: Queue[tuple[str, int, int] | None] = manager.Queue()
        drain = threading.Thread(target=_show, args=(queue, view), daemon=True)
        drain.start()
        pool = ProcessPoolExecutor(
            min(workers, len(tasks)), mp_context=context, initializer=_begin, initargs=(dict(os.environ), threads)
        )
        try:
            with threads_of_children(threads):  # of spawned ones
                futures = [pool.submit(_call, task, queue) for task in tasks]
                wait(futures, return_when=FIRST_EXCEPTION)
            for future, task in zip(futures, tasks, strict=True):
                if future.done():  # a failure must not wait for the tasks before it
                    _result(future, task)
            return [_result(future, task) for future, task in zip(futures, tasks, strict=True)]
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            queue.put(_STOP)
            drain.join()


def _begin(environment: Mapping[str, str], threads: int) -> None:
    _follow_parent()
    settle_in(environment, threads)


def _follow_parent() -> None:
    """In a child: end when the parent is killed, and leave Ctrl-C to it. The pool's own workers would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(task: Task, queue: Queue[tuple[str, int, int] | None]) -> Any:
    return task.function(lambda done, total: queue.put((task.name, done, total)), **task.arguments)


def _show(queue: Queue[tuple[str, int, int] | None], view: ProgressView) -> None:
    while (item := queue.get()) is not _STOP:
        view.update(*item)


def _result(future: Future[Any], task: Task) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise AsrmergeError(
            f"A worker died during '{task.name}' (killed, or out of memory); start again to go on, with fewer workers if "
            "memory is short."
        ) from error
