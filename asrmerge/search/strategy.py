"""What a search strategy is."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from asrmerge.search.session import Session
from asrmerge.search.space import Space
from asrmerge.validation import Section


class NoOptions(Section):
    """Of a strategy that has none."""


@runtime_checkable
class Strategy(Protocol):
    """Decides which candidates hear how much of the audio. Whatever it draws at random hangs on ``session.seed`` alone.

    One that says ``races = True`` is given the audio in growing blocks, and evaluates the candidates of every search itself;
    others find all of these among the finished trials.
    """

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> type[Section]: ...

    def check(self, space: Space, objectives: int, options: Any) -> None:
        """Raises ConfigError where it cannot search such a space, or so many objectives."""
        ...

    def run(self, session: Session, options: Any) -> None:
        """Search until the budget is spent or nothing is left to try; the session keeps what was found."""
        ...
