"""Lhotse's manifests: ``…supervisions….jsonl(.gz)`` with ``…recordings….jsonl(.gz)`` beside it.

Format: https://lhotse.readthedocs.io/en/latest/corpus.html
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora.audio_files import existing
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import Line, read_json_lines, require_audio

_ENDINGS = (".jsonl", ".jsonl.gz")
_WHOLE_SECONDS = 0.01  # a supervision that differs less from its recording is all of it
_FIELDS = ("language", "gender")


class LhotseFormat:
    """A file of supervisions, or a folder that holds one, with its recordings."""

    name = "lhotse"
    options: Mapping[str, str] = {}
    fallback = False

    def recognises(self, path: Path) -> bool:
        return bool(_supervisions(path)) if path.is_dir() else _is_supervisions(path)

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        file = _one_file(source.path)
        recordings = {
            line.filled("id", "give the recording its id"): line
            for line in read_json_lines(file.with_name(file.name.replace("supervisions", "recordings")))
        }
        supervisions = read_json_lines(file)
        _check_channels(supervisions)
        return [_entry(line, recordings, file.parent) for line in supervisions]


def _is_supervisions(path: Path) -> bool:
    return "supervisions" in path.name and path.name.endswith(_ENDINGS)


def _supervisions(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_supervisions(path))


def _one_file(path: Path) -> Path:
    files = _supervisions(path) if path.is_dir() else [path]
    if len(files) != 1 or "supervisions" not in files[0].name:
        names = ", ".join(file.name for file in files) or "none"
        raise ManifestError(f"{path}: one file of supervisions is read at a time, and there is {names}; name it itself.")
    return files[0]


def _entry(line: Line, recordings: Mapping[str, Line], folder: Path) -> Entry:
    identifier = line.filled("id", "give the supervision its id")
    recording = line.filled("recording_id", "name the recording that it is in")
    if recording not in recordings:
        raise ManifestError(f"{line.place}: the recording '{recording}' is not in the file of recordings; add it.")
    start, duration = _seconds(line, "start"), _seconds(line, "duration")
    length = _seconds(recordings[recording], "duration")
    whole = start < _WHOLE_SECONDS and abs(duration - length) < _WHOLE_SECONDS
    custom = line.content.get("custom")
    further = {key: line.content.get(key) for key in _FIELDS} | (custom if isinstance(custom, dict) else {})
    return Entry(
        place=line.place,
        audio=require_audio(existing(_path(recordings[recording]), folder), recordings[recording].place),
        text=line.string("text"),
        identifier=identifier,
        duration=duration,
        start=None if whole else start,
        speaker=line.label("speaker"),
        fields=Line(line.place, further).fields(),
    )


def _path(recording: Line) -> str:
    """The recording's file, as its one source names it."""
    sources = recording.content.get("sources")
    source = sources[0] if isinstance(sources, list) and len(sources) == 1 and isinstance(sources[0], dict) else {}
    path = source.get("source")
    if source.get("type") != "file" or not isinstance(path, str):
        raise ManifestError(
            f"{recording.place}: the recording's source is {json.dumps(sources, ensure_ascii=False)}, but only one file is read; "
            "save its audio to a file."
        )
    if recording.content.get("transforms"):
        raise ManifestError(f"{recording.place}: the recording's transforms are not applied; save its audio to a file.")
    return path


def _check_channels(supervisions: Sequence[Line]) -> None:
    """Refuse recordings whose channels hold different speech: the mean of the channels is what is transcribed."""
    first: dict[Any, Line] = {}
    for line in supervisions:
        recording = line.content.get("recording_id")
        before = first.setdefault(recording, line)
        if line.content.get("channel", 0) != before.content.get("channel", 0):
            raise ManifestError(
                f"{line.place}: the recording '{recording}' has supervisions on several channels; "
                "write every channel to its own file."
            )


def _seconds(line: Line, key: str) -> float:
    value = line.content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ManifestError(f"{line.place}: '{key}' is {json.dumps(value)}; write it in seconds, a number from 0 on.")
    return float(value)


format = LhotseFormat()
