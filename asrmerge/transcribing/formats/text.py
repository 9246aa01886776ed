"""Plain text: one line per recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asrmerge.speech.timed_text import Times
from asrmerge.transcribing.transcript import Transcript


@dataclass(frozen=True)
class PlainText:
    """One line per recording, in order; an empty one where a recording failed, so that lines go on counting recordings."""

    name: str = "text"
    suffix: str = ".txt"
    times: Times = "none"
    one_recording: bool = False

    def render(self, transcript: Transcript, folder: Path) -> str:
        return transcript.text + "\n"


format = PlainText()
