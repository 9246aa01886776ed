"""Which task a free worker takes next: merging a candidate takes time, so each is merged by as few workers as keeps all busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from asrmerge.search.candidate import Candidate

Task = tuple[Any, ...]  # name of a method of the scorer, its arguments


class _Subject(NamedTuple):
    """What has to be merged for a task; nothing where it has no candidate."""

    method: str | None = None
    key: Hashable = None


class WaitingTasks:
    """The tasks of one call that nobody has begun.

    A worker goes on with the candidate that it has merged; then takes one that nobody has begun, of the same method if it can,
    because some methods do a part of their work once for all weights; at last it helps with the one of which most is left.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        """``tasks``: of one candidate in the order in which they are to be begun."""
        self._subjects = [_subject(task) for task in tasks]
        self._waiting: dict[_Subject, deque[int]] = {}
        for number, subject in enumerate(self._subjects):
            self._waiting.setdefault(subject, deque()).append(number)
        self._untouched = dict.fromkeys(self._waiting)
        self._last: dict[Hashable, _Subject] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def take(self, worker: Hashable) -> int:
        """The number of the worker's next task.

        Raises:
            IndexError: there is none left.
        """
        if not self._waiting:
            raise IndexError("no task is waiting")
        last = self._last.get(worker, _Subject())
        subject = last if last in self._waiting else self._next(last.method)
        number = self._waiting[subject].popleft()
        if not self._waiting[subject]:
            del self._waiting[subject]
        self._untouched.pop(subject, None)
        self._last[worker] = subject
        return number

    def put_back(self, number: int) -> None:
        """A task that was taken and not done; it comes first again."""
        self._waiting.setdefault(self._subjects[number], deque()).appendleft(number)

    def _next(self, method: str | None) -> _Subject:
        if self._untouched:
            return min(self._untouched, key=lambda one: one.method != method)
        return max(self._waiting, key=lambda one: len(self._waiting[one]))


def _subject(task: Task) -> _Subject:
    candidate = next((one for one in task if isinstance(one, Candidate)), None)
    return _Subject() if candidate is None else _Subject(candidate.method, candidate.key())
