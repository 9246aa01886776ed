"""CSV and TSV files with a header: a column of audio files, one of texts, and whatever else is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora import columns
from asrmerge.speech.corpora.audio_files import existing
from asrmerge.speech.corpora.columns import Row
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.sources import Source


class TableFormat:
    """A table. Audio paths are relative to it, or to ``folder``."""

    name = "table"
    options: Mapping[str, str] = {
        "audio": "the column of audio files",
        "text": "the column of texts",
        "folder": "what the audio files are relative to; the table's folder if not given",
    }
    fallback = True

    def recognises(self, path: Path) -> bool:
        return path.name.removesuffix(".gz").endswith((".csv", ".tsv"))

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        folder = Path(source.options["folder"]).expanduser() if "folder" in source.options else source.path.parent
        return entries_of(columns.read_table(source.path), source, folder)


def entries_of(rows: Sequence[Row], source: Source, folder: Path) -> list[Entry]:
    """An entry per row; columns without a meaning of their own become fields."""
    names, place = tuple(rows[0].cells), str(source.path)
    audio = columns.require(names, source.options.get("audio"), columns.AUDIO, "audio", place)
    text = columns.require(names, source.options.get("text"), columns.TEXT, "text", place)
    identifier, speaker = columns.pick(names, columns.IDENTIFIER), columns.pick(names, columns.SPEAKER)
    duration, start, domain = (columns.pick(names, (name,)) for name in ("duration", "offset", "domain"))
    own = {audio, text, identifier, speaker, duration, start, domain}
    entries = []
    for row in rows:
        file = row.label(audio)
        if file is None:
            raise ManifestError(f"{row.place}: '{audio}' is empty; write the path of the audio file, or leave the row out.")
        entries.append(
            Entry(
                place=row.place,
                audio=existing(file, folder),
                text=row.cells[text].strip(),
                identifier=row.label(identifier),
                duration=_seconds(row, duration) or None,
                start=_seconds(row, start),
                speaker=row.label(speaker),
                domain=row.label(domain),
                fields={name: cell.strip() for name, cell in row.cells.items() if name not in own},
            )
        )
    return entries


def _seconds(row: Row, column: str | None) -> float | None:
    text = row.label(column)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ManifestError(f"{row.place}: '{column}' is '{text}'; write it in seconds, a number from 0 on, or leave it empty.")
    return value


format = TableFormat()
