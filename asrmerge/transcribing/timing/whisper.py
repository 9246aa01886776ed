"""Whisper: its own segments where it has timestamps; else the pieces that long audio is cut into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asrmerge.recognizers.ctranslate2_backend import CTranslate2Whisper
from asrmerge.recognizers.families.whisper import WhisperRecognizer
from asrmerge.recognizers.windows import split_at_pauses
from asrmerge.speech.timed_text import Segment, TimedText, Times, project

Whisper = WhisperRecognizer | CTranslate2Whisper


def transcribe(recognizer: Whisper, audio: Sequence[np.ndarray], *, times: Times, batch_seconds: float) -> list[TimedText]:
    """Texts as ``recognizer.transcribe`` gives them, with segments.

    Audio beyond the window is decoded in one long-form pass, whose segments these are. Within the window the decoder writes no
    timestamps; with ``times="best"`` a second pass does, and its times are put to the text of the first.
    """
    rate = recognizer.sampling_rate
    window = round(recognizer.window_seconds * rate)
    long = [recognizer.has_timestamps and len(samples) > window for samples in audio]
    cut = [
        [] if whole else split_at_pauses(samples, window=window, sampling_rate=rate)
        for samples, whole in zip(audio, long, strict=True)
    ]
    texts = iter(recognizer.transcribe([piece for pieces in cut for piece in pieces], batch_seconds=batch_seconds))
    second = times == "best" and recognizer.has_timestamps
    return [
        recognizer.long_form(samples) if whole else _join(recognizer, [(piece, next(texts)) for piece in pieces], second)
        for samples, whole, pieces in zip(audio, long, cut, strict=True)
    ]


def _join(recognizer: Whisper, pieces: Sequence[tuple[np.ndarray, str]], second_pass: bool) -> TimedText:
    segments: list[Segment] = []
    position = 0.0
    for samples, text in pieces:
        seconds = len(samples) / recognizer.sampling_rate
        if text:
            own = project(text, recognizer.long_form(samples).segments) if second_pass else ()
            segments += [segment.shifted(position) for segment in own or (Segment(0.0, seconds, text),)]
        position += seconds
    return TimedText(" ".join(text for _, text in pieces if text), tuple(segments))
