"""Cutting long audio: where it is quiet, or into windows that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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


def overlapping_windows(length: int, *, window: int, stride: int, step: int) -> list[tuple[int, int]]:
    """First and end position of the windows over ``length`` positions, which is more than one window.

    All are of one length but the last, which ends where the input does and is shorter by less than ``step``.

    Args:
        window: positions of a window, a multiple of ``step``.
        stride: half of what a window shares at least with each neighbour; below half a window.
        step: every window begins at a multiple of it.
    """
    advance = max(1, (window - 2 * stride) // step) * step
    last = -(-(length - window) // step) * step
    return [(start, start + window) for start in range(0, last, advance)] + [(last, length)]


def middles(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What to keep of each overlapping span so that together they are the whole: up to the middle of each overlap."""
    cuts = [(following[0] + span[1]) // 2 for span, following in pairwise(spans)]
    return list(zip([spans[0][0], *cuts], [*cuts, spans[-1][1]], strict=True))


def _quietest(audio: np.ndarray, span: int) -> int:
    """The middle of the ``span`` samples with the least energy; at least 1, so that cutting always advances."""
    span = max(1, min(span, len(audio)))
    # Summed in float64: a running sum of squares in float32 loses the quiet frames behind the loud ones.
    total = np.concatenate(([0.0], np.cumsum(audio.astype(np.float64) ** 2)))
    return max(1, int(np.argmin(total[span:] - total[:-span])) + span // 2)
