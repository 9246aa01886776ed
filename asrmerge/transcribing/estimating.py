"""Where in a segment its words were said, guessed from where there is sound."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from asrmerge.speech.timed_text import Segment, Word, split_words

_FRAME_SECONDS = 0.02
_BELOW_SPEECH = 1e-3  # a frame of less than this part of loud speech's energy (-30 dB) is silent
_PAUSE_FRAMES = 15  # shorter silences are also inside words
_NEAR_FRAMES = 50  # how far a boundary between words is moved to a pause


def estimate_words(segment: Segment, samples: np.ndarray, sampling_rate: int) -> Segment:
    """``segment`` with its words spread over the loud frames of ``samples`` by their letters; boundaries near a pause fall in it.

    Args:
        samples: ``[samples]``, what was said in the segment.
    """
    texts = split_words(segment.text)
    if not texts or not len(samples):
        return segment
    frame = round(_FRAME_SECONDS * sampling_rate)
    energy = [np.square(samples[start : start + frame], dtype=np.float64).mean() for start in range(0, len(samples), frame)]
    loud = np.asarray(energy) >= _BELOW_SPEECH * np.percentile(energy, 95)
    clock = np.concatenate(([0], np.cumsum(loud)))  # loud frames before each frame's beginning
    letters = np.cumsum([0, *map(len, texts)])
    boundaries = _at_pauses(letters / letters[-1] * clock[-1], loud, clock)
    # A word that begins where a pause does begins after it, and one that ends there ends before it.
    starts = np.searchsorted(clock, boundaries[:-1], side="right") - 1
    ends = np.maximum(np.searchsorted(clock, boundaries[1:], side="left"), starts + 1)
    words = tuple(
        Word(text, segment.start + start * _FRAME_SECONDS, min(segment.start + end * _FRAME_SECONDS, segment.end))
        for text, start, end in zip(texts, starts.tolist(), ends.tolist(), strict=True)
    )
    return replace(segment, words=words, estimated=True)


def _at_pauses(boundaries: npt.NDArray[np.float64], loud: np.ndarray, clock: np.ndarray) -> npt.NDArray[np.float64]:
    """``boundaries``, in loud frames, with the nearest to each pause moved into it, and those between them along."""
    edges = [0, *np.flatnonzero(np.diff(loud)) + 1, len(loud)]
    moved = {0: 0.0}
    for start, end in pairwise(edges):
        if not loud[start] and end - start >= _PAUSE_FRAMES:
            nearest = int(np.abs(boundaries - clock[start]).argmin())
            inside = max(moved) < nearest < len(boundaries) - 1
            if inside and abs(boundaries[nearest] - clock[start]) <= _NEAR_FRAMES:
                moved[nearest] = float(clock[start])
    moved[len(boundaries) - 1] = float(clock[-1])
    return np.interp(boundaries, boundaries[list(moved)], list(moved.values()))
