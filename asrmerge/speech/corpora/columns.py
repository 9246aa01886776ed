"""What columns are called in tables and in data sets of the hub, the first that is there taken; tables of rows by column."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.manifest import read_text

AUDIO = ("audio_filepath", "audio_path", "audio_file", "audio", "path", "file_name", "filename", "file", "wav")
TEXT = ("text", "sentence", "normalized_text", "transcript", "transcription", "reference", "ref")  # as the Open ASR Leaderboard
IDENTIFIER = ("id", "utterance_id", "utt_id", "uttid", "utt", "segment_id")
SPEAKER = ("speaker", "speaker_id", "spk", "spk_id", "speaker_name", "client_id")


@dataclass(frozen=True)
class Row:
    """One row of a table: its place (file and line number) and its cells by column."""

    place: str
    cells: Mapping[str, str]

    def label(self, column: str | None) -> str | None:
        """The cell, stripped; ``None`` where it is blank or there is no such column."""
        return (self.cells.get(column, "").strip() or None) if column else None


def pick(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of ``known`` among ``columns``, whatever its case."""
    by_name = {column.casefold(): column for column in reversed(columns)}
    return next((by_name[name] for name in known if name in by_name), None)


def require(columns: Sequence[str], given: str | None, known: Sequence[str], option: str, place: str) -> str:
    """The column that the user named by ``option``, or the first of ``known``.

    Raises:
        ManifestError: listing the columns that there are.
    """
    column = (given if given in columns else None) if given else pick(columns, known)
    if column is None:
        sought = f"no column '{given}'" if given else f"no column for the {option}, such as {', '.join(known[:4])}"
        raise ManifestError(f"{place}: there is {sought}; name one of {', '.join(columns)} by ',{option}=COLUMN'.")
    return column


def read_table(path: Path, *, quoting: bool = True) -> list[Row]:
    """The rows of a CSV or TSV file with a header; what separates a CSV file's columns (``,``, ``;``, ``|``, tab) is seen there.

    Raises:
        ManifestError: if the file is missing or not UTF-8, holds no rows, or a row has other columns than the header.
    """
    text = read_text(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;|\t", key=text.partition("\n")[0].count)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        strict=True,
    )
    rows: list[Row] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            place = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                raise ManifestError(
                    f"{place}: the row has {len(cells)} columns and the header {len(header)} ({', '.join(header)}); correct it."
                )
            else:
                rows.append(Row(place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise ManifestError(
            f"{path}, line {reader.line_num}: the row cannot be read ({error}); correct its quotation marks."
        ) from error
    if not rows:
        raise ManifestError(f"{path}: the table holds no rows; write a header and a row for every utterance.")
    return rows
