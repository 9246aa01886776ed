"""sclite's trn: the text, then the utterance's id in parentheses.

Format: https://github.com/usnistgov/SCTK/blob/master/doc/infmts.htm
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from asrmerge.speech.timed_text import Times
from asrmerge.transcribing.transcript import Transcript


@dataclass(frozen=True)
class Trn:
    """``text (utterance-id)`` per recording; none for a recording that failed, since an empty text says that nothing was said."""

    name: str = "trn"
    suffix: str = ".trn"
    times: Times = "none"
    one_recording: bool = False

    def render(self, transcript: Transcript, folder: Path) -> str:
        if transcript.error is not None:
            return ""
        # Spaces and parentheses would end the id.
        identifier = re.sub(r"[\s()]", "_", transcript.recording.identifier)
        return f"{transcript.text} ({identifier})".lstrip() + "\n"


format = Trn()
