"""NeMo's JSON lines, with segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrmerge.speech.manifest import json_line, stored_path
from asrmerge.speech.timed_text import Segment, Times
from asrmerge.transcribing.transcript import Transcript


@dataclass(frozen=True)
class JsonLines:
    """One object per recording: the manifest's keys, ``pred_text``, ``segments``; ``error`` where a recording failed."""

    name: str = "jsonl"
    suffix: str = ".jsonl"
    times: Times = "free"
    one_recording: bool = False

    def render(self, transcript: Transcript, folder: Path) -> str:
        recording = transcript.recording
        return json_line(
            {
                "id": recording.identifier,
                "audio_filepath": stored_path(recording.audio, folder),
                "offset": recording.start,
                "duration": round(recording.duration, 3),
                "text": recording.text or None,
                "pred_text": transcript.text,
                "segments": [_segment(segment) for segment in transcript.segments] or None,
                "speaker": recording.speaker,
                "domain": recording.domain,
                "error": transcript.error,
                **recording.fields,
            }
        )


def _segment(segment: Segment) -> dict[str, Any]:
    known = () if segment.estimated else segment.words
    words = [{"start": round(word.start, 3), "end": round(word.end, 3), "word": word.text.strip()} for word in known]
    times = {"start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}
    return {**times, "words": words} if words else times


format = JsonLines()
