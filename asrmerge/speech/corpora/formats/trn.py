"""sclite's transcripts, ``the words (utterance-id)``, with a folder of audio files that are called by the ids.

Format: SCTK, sclite(1), option ``-r … trn``. Lines that begin with ``;;`` are comments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora.audio_files import audio_by_name
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import read_lines

_LINE = re.compile(r"(?P<text>.*)\((?P<identifier>[^()]+)\)\s*")


class TrnFormat:
    """A reference of sclite; without any of its audio beside it, for transcripts that are scored."""

    name = "trn"
    options: Mapping[str, str] = {"folder": "where the audio lies; the folder of the transcript if not given"}
    fallback = False

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".trn"

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        folder = Path(source.options["folder"]).expanduser() if "folder" in source.options else source.path.parent
        lines = read_trn(source.path)
        files = audio_by_name(folder)
        if "folder" not in source.options and files.keys().isdisjoint(identifier for _, identifier, _ in lines):
            return [
                Entry(place, folder / identifier, text, identifier=identifier, duration=0.0, audio_needed=False)
                for place, identifier, text in lines
            ]
        entries = []
        for place, identifier, text in lines:
            if identifier not in files:
                raise ManifestError(
                    f"{place}: there is no audio file called '{identifier}' in {folder}; name its folder by ',folder=…'."
                )
            entries.append(Entry(place=place, audio=files[identifier], text=text, identifier=identifier))
        return entries


def read_trn(path: Path) -> list[tuple[str, str, str]]:
    """Place (file and line), identifier and text of every line.

    Raises:
        ManifestError: if a line does not end with an id in brackets, or holds alternatives, which have no one text.
    """
    found = []
    for place, line in read_lines(path):
        if line.startswith(";;"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ManifestError(f"{place}: the line does not end with the utterance's id in brackets; write 'the words (id)'.")
        text = match["text"].strip()
        if "{" in text:
            raise ManifestError(f"{place}: the text holds alternatives in braces; write the one that counts.")
        found.append((place, match["identifier"].strip(), text))
    return found


format = TrnFormat()
