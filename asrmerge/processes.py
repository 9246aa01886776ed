"""Worker processes that begin at once: forked from a process that has loaded the libraries, where that is safe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SLOW_TO_LOAD = ["torch", "transformers.modeling_utils", "transformers.generation", "scipy.stats", "accelerate", "optuna"]


def worker_context() -> ForkServerContext | SpawnContext:
    """What starts worker processes, none of which shares a lock or a thread with this one.

    On Linux they are forked from a server process that has loaded the libraries, once for all workers of this process: that takes
    seconds, a fork milliseconds. The server has no threads and computes nothing. Where there is a CUDA device every worker is
    spawned and loads for itself, because a process that is forked from one that has looked for devices cannot use them.
    """
    import torch  # here, because spawned workers load this module, and not all of them need torch

    if sys.platform != "linux" or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_SLOW_TO_LOAD)
    with threads_of_children(1), _interrupts_blocked():
        forkserver.ensure_running()
    return context


@contextmanager
def threads_of_children(count: int) -> Iterator[None]:
    """Libraries read their thread counts when they load: set them in the environment that children inherit."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal: what begins inside the block leaves it to this one, even while it loads."""
    resource_tracker.ensure_running()  # its start, which would be part of the server's, lets them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def settle_in(environment: Mapping[str, str], threads: int) -> None:
    """In a worker: take up the environment of the process that asked for it, and compute with so many threads."""
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    if "torch" in sys.modules:  # loaded before, so that it has read other variables
        import torch

        torch.set_num_threads(threads)
