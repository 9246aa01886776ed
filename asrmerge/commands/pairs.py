"""NAME=VALUE on the command line."""

from __future__ import annotations

from collections.abc import Iterable

from asrmerge.errors import ConfigError


def read_pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    """Name → value, in order; ``option`` opens the messages.

    Raises:
        ConfigError: a text is none, or a name is there twice.
    """
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{option} {text}: write NAME=VALUE.")
        if name in pairs:
            raise ConfigError(f"{option} {text}: '{name}' is there twice; give it once.")
        pairs[name] = value
    return pairs
