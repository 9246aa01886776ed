"""Utterances and their manifests: NeMo JSON lines, checked before any long work begins.

One line is one utterance::

    {"audio_filepath": "clips/0001.flac", "duration": 3.2, "text": "take two tablets", "speaker": "f03", "id": "0001"}

``audio_filepath`` is absolute or relative to the manifest's folder; ``id``, ``speaker`` and ``domain`` may be left out;
``offset`` is where in the file the utterance begins, in seconds; further keys with text, a number or a truth value are kept as
fields.
Format: https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from asrmerge.errors import ManifestError
from asrmerge.files import write_text


@dataclass(frozen=True)
class Utterance:
    """One recording, or with ``start`` the ``duration`` seconds of it from there on, and what is said in it.

    ``fields``: whatever else is known of it (accent, device, …), by name; an evaluation can be sliced by them.
    """

    identifier: str
    audio: Path
    duration: float
    text: str
    speaker: str | None = None
    domain: str | None = None
    start: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)


def read_manifest(path: Path | str, *, domain: str | None = None) -> tuple[Utterance, ...]:
    """The manifest's utterances, in order.

    ``domain``, where given, takes the place of the lines' own. An utterance without ``id`` is named after its audio file; where
    two files have the same name, the later ones get ``-2``, ``-3``, …

    Raises:
        ManifestError: with file, line number and remedy, at the first thing that would fail later.
    """
    path = Path(path)
    lines = read_json_lines(path)
    audio = [require_audio(path.parent / line.filled("audio_filepath", AUDIO_REMEDY), line.place) for line in lines]
    identifiers = number_identifiers(unique_identifiers(lines), [file.stem for file in audio])
    return tuple(
        Utterance(
            identifier=identifier,
            audio=file,
            duration=line.duration(),
            text=line.filled("text", "write what is said in the recording, or leave the line out"),
            speaker=line.label("speaker"),
            domain=domain if domain is not None else line.label("domain"),
            start=line.offset(),
            fields=line.fields(),
        )
        for line, file, identifier in zip(lines, audio, identifiers, strict=True)
    )


def write_manifest(path: Path | str, utterances: Iterable[Utterance]) -> None:
    """Write ``utterances`` as NeMo JSON lines, atomically; audio beside or below the manifest is named relative to it."""
    path = Path(path)
    records = (
        {
            "id": utterance.identifier,
            "audio_filepath": stored_path(utterance.audio, path.parent),
            "offset": utterance.start,
            "duration": utterance.duration,
            "text": utterance.text,
            "speaker": utterance.speaker,
            "domain": utterance.domain,
            **utterance.fields,
        }
        for utterance in utterances
    )
    write_text(path, "".join(json_line(record) for record in records))


# What is an utterance's own, or its transcript's by some model; a line's other keys are its fields.
OWN_KEYS = frozenset({"id", "audio_filepath", "offset", "duration", "text", "speaker", "domain", "pred_text", "silent", "error"})
AUDIO_REMEDY = "write the path of the audio file"


@dataclass(frozen=True)
class Line:
    """One line of a JSON-lines file, read field by field; every refusal names ``place`` (file and line number)."""

    place: str
    content: Mapping[str, Any]

    def string(self, key: str) -> str:
        """The text under ``key``, which may be empty but must be there."""
        if key not in self.content:
            raise ManifestError(f"{self.place}: the key '{key}' is missing; add it to the line.")
        value = self.content[key]
        if not isinstance(value, str):
            raise ManifestError(f"{self.place}: '{key}' is {json.dumps(value)}; write it as text in quotation marks.")
        return value

    def filled(self, key: str, remedy: str) -> str:
        """The text under ``key``, which must not be blank."""
        value = self.string(key)
        if not value.strip():
            raise ManifestError(f"{self.place}: '{key}' is empty; {remedy}.")
        return value

    def duration(self) -> float:
        """The recording's length in seconds."""
        if "duration" not in self.content:
            raise ManifestError(f"{self.place}: the key 'duration' is missing; add the recording's length in seconds.")
        return self._seconds(self.content["duration"])

    def known_duration(self) -> float | None:
        """The recording's length in seconds; ``None`` where the line has none, or 0: audio that could not be read."""
        value = self.content.get("duration")
        return None if value is None or (value == 0 and not isinstance(value, bool)) else self._seconds(value)

    def _seconds(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ManifestError(
                f"{self.place}: 'duration' is {json.dumps(value)}; write the recording's length in seconds, a number above 0."
            )
        return float(value)

    def offset(self) -> float | None:
        """Where in the file the utterance begins, in seconds; ``None`` where the line doesn't say: it is the whole file."""
        value = self.content.get("offset")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ManifestError(
                f"{self.place}: 'offset' is {json.dumps(value)}; write where the utterance begins in seconds, a number from 0 on."
            )
        return float(value)

    def fields(self, own: frozenset[str] = OWN_KEYS) -> dict[str, str]:
        """Everything but the utterance's own keys that is text, a number or a truth value, as text."""
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in self.content.items()
            if key not in own and isinstance(value, str | int | float)
        }

    def label(self, key: str) -> str | None:
        """An optional name: text or a whole number; null, blank and absent are all ``None``."""
        value = self.content.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise ManifestError(f"{self.place}: '{key}' is {json.dumps(value)}; write it as text, or leave it out.")
        return value if value and value.strip() else None


def read_json_lines(path: Path) -> list[Line]:
    """The objects of a JSON-lines file, which may be compressed by gzip, blank lines left out.

    Raises:
        ManifestError: if the file is missing, empty or not UTF-8, or a line is not a JSON object.
    """
    lines = [_parse(text, place) for place, text in read_lines(path)]
    if not lines:
        raise ManifestError(f"{path}: the file holds no utterance; write one JSON object per line.")
    return lines


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Place (file and line number) and text of every line that is not blank.

    Raises:
        ManifestError: if the file is missing or not UTF-8.
    """
    # Split at "\n" only: str.splitlines would also cut at U+2028, which JSON allows inside a text.
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(f"{path}, line {number}", text.removesuffix("\r")) for number, text in lines if text.strip()]


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, without byte order mark; uncompressed where its name ends in ``.gz``.

    Raises:
        ManifestError: if the file is missing or damaged, or its text is not UTF-8, with the line.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: there is no such file; check the path.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ManifestError(f"{path}: the file is damaged or no gzip file ({error}); compress it again.") from error
    except OSError as error:
        raise ManifestError(f"{path}: the file cannot be read ({error.strerror}); check the path and its permissions.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}, line {number}: the text is not UTF-8; save the file in UTF-8.") from error


def json_line(record: Mapping[str, Any]) -> str:
    """``record`` as one line of JSON; keys without a value are left out."""
    return json.dumps({key: value for key, value in record.items() if value is not None}, ensure_ascii=False) + "\n"


def stored_path(audio: Path, folder: Path) -> str:
    """How a file in ``folder`` names ``audio``: relative if below the folder, so that both can move together; else absolute."""
    audio, folder = audio.absolute(), folder.absolute()
    return (audio.relative_to(folder) if audio.is_relative_to(folder) else audio).as_posix()


def unique_identifiers(lines: Sequence[Line]) -> list[str | None]:
    """Every line's ``id``, ``None`` where it has none.

    Raises:
        ManifestError: naming both lines, if two have the same.
    """
    identifiers = [line.label("id") for line in lines]
    check_unique(zip(identifiers, (line.place for line in lines), strict=True))
    return identifiers


def check_unique(places: Iterable[tuple[str | None, str]]) -> None:
    """Refuse an identifier that occurs at two places.

    Raises:
        ManifestError: naming both.
    """
    first: dict[str, str] = {}
    for identifier, place in places:
        if identifier is not None and identifier in first:
            where = first[identifier].rpartition(", ")[2]
            raise ManifestError(f"{place}: the id '{identifier}' is already that of {where}; give every utterance its own.")
        if identifier is not None:
            first[identifier] = place


def number_identifiers(given: Sequence[str | None], names: Sequence[str]) -> list[str]:
    """``given``, and where there is none the name, with ``-2``, ``-3``, … where that is taken."""
    taken = {identifier for identifier in given if identifier is not None}
    following: dict[str, int] = {}
    identifiers = []
    for identifier, name in zip(given, names, strict=True):
        if identifier is None:
            numbers = count(following.get(name, 1))
            number = next(number for number in numbers if _numbered(name, number) not in taken)
            identifier, following[name] = _numbered(name, number), number + 1
            taken.add(identifier)
        identifiers.append(identifier)
    return identifiers


def require_audio(audio: Path, place: str) -> Path:
    """``audio``, which must be a file.

    Raises:
        ManifestError: naming ``place``.
    """
    if not is_file(audio):
        raise ManifestError(f"{place}: there is no audio file {audio}; correct the path, or leave the line out.")
    return audio


def _numbered(name: str, number: int) -> str:
    return f"{name}-{number}" if number > 1 else name


def _parse(text: str, place: str) -> Line:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"{place}: the line is not JSON ({error}); write one JSON object per line.") from error
    if not isinstance(content, dict):
        raise ManifestError(f'{place}: the line is not a JSON object; write it as {{"audio_filepath": …, "text": …}}.')
    # json accepts half a surrogate pair; no file could hold it later.
    if "\\u" in text and any(0xD800 <= ord(character) <= 0xDFFF for character in json.dumps(content, ensure_ascii=False)):
        raise ManifestError(f"{place}: a \\u escape is half of a character; write the character itself.")
    return Line(place, content)


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # such as a name too long for the file system
        return False
