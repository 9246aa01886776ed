"""SubRip subtitles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asrmerge.speech.timed_text import Times
from asrmerge.transcribing.subtitles import subtitles
from asrmerge.transcribing.transcript import Transcript


@dataclass(frozen=True)
class SubRip:
    """Numbered subtitles of one recording; times count from the beginning of its file."""

    name: str = "srt"
    suffix: str = ".srt"
    times: Times = "best"
    one_recording: bool = True

    def render(self, transcript: Transcript, folder: Path) -> str:
        return "".join(
            "\n".join([str(number), f"{_clock(subtitle.start)} --> {_clock(subtitle.end)}", *subtitle.lines, "", ""])
            for number, subtitle in enumerate(subtitles(transcript.segments), start=1)
        )


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


format = SubRip()
