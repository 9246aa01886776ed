"""NeMo's JSON lines: ``{"audio_filepath": …, "duration": …, "text": …}``.

Format: https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import AUDIO_REMEDY, Line, read_json_lines, unique_identifiers


class NemoFormat:
    """As :func:`asrmerge.speech.manifest.read_manifest` reads it; here a duration may be missing."""

    name = "nemo"
    options: Mapping[str, str] = {}
    fallback = True

    def recognises(self, path: Path) -> bool:
        return path.name.removesuffix(".gz").endswith((".jsonl", ".json", ".ndjson", ".manifest"))

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        lines = read_json_lines(source.path)
        unique_identifiers(lines)
        return [entry_of(line, source.path.parent / line.filled("audio_filepath", AUDIO_REMEDY)) for line in lines]


def entry_of(line: Line, audio: Path, *, audio_needed: bool = True) -> Entry:
    """The utterance in ``line``, whose recording is ``audio``."""
    return Entry(
        place=line.place,
        audio=audio,
        text=line.string("text"),
        identifier=line.label("id"),
        duration=line.known_duration(),
        start=line.offset(),
        speaker=line.label("speaker"),
        domain=line.label("domain"),
        fields=line.fields(),
        audio_needed=audio_needed,
    )


format = NemoFormat()
