"""sclite's hypotheses: ``the words (utterance-id)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.evaluation.outputs.joining import Output
from asrmerge.speech.corpora.formats.trn import read_trn
from asrmerge.speech.corpora.sources import Source


class TrnFormat:
    """Named by the id."""

    name = "trn"
    options: Mapping[str, str] = {}
    fallback = False

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".trn"

    def read(self, source: Source) -> Sequence[Output]:
        return [Output(place, text, (identifier,)) for place, identifier, text in read_trn(source.path)]


format = TrnFormat()
