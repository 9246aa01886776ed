"""Kaldi's ``text``: ``utterance-id the words``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.evaluation.outputs.joining import Output
from asrmerge.speech.corpora.formats.kaldi import read_map
from asrmerge.speech.corpora.sources import Source


class KaldiFormat:
    """Named by the id."""

    name = "kaldi"
    options: Mapping[str, str] = {}
    fallback = True

    def recognises(self, path: Path) -> bool:
        return path.is_file() and (path.name in ("text", "hyp") or path.suffix == ".txt")

    def read(self, source: Source) -> Sequence[Output]:
        return [Output(place, text, (identifier,)) for identifier, (place, text) in read_map(source.path).items()]


format = KaldiFormat()
