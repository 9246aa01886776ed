"""Cutting long audio where it is quiet."""

from __future__ import annotations

import numpy as np


def split_at_pauses(audio: np.ndarray, *, window: int, sampling_rate: int) -> list[np.ndarray]:
    """Cut audio ``[samples]`` into pieces of at most ``window`` samples that together are the whole.

    Each cut falls in the quietest tenth of a second of the second half of the window, so no piece but the last is shorter than
    half a window.
    """
    pieces: list[np.ndarray] = []
    while len(audio) > window:
        cut = window // 2 + _quietest(audio[window // 2 : window], span=sampling_rate // 10)
        pieces.append(audio[:cut])
        audio = audio[cut:]
    return [*pieces, audio]


def _quietest(audio: np.ndarray, span: int) -> int:
    """The middle of the ``span`` samples with the least energy; at least 1, so that cutting always advances."""
    span = max(1, min(span, len(audio)))
    # Summed in float64: a running sum of squares in float32 loses the quiet frames behind the loud ones.
    total = np.concatenate(([0.0], np.cumsum(audio.astype(np.float64) ** 2)))
    return max(1, int(np.argmin(total[span:] - total[:-span])) + span // 2)
