"""Manifests of the Open ASR Leaderboard: ``MODEL_…_DATASET_….jsonl``, NeMo's keys with ``time`` and ``pred_text``.

The audio of the data set is not with them: ``audio_filepath`` is the file's bare name or ``sample_0``, ``sample_1``, ….
Source: https://github.com/huggingface/open_asr_leaderboard, normalizer/eval_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora.audio_files import audio_by_name
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.formats.nemo import entry_of
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import AUDIO_REMEDY, read_json_lines


class LeaderboardFormat:
    """References for transcripts that are scored; with ``folder``, also audio to transcribe."""

    name = "leaderboard"
    options: Mapping[str, str] = {"folder": "where the audio lies, each file called as in the manifest"}
    fallback = False

    def recognises(self, path: Path) -> bool:
        return path.name.startswith("MODEL_") and "_DATASET_" in path.name

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        entries = [
            entry_of(line, source.path.parent / line.filled("audio_filepath", AUDIO_REMEDY), audio_needed=False)
            for line in read_json_lines(source.path)
        ]
        if "folder" not in source.options:
            return [replace(entry, duration=entry.duration or 0.0) for entry in entries]
        folder = Path(source.options["folder"]).expanduser()
        files = audio_by_name(folder)
        return [replace(entry, audio=_file(entry, folder, files), audio_needed=True) for entry in entries]


def _file(entry: Entry, folder: Path, files: Mapping[str, Path]) -> Path:
    file = files.get(entry.audio.stem) or files.get(entry.audio.name)
    if file is None:
        raise ManifestError(f"{entry.place}: there is no audio file '{entry.audio.name}' in {folder}; check the folder.")
    return file


format = LeaderboardFormat()
