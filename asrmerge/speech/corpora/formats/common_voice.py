"""Mozilla Common Voice: ``test.tsv`` and its like, with the recordings in ``clips`` beside.

Format: https://github.com/common-voice/cv-dataset
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora.columns import read_table
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.formats.table import entries_of
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import read_text


class CommonVoiceFormat:
    """A split of Common Voice; durations are those of ``clip_durations.tsv`` where the release has it."""

    name = "common_voice"
    options: Mapping[str, str] = {}
    fallback = False

    def recognises(self, path: Path) -> bool:
        if path.suffix != ".tsv" or not path.is_file() or not (path.parent / "clips").is_dir():
            return False
        header = set(read_text(path).partition("\n")[0].split("\t"))
        return {"client_id", "path", "sentence"} <= header

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        clips = source.path.parent / "clips"
        durations = _durations(source.path.with_name("clip_durations.tsv"))
        # Sentences hold quotation marks of their own, which quote nothing.
        entries = entries_of(read_table(source.path, quoting=False), source, clips)
        return [replace(entry, audio=_clip(entry.audio), duration=durations.get(_clip(entry.audio).name)) for entry in entries]


def _clip(audio: Path) -> Path:
    return audio if audio.suffix else audio.with_suffix(".mp3")  # as the first releases named them


def _durations(path: Path) -> dict[str, float]:
    """Seconds by clip; empty where the release has none."""
    if not path.is_file():
        return {}
    durations = {}
    for row in read_table(path, quoting=False):
        clip, milliseconds = row.label("clip"), row.label("duration[ms]")
        if clip is None or milliseconds is None or not milliseconds.isdigit():
            raise ManifestError(f"{path}: its columns must be 'clip' and 'duration[ms]'; download it again, or take it away.")
        durations[clip] = int(milliseconds) / 1000
    return durations


format = CommonVoiceFormat()
