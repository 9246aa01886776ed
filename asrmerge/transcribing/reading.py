"""Recordings of any length in stretches that fit in memory, cut where it is quiet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from asrmerge.errors import AudioError
from asrmerge.recognizers.windows import split_at_pauses
from asrmerge.speech.audio import read_audio, read_utterance
from asrmerge.speech.manifest import Utterance

STRETCH_SECONDS = 300.0
_SEARCH_SECONDS = 30.0  # how far before a stretch's end its pause is looked for


@dataclass(frozen=True, eq=False)
class Stretch:
    """Samples of a recording from ``start``, in seconds into its file; ``last`` where nothing of the recording follows.

    ``error`` says why nothing could be read from there on.
    """

    recording: Utterance
    start: float
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    last: bool = True
    error: str | None = None


def read_recordings(
    recordings: Iterable[Utterance], sampling_rate: int, *, seconds: float = STRETCH_SECONDS
) -> Iterator[Stretch]:
    """The recordings in order, each in stretches of at most ``seconds`` that together are the whole."""
    for recording in recordings:
        try:
            yield from _read(recording, sampling_rate, seconds)
        except AudioError as error:
            yield Stretch(recording, recording.start or 0.0, error=str(error))


def _read(recording: Utterance, sampling_rate: int, seconds: float) -> Iterator[Stretch]:
    position = recording.start or 0.0
    if recording.duration <= seconds:
        yield Stretch(recording, position, read_utterance(recording, sampling_rate))
        return
    end = position + recording.duration
    search = round(_SEARCH_SECONDS * min(1.0, seconds / STRETCH_SECONDS) * sampling_rate)
    while end - position > seconds:
        samples = read_audio(recording.audio, sampling_rate, start=position, duration=seconds)
        # The cut falls in the quietest place of the second half of what is searched.
        tail = samples[-2 * search :]
        after = split_at_pauses(tail, window=len(tail) - 1, sampling_rate=sampling_rate)[-1]
        samples = samples[: len(samples) - len(after)]
        yield Stretch(recording, position, samples, last=False)
        position += len(samples) / sampling_rate
    yield Stretch(recording, position, read_audio(recording.audio, sampling_rate, start=position, duration=end - position))
