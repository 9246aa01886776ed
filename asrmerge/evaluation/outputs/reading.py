"""Reading the transcripts of any system.

A format is one module in ``asrmerge.evaluation.outputs.formats`` that ends with ``format = X()``, an object as :class:`Format`
says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from asrmerge.errors import ManifestError
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.outputs import formats
from asrmerge.evaluation.outputs.joining import Output, join, own_references
from asrmerge.speech.corpora.sources import Readable, Source, choose_format, find_formats
from asrmerge.speech.manifest import Utterance


class Format(Readable, Protocol):
    """One format of transcripts."""

    def read(self, source: Source) -> Sequence[Output]:
        """The transcripts, in order."""


def read_outputs(path: Path | str, references: Sequence[Utterance] | None = None) -> tuple[Hypothesis, ...]:
    """The hypotheses in a file or folder, in the order of ``references``.

    Transcripts belong to references by id, else by the name of the audio file; those of the Open ASR Leaderboard that have
    neither, by order.

    Args:
        path: ``[FORMAT:]PLACE[,option=value…]``; without a prefix the format is found by looking.
        references: the test set; may be left out where the file holds the references too.

    Raises:
        ManifestError: with file, line and remedy; if transcripts are missing, too many or repeat, with some of their ids.
    """
    found: Mapping[str, Format] = find_formats(formats)
    chosen, source = choose_format(found, str(path))
    outputs = chosen.read(source)
    if not outputs:
        raise ManifestError(f"{source.path}: there is no transcript in it; check the path.")
    return own_references(outputs) if references is None else join(outputs, references, str(source.path))
