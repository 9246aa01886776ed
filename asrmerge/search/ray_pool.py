"""Scorers on the machines of a Ray cluster: nodes may come and go while the search runs."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from asrmerge.errors import AsrmergeError, SearchError
from asrmerge.search.scoring import Scorer, ScoringJob
from asrmerge.search.waiting_tasks import Task, WaitingTasks
from asrmerge.search.workers import compute_alone, portable

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 120.0  # without a worker that is alive
_CONNECT_SECONDS = 10.0
_LOOK_SECONDS = 10.0  # between looks at the cluster's size
_CANDIDATES = 4  # that are evaluated beside each other
_DEATHS = 3  # of workers at the same task, before it is held to be the reason
_HELLO, _LOAD = -2, -1  # what a worker answers before it takes tasks


@dataclass(eq=False)
class _Worker:
    """An actor of the cluster, and where it runs; ``loaded`` says whether it takes tasks."""

    actor: Any
    node: str = ""
    loaded: bool = False


@dataclass
class _Batch:
    """The tasks of one call, in whatever state."""

    tasks: Sequence[Task]
    waiting: WaitingTasks
    results: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, AsrmergeError] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)


class RayPool:
    """A scorer per processor of the cluster, or per GPU; each takes another task as soon as it has finished one.

    A worker whose node dies is replaced as soon as the cluster has room again, and its task goes to another. Every node reads
    models and audio itself, so they lie where all see them. Where no expert has changed the encoder, each worker keeps the
    encoder's states in its memory.
    """

    def __init__(self, job: ScoringJob, address: str, count: int | None = None, *, patience: float = _PATIENCE_SECONDS) -> None:
        """Connect, and wait until the first worker has loaded its models.

        Args:
            job: without a folder for encoder states, which nodes could not share.
            address: of the cluster, ``host:port`` or ``auto`` for the one that this machine belongs to.
            count: workers at most; as many as the cluster has room for, also later, unless given.
            patience: seconds to wait for a cluster without any worker.

        Raises:
            SearchError: Ray is not installed, there is no such cluster, or it has no room.
            AsrmergeError: what a scorer raised.
        """
        self._ray, self._connected = _connect(address)
        self._address, self._patience = address, patience
        self._pending: dict[Any, tuple[_Worker, int]] = {}
        self._idle: deque[_Worker] = deque()
        self._alive = time.monotonic()
        try:
            needs: dict[str, Any] = {"num_cpus": 1, **({"num_gpus": 1} if job.device.startswith("cuda") else {})}
            self._resource = "GPU" if "num_gpus" in needs else "CPU"
            self._most = min(count or _CANDIDATES * len(job.shards), _CANDIDATES * len(job.shards))
            self._actor = self._ray.remote(max_restarts=0, scheduling_strategy="SPREAD", **needs)(_RemoteScorer)
            self._job = self._ray.put(_anywhere(job))
            self._looked, self._refused = 0.0, 0
            self._invite()
            nothing = _Batch((), WaitingTasks(()))
            while not self._idle:
                self._step(nothing)
        except BaseException:
            self.close()
            raise

    def map(self, tasks: Sequence[Task]) -> list[Any]:
        """The tasks' results in their order, shared out as ``WaitingTasks`` says.

        Raises:
            AsrmergeError: what a task raised; of several failures, that of the earliest task.
            SearchError: no worker is left, or workers die of a task.
        """
        batch = _Batch(tasks, WaitingTasks(tasks))
        try:
            while self._is_busy() or (batch.waiting and not batch.failures):
                self._step(batch)
        except BaseException:  # answers are under way that nobody will read
            self.close()
            raise
        if batch.failures:
            raise batch.failures[min(batch.failures)]
        return [batch.results[number] for number in range(len(tasks))]

    def close(self) -> None:
        """End the workers, leave the cluster unless this process was in it before."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._pending, self._idle = {}, deque()
        if self._connected:
            self._ray.shutdown()

    @property
    def _workers(self) -> list[_Worker]:
        return [*self._idle, *(worker for worker, _ in self._pending.values())]

    def _grow(self) -> None:
        """Ask for a worker in every place of the cluster, now and then: it may have grown."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        room = int(self._ray.cluster_resources().get(self._resource, 0))
        for _ in range(min(room - self._refused, self._most) - len(self._workers)):
            self._invite()

    def _invite(self) -> None:
        """Ask for one worker more: it says where it is as soon as the cluster has room for it."""
        worker = _Worker(self._actor.remote())
        self._pending[worker.actor.hello.remote()] = (worker, _HELLO)

    def _is_busy(self) -> bool:
        return any(number >= 0 for _, number in self._pending.values())

    def _step(self, batch: _Batch) -> None:
        """Give out what can be given out, and take one answer."""
        self._grow()
        while self._idle and batch.waiting and not batch.failures:
            worker = self._idle.popleft()
            number = batch.waiting.take(worker)
            name, *arguments = batch.tasks[number]
            self._pending[worker.actor.do.remote(name, *arguments)] = (worker, number)
        answered, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=1.0)
        if any(worker.node for worker in self._workers):
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > self._patience:
            raise SearchError(
                f"the Ray cluster at {self._address} has had no room for a worker for {self._patience:.0f} s: add nodes, or wait "
                "until others have left, and run the command again; finished trials are kept."
            )
        for reference in answered:
            self._take(reference, *self._pending.pop(reference), batch)

    def _take(self, reference: Any, worker: _Worker, number: int, batch: _Batch) -> None:
        try:
            done, content = self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            self._lose(worker, number, batch)
            return
        except self._ray.exceptions.RayError as error:
            raise SearchError(f"a worker on {worker.node or 'the Ray cluster'} failed: {_first_line(error)}") from error
        if number == _HELLO:
            worker.node = content
            self._pending[worker.actor.load.remote(self._job)] = (worker, _LOAD)
            return
        if number == _LOAD:
            if not done:
                self._refuse(worker, content)
                return
            logger.info("a worker on %s is ready", worker.node)
        elif done:
            batch.results[number] = content
        else:
            batch.failures[number] = content
        worker.loaded = True
        self._idle.append(worker)

    def _refuse(self, worker: _Worker, error: AsrmergeError) -> None:
        """What cannot load the models ends the search before it begins; later, it is left out."""
        message = f"on the node {worker.node}: {error} Every node reads models and audio itself, at the same paths."
        if not any(one.loaded for one in self._workers):
            raise SearchError(message)
        logger.warning("%s The search goes on without it.", message)
        self._ray.kill(worker.actor)
        self._refused += 1

    def _lose(self, worker: _Worker, number: int, batch: _Batch) -> None:
        logger.warning(
            "lost a worker on %s%s; another is asked for",
            worker.node or "the cluster",
            ", whose task is done again" if number >= 0 else "",
        )
        # Others of a node that is gone are found when their turn comes.
        if number >= 0:
            batch.waiting.put_back(number)
            batch.deaths[number] += 1
            if batch.deaths[number] == _DEATHS:
                raise SearchError(
                    f"{_DEATHS} workers died of the same task: memory may be short; run the command again with fewer workers, or "
                    "nodes with more memory. Finished trials are kept."
                )
        self._invite()


class _RemoteScorer:
    """What runs on the nodes: a scorer whose errors are answers, because a raised one would lose its type on the way."""

    def hello(self) -> tuple[bool, str]:
        """The node's address: the worker has a place."""
        return True, str(import_module("ray").util.get_node_ip_address())

    def load(self, job: ScoringJob) -> tuple[bool, Any]:
        """Load the models."""
        compute_alone()
        try:
            self._scorer = Scorer(job)
        except Exception as error:
            return False, portable(error)
        return True, None

    def do(self, name: str, *arguments: Any) -> tuple[bool, Any]:
        """What a method of the scorer returns."""
        try:
            return True, getattr(self._scorer, name)(*arguments)
        except Exception as error:
            return False, portable(error)


def _anywhere(job: ScoringJob) -> ScoringJob:
    """With absolute paths: workers don't run in this process' folder."""

    def absolute(source: str) -> str:
        return str(Path(source).absolute()) if Path(source).exists() else source  # else it is a hub id

    shards = (
        replace(shard, utterances=tuple(replace(one, audio=one.audio.absolute()) for one in shard.utterances))
        for shard in job.shards
    )
    return replace(
        job,
        base=absolute(job.base),
        experts={name: absolute(source) for name, source in job.experts.items()},
        statistics={name: absolute(source) for name, source in job.statistics.items()},
        shards=tuple(shards),
    )


def _connect(address: str) -> tuple[Any, bool]:
    """Ray, and whether it was connected here; a process that is in a cluster already stays in that one."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise SearchError("a search on a Ray cluster needs Ray: pip install 'asrmerge[ray]', on every node.") from error
    if ray.is_initialized():
        return ray, False
    try:
        _check_that_one_listens(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="asrmerge")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SearchError(
            f"there is no Ray cluster at '{address}' ({_first_line(error)}): start one with 'ray start --head', and give the "
            "address that it prints, or 'auto' on one of its machines."
        ) from error
    return ray, True


def _check_that_one_listens(address: str) -> None:
    """Raise OSError if nothing does: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
