"""Whisper's long-form decoding, window after window: where a window's last timestamp is, the next begins.

Radford et al. 2022, section 4.5, without its fallback to sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Of the timestamps; the features have two frames in that time.
_STEP_SECONDS = 0.02
_STEP_FRAMES = 2


@dataclass(frozen=True)
class TokenSegment:
    """Tokens between two timestamps, with them; ``start`` and ``end`` in seconds."""

    start: float
    end: float
    tokens: tuple[int, ...]


def long_form_segments(
    frames: int, window: int, decode: Callable[[int, int], Sequence[int]], *, timestamp_begin: int
) -> Iterator[TokenSegment]:
    """The segments of a recording.

    Args:
        frames: of its features.
        window: frames that the encoder takes.
        decode: the tokens, timestamps among them, of the window that begins at a frame and holds so many.
        timestamp_begin: the id of the timestamp zero.
    """
    seek = 0
    while seek < frames:
        count = min(window, frames - seek)
        tokens = decode(seek, count)
        offset = seek // _STEP_FRAMES
        steps = [token - timestamp_begin for token in tokens]
        pairs = [index for index in range(1, len(steps)) if steps[index - 1] >= 0 and steps[index] >= 0]
        # A single timestamp at the end says that nothing follows it; after a pair, the window broke off in a segment.
        complete = len(steps) > 1 and steps[-2] < 0 <= steps[-1]
        if pairs:
            cuts = [0, *pairs, *([len(steps)] if complete else [])]
            for first, last in pairwise(cuts):
                yield _segment(offset + steps[first], offset + steps[last - 1], tokens[first:last])
            seek += count if complete else max(1, steps[cuts[-1] - 1]) * _STEP_FRAMES
        else:
            stamps = [step for step in steps if step >= 0]
            yield _segment(offset, offset + (stamps[-1] if stamps and stamps[-1] else count // _STEP_FRAMES), tokens)
            seek += count


def _segment(start: int, end: int, tokens: Sequence[int]) -> TokenSegment:
    return TokenSegment(start * _STEP_SECONDS, end * _STEP_SECONDS, tuple(tokens))
