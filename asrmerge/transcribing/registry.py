"""Output formats by name: the files of ``asrmerge.transcribing.formats``."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from asrmerge.errors import ConfigError
from asrmerge.plugins import objects_in
from asrmerge.speech.timed_text import Times
from asrmerge.transcribing import formats as package
from asrmerge.transcribing.transcript import Transcript
from asrmerge.validation import suggest


class Format(Protocol):
    """How transcripts are written.

    Attributes:
        suffix: of a file's name, with the dot.
        times: what the format needs to know of when something was said.
        one_recording: a file holds one recording only.
    """

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def times(self) -> Times: ...

    @property
    def one_recording(self) -> bool: ...

    def render(self, transcript: Transcript, folder: Path) -> str:
        """The transcript's part of a file in ``folder``; empty where a recording that failed has none."""


def find_formats() -> dict[str, Format]:
    """Every format by name, sorted."""
    return objects_in(package, "format")


def get_format(name: str | None, output: Path | None) -> Format:
    """The format called ``name``; without a name that of the file's ending, plain text where there is no file.

    Raises:
        ConfigError: there is no such format, or the ending is none of a format's.
    """
    formats = find_formats()
    if name is not None:
        if name not in formats:
            raise ConfigError(f"There is no output format '{name}'; {suggest(name, formats)}.")
        return formats[name]
    suffix = output.suffix.lower() if output is not None else ""
    endings = {"": formats["text"], **{one.suffix: one for one in formats.values()}}
    if suffix not in endings:
        raise ConfigError(f"{output}: no output format has this ending; name one with --format ({', '.join(formats)}).")
    return endings[suffix]
