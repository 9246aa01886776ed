"""Search strategies by name: the files of ``asrmerge.search.strategies`` and the entry points ``asrmerge.strategies``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asrmerge.errors import ConfigError
from asrmerge.plugins import objects_in, with_plugins
from asrmerge.search import strategies as package
from asrmerge.search.strategy import Strategy
from asrmerge.validation import Section, suggest, validate

ENTRY_POINTS = "asrmerge.strategies"


@dataclass(frozen=True)
class Chosen:
    """A strategy and its options."""

    strategy: Strategy
    options: Section

    def to_json(self) -> dict[str, Any]:
        """What tells two choices apart."""
        return {"name": self.strategy.name, **self.options.model_dump(mode="json")}


def find_strategies() -> dict[str, Strategy]:
    """Every strategy by name, sorted.

    Raises:
        ConfigError: an installed plugin cannot be loaded, is no strategy, or takes a name that is in use.
    """
    return with_plugins(objects_in(package, "strategy"), ENTRY_POINTS, Strategy, "name, options, check and run")


def choose_strategy(settings: str | Mapping[str, Any]) -> Chosen:
    """The strategy that the user's words name: a name, or ``name`` and its options.

    Raises:
        ConfigError: an unknown strategy or option; the message lists the known ones.
    """
    given = {"name": settings} if isinstance(settings, str) else dict(settings)
    name = given.pop("name", None)
    known = find_strategies()
    if name not in known:
        raise ConfigError(f"unknown search strategy '{name}'; {suggest(str(name), known)}.")
    return Chosen(known[name], validate(known[name].options, given, f"options of the strategy {name}"))
