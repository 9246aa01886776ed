"""Kaldi's data folders: ``wav.scp``, ``text``, and where they are there ``segments``, ``utt2spk``, ``utt2dur``, other ``utt2…``.

Format: https://kaldi-asr.org/doc/data_prep.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora.audio_files import existing
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import read_lines, require_audio

_OWN_MAPS = ("utt2spk", "utt2dur", "utt2num_frames")
Cells = Mapping[str, tuple[str, str]]  # place and value by the first word of the line


class KaldiFormat:
    """A data folder. An utterance that is its own speaker, as Kaldi writes where speakers are unknown, has none."""

    name = "kaldi"
    options: Mapping[str, str] = {}
    fallback = False

    def recognises(self, path: Path) -> bool:
        return (path / "wav.scp").is_file()

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        folder = source.path
        texts, recordings = read_map(folder / "text"), read_map(folder / "wav.scp")
        parts = _optional(folder / "segments")
        speakers, durations, genders = (_optional(folder / name) for name in ("utt2spk", "utt2dur", "spk2gender"))
        further = {
            path.name.removeprefix("utt2"): read_map(path)
            for path in sorted(folder.glob("utt2*"))
            if path.name not in _OWN_MAPS and path.is_file()
        }
        _check_same(texts, parts or recordings, folder / "text", folder / ("segments" if parts else "wav.scp"))
        entries = []
        for identifier, (place, text) in texts.items():
            recording, start, seconds = _part(*parts[identifier]) if parts else (identifier, None, None)
            speaker = speakers.get(identifier, ("", identifier))[1]
            fields = {name: cells[identifier][1] for name, cells in further.items() if identifier in cells}
            if speaker in genders:
                fields["gender"] = genders[speaker][1]
            if identifier in durations and seconds is None:
                seconds = _seconds(durations[identifier][1], durations[identifier][0])
            entries.append(
                Entry(
                    place=place,
                    audio=_audio(recordings, recording, folder, parts[identifier][0] if parts else place),
                    text=text,
                    identifier=identifier,
                    duration=seconds,
                    start=start,
                    speaker=speaker if speaker != identifier else None,
                    fields=fields,
                )
            )
        return entries


def read_map(path: Path) -> Cells:
    """Place (file and line) and what follows, by the line's first word: the form of all of Kaldi's files.

    Raises:
        ManifestError: if the file is missing or a word begins two lines.
    """
    found: dict[str, tuple[str, str]] = {}
    for place, line in read_lines(path):
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if key in found:
            before = found[key][0].rpartition(", ")[2]
            raise ManifestError(f"{place}: the id '{key}' is already that of {before}; give every utterance its own.")
        found[key] = (place, value.strip())
    return found


def _optional(path: Path) -> Cells:
    return read_map(path) if path.is_file() else {}


def _check_same(texts: Cells, audio: Cells, text_file: Path, audio_file: Path) -> None:
    for here, there, file in ((texts, audio, audio_file), (audio, texts, text_file)):
        lacking = [identifier for identifier in here if identifier not in there]
        if lacking:
            place = here[lacking[0]][0]
            others = f" and {len(lacking) - 1} more are" if len(lacking) > 1 else " is"
            raise ManifestError(f"{place}: the utterance '{lacking[0]}'{others} not in {file}; run fix_data_dir.sh, or add it.")


def _part(place: str, value: str) -> tuple[str, float, float | None]:
    """Recording, start and duration of a segment; no duration where it ends, at -1, with its recording."""
    words = value.split()
    if len(words) < 3:
        raise ManifestError(f"{place}: a segment is written 'utterance recording start end'; correct the line.")
    start, end = _seconds(words[1], place), _seconds(words[2], place)
    if start < 0 or (end != -1 and end <= start):
        raise ManifestError(f"{place}: the segment runs from {start:g} to {end:g} s; correct its times.")
    return words[0], start, None if end == -1 else round(end - start, 6)


def _seconds(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(f"{place}: '{text}' is no number of seconds; correct it.")
    return value


def _audio(recordings: Cells, recording: str, folder: Path, place: str) -> Path:
    if recording not in recordings:
        raise ManifestError(f"{place}: the recording '{recording}' is not in {folder / 'wav.scp'}; add it.")
    place, value = recordings[recording]
    if value.endswith("|"):
        raise ManifestError(f"{place}: '{value}' is a command, which is not run; write its output to a file and name that.")
    if re.search(r"\.ark:\d+$", value):
        raise ManifestError(
            f"{place}: {value} is a place in an archive, which is not read; write the audio to a file (wav-copy)."
        )
    return require_audio(existing(value, folder), place)


format = KaldiFormat()
