"""How a user names a corpus or a file of transcripts, ``[FORMAT:]PLACE[,option=value…]``, and which format then reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from asrmerge.errors import ManifestError
from asrmerge.plugins import objects_in
from asrmerge.validation import suggest


class Readable(Protocol):
    """What finding a format takes.

    ``name`` is its prefix; ``options`` are what may follow the place, by name, each with a description; a ``fallback`` is taken
    where no other format recognises the path.
    """

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> Mapping[str, str]: ...

    @property
    def fallback(self) -> bool: ...

    def recognises(self, path: Path) -> bool:
        """Whether the existing file or folder ``path`` is of this format."""


AnyFormat = TypeVar("AnyFormat", bound=Readable)


@dataclass(frozen=True)
class Source:
    """A corpus as the user named it: ``place`` is a path, or what its format says; ``options`` are all known to the format."""

    place: str
    options: Mapping[str, str]

    @property
    def path(self) -> Path:
        return Path(self.place).expanduser()

    def flag(self, name: str) -> bool:
        """Whether an option that takes no value is set."""
        return self.options.get(name, "false") != "false"


def find_formats(package: ModuleType) -> dict[str, Any]:
    """The ``format`` of every module of ``package``, by name, sorted."""
    return objects_in(package, "format")


def choose_format(formats: Mapping[str, AnyFormat], text: str) -> tuple[AnyFormat, Source]:
    """The format that reads what the user named, by its prefix or by looking at the path, and what is left of the text.

    Raises:
        ManifestError: if there is no such path, several formats or none recognise it, or an option is unknown.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix in formats:
        return formats[prefix], _source(formats[prefix], rest)
    path = Path(_split(text)[0]).expanduser()
    if not path.exists():
        raise ManifestError(
            f"{path}: there is no such file or folder; check the path, or name the format before it, FORMAT:PLACE with one of "
            f"{', '.join(formats)}."
        )
    found = [one for one in formats.values() if one.recognises(path)]
    found = [one for one in found if not one.fallback] or found
    if len(found) != 1:
        names = ", ".join(one.name for one in found or formats.values())
        fault = "could be of several formats" if found else "is of no format that is known by its name"
        raise ManifestError(f"{path}: it {fault}; name one before it, as in {names.split(', ')[0]}:{path} ({names}).")
    return found[0], _source(found[0], text)


def _source(chosen: Readable, text: str) -> Source:
    place, parts = _split(text)
    options = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in chosen.options:
            raise ManifestError(f"{chosen.name}:{text}: there is no option '{name}'; {suggest(name, chosen.options)}.")
        options[name] = value or "true"
    return Source(place, options)


def _split(text: str) -> tuple[str, list[str]]:
    """Place and options; a comma that belongs to the name of an existing file begins none."""
    if Path(text).expanduser().exists():
        return text, []
    place, *options = text.split(",")
    return place, options
