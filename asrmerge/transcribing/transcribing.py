"""Recordings to transcripts, in order, with as much audio in memory as is decoded together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

import numpy as np

from asrmerge.errors import ConfigError
from asrmerge.speech.manifest import Utterance
from asrmerge.speech.timed_text import Segment, TimedText, Times
from asrmerge.transcribing import timing
from asrmerge.transcribing.estimating import estimate_words
from asrmerge.transcribing.reading import STRETCH_SECONDS, Stretch, read_recordings
from asrmerge.transcribing.transcript import Transcript


class TextRecognizer(Protocol):
    """What transcription takes of a recogniser."""

    @property
    def family(self) -> str: ...

    @property
    def sampling_rate(self) -> int: ...

    def transcribe(self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0) -> list[str]: ...


def transcribe_recordings(
    recognizer: TextRecognizer,
    recordings: Sequence[Utterance],
    *,
    times: Times = "none",
    batch_seconds: float = 60.0,
    stretch_seconds: float = STRETCH_SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Transcript]:
    """The transcripts in the order of ``recordings``, each as soon as it is there; what cannot be read has an ``error``.

    Args:
        times: with ``best``, segments whose words have no times get estimated ones.
        batch_seconds: of audio that goes through the model together.
        stretch_seconds: longer recordings are decoded in stretches of this length, cut at pauses.
        progress: called with seconds of audio, done and in all.

    Raises:
        ConfigError: ``best`` times are asked for of a family that has none.
    """
    total = max(1, round(sum(recording.duration for recording in recordings)))
    done = 0.0
    parts: list[TimedText] = []
    stretches = read_recordings(recordings, recognizer.sampling_rate, seconds=stretch_seconds)
    for chunk in _chunks(stretches, round(max(stretch_seconds, batch_seconds) * recognizer.sampling_rate)):
        if progress:
            progress(min(round(done), total - 1), total)
        for stretch, text in zip(chunk, _transcribe(recognizer, chunk, times, batch_seconds), strict=True):
            parts.append(text)
            if stretch.last:
                yield _assemble(stretch, parts)
                parts = []
        done += sum(len(stretch.samples) for stretch in chunk) / recognizer.sampling_rate
    if progress:
        progress(total, total)


def _chunks(stretches: Iterable[Stretch], samples: int) -> Iterator[list[Stretch]]:
    """Stretches in order, in lists of ``samples`` or a little more."""
    chunk: list[Stretch] = []
    for stretch in stretches:
        chunk.append(stretch)
        if sum(len(one.samples) for one in chunk) >= samples:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _transcribe(recognizer: TextRecognizer, chunk: Sequence[Stretch], times: Times, batch_seconds: float) -> list[TimedText]:
    """One text per stretch, its times counted from the beginning of the file; an empty one where nothing was read."""
    read = [stretch for stretch in chunk if stretch.error is None]
    audio = [stretch.samples for stretch in read]
    families = [module.name for module in iter_modules(timing.__path__)]
    if times != "none" and recognizer.family in families:
        timed = import_module(f"{timing.__name__}.{recognizer.family}").transcribe
        texts: list[TimedText] = timed(recognizer, audio, times=times, batch_seconds=batch_seconds)
    elif times == "best":
        raise ConfigError(f"The family {recognizer.family} gives no times, which subtitles need; write another format.")
    else:
        texts = [TimedText(text) for text in recognizer.transcribe(audio, batch_seconds=batch_seconds)]
    placed = iter([_place(text, stretch, recognizer.sampling_rate, times) for text, stretch in zip(texts, read, strict=True)])
    return [next(placed) if stretch.error is None else TimedText("") for stretch in chunk]


def _place(text: TimedText, stretch: Stretch, sampling_rate: int, times: Times) -> TimedText:
    def with_words(segment: Segment) -> Segment:
        if segment.words or times != "best":
            return segment
        part = stretch.samples[round(segment.start * sampling_rate) : round(segment.end * sampling_rate)]
        return estimate_words(segment, part, sampling_rate)

    return replace(text, segments=tuple(with_words(segment).shifted(stretch.start) for segment in text.segments))


def _assemble(last: Stretch, parts: Sequence[TimedText]) -> Transcript:
    if last.error is not None:
        return Transcript(last.recording, "", error=last.error)
    text = " ".join(" ".join(part.text for part in parts).split())
    return Transcript(last.recording, text, tuple(segment for part in parts for segment in part.segments))
