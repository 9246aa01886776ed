"""Reading a corpus of any known format.

A format is one module in ``asrmerge.speech.corpora.formats`` that ends with ``format = X()``, an object as :class:`Format` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora import formats
from asrmerge.speech.corpora.entries import Entry, OnProgress, complete
from asrmerge.speech.corpora.sources import Readable, Source, choose_format, find_formats
from asrmerge.speech.manifest import Utterance


class Format(Readable, Protocol):
    """One format of corpora."""

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        """The corpus's entries, in order.

        ``cache`` is a folder for audio that isn't there as files; ``on_progress`` is called only if it takes long to get there.
        """


def read_corpus(
    source: str, *, domain: str | None = None, cache: Path, training: bool = False, on_progress: OnProgress | None = None
) -> tuple[Utterance, ...]:
    """The utterances of a corpus, in order.

    Args:
        source: ``[FORMAT:]PLACE[,option=value…]``, such as ``test.jsonl``, ``kaldi:data/test`` or
            ``datasets:ORG/NAME,config=en,split=test``; without a prefix the format is found by looking.
        domain: takes the place of the utterances' own.
        cache: a folder where audio that isn't there as files is kept as files.
        training: refuse empty texts and audio that cannot be read. In test data an empty text is silence, and audio that cannot
            be read is kept, with a duration of 0 where the corpus says none, for the decoder to report.
        on_progress: called with (utterances read, utterances in all; 0 where unknown).

    Raises:
        ManifestError: with file, line and remedy, at the first thing that would fail later.
        AudioError: if audio to train on cannot be read.
    """
    found: Mapping[str, Format] = find_formats(formats)
    chosen, place = choose_format(found, source)
    entries = chosen.read(place, cache, on_progress)
    if not entries:
        raise ManifestError(f"{source}: there is no utterance in it; check the path.")
    return complete(entries, domain=domain, training=training, on_progress=on_progress)
