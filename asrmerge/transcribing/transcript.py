"""What was recognised in one recording."""

from __future__ import annotations

from dataclasses import dataclass

from asrmerge.speech.manifest import Utterance
from asrmerge.speech.timed_text import Segment


@dataclass(frozen=True)
class Transcript:
    """A recording and its text, on one line; ``error`` says why there is none.

    Times of the segments count from the beginning of the audio file, whatever part of it the recording is.
    """

    recording: Utterance
    text: str
    segments: tuple[Segment, ...] = ()
    error: str | None = None
