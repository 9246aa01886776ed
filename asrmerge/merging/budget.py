"""How much memory may be in use at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """Lets threads take bytes until there are none left; a request over all of them waits until it is alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold ``count`` bytes for the length of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self._size)
            self._taken += count
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()
