"""Progress of long work: a live view in a terminal, lines in a log elsewhere; both say what remains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

logger = logging.getLogger(__name__)
_LOG_EVERY = 15.0  # seconds between lines of one task


class _NotedProgress(Progress):
    """With lines of text below the bars."""

    def __init__(self, *columns: ProgressColumn, console: Console, disable: bool) -> None:
        self.notes: dict[str, str] = {}
        super().__init__(*columns, console=console, disable=disable)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(note, style="dim", overflow="ellipsis", no_wrap=True) for note in list(self.notes.values()))


class ProgressView:
    """Tasks by name, each with a number done and a total; use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal
        self._progress = _NotedProgress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._logged: dict[str, float] = {}

    def __enter__(self) -> ProgressView:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Say how far the task ``name`` is; the first call starts it."""
        now = time.monotonic()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
            self._started[name] = (now, done)
            self._logged[name] = now
        self._progress.update(self._tasks[name], completed=done, total=total)
        finished = done >= total
        if finished or now - self._logged[name] >= _LOG_EVERY:
            self._logged[name] = now
            logger.info("%s: %d of %d%s", name, done, total, "" if finished else self._remaining(name, done, total, now))
        if finished:
            self.end(name)

    def end(self, name: str) -> None:
        """Take the task away, wherever it is: it may end before its total."""
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
        self._progress.notes.pop(name, None)

    def note(self, name: str, text: str) -> None:
        """Keep ``text`` in sight below the bars, in place of the task's last note; the task's end takes it away."""
        self._progress.notes[name] = text
        if self._live:
            self._progress.refresh()

    def task(self, name: str) -> Callable[[int, int], None]:
        """:meth:`update` for one task, as a callback."""
        return lambda done, total: self.update(name, done, total)

    def _remaining(self, name: str, done: int, total: int, now: float) -> str:
        began, first = self._started[name]
        if done <= first:
            return ""
        seconds = (now - began) / (done - first) * (total - done)
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
