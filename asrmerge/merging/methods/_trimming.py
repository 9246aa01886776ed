"""Trimming by magnitude, with exact thresholds: over one block or a whole model, in two passes and a few megabytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._row_chunks import iterate_chunks

# Without their sign bit, the bit patterns of float32 numbers, read as integers, are in the order of the magnitudes.
_MAGNITUDE_BITS = 0x7FFF_FFFF
_LOW_BITS = 16
_BINS = 1 << (31 - _LOW_BITS)

_STRIDE = 7  # of the entries sampled; a prime, because widths are multiples of small numbers, and columns differ
_WHOLE = 1 << 16  # chunks of fewer entries are looked at as a whole
_DEVIATIONS = 5  # that a sample may be off
_WIDEST = 16  # bins between which a magnitude is looked for

_Bits = NDArray[np.int32]


class _Bracket:
    """Where one expert's magnitude of a rank should lie, with what passes by counted."""

    def __init__(self, rank: int, lowest: int, highest: int) -> None:
        """``lowest`` to ``highest``: bins."""
        self._rank = rank  # from here on, among what is in the bracket
        self._start = lowest << _LOW_BITS
        self._counts = np.zeros((highest + 1 - lowest) << _LOW_BITS, np.int64)

    def count(self, bits: _Bits) -> None:
        """Add entries, by the bits of their magnitudes."""
        offsets = bits - np.int32(self._start)
        self._rank -= int(np.count_nonzero(offsets >= len(self._counts)))
        np.add.at(self._counts, offsets[offsets.view(np.uint32) < len(self._counts)], 1)

    def find(self) -> float | None:
        """The magnitude, once all entries are counted; None where it is not in the bracket."""
        if not 1 <= self._rank <= self._counts.sum():
            return None
        bits = self._start + _find_bin(self._counts, self._rank)
        return float(np.array([bits], np.int32).view(np.float32)[0])


def find_magnitudes(blocks: Callable[[], Iterator[Block]], ranks: Callable[[int], Sequence[int]]) -> list[list[float]]:
    """Per expert, the exact magnitudes of those ranks among the task vectors' entries in all blocks; rank 1 is the largest.

    A sample of the entries says between which magnitudes each of them lies, and a second pass counts those in between. Where
    the sample misleads, two passes more look at every entry.

    Args:
        blocks: each call is one pass over the same blocks.
        ranks: the ranks wanted, each from 1 to n, of n entries. Where n = 0 the magnitudes are 0.
    """
    found = _find_magnitudes(blocks, ranks, _STRIDE)
    if found is None:
        found = _find_magnitudes(blocks, ranks, 1)
    assert found is not None  # every entry was looked at
    return found


def _find_magnitudes(
    blocks: Callable[[], Iterator[Block]], ranks: Callable[[int], Sequence[int]], stride: int
) -> list[list[float]] | None:
    histograms: list[NDArray[np.int64]] = []
    entries = sampled = rounded = 0
    for block in blocks():
        histograms = histograms or [np.zeros(_BINS, np.int64) for _ in block.weights]
        for _, vectors in iterate_chunks(block):
            step = stride if vectors[0].numel() >= _WHOLE else 1
            entries += vectors[0].numel()
            sampled += vectors[0].numel() if step > 1 else 0
            rounded += step - 1
            for histogram, vector in zip(histograms, vectors, strict=True):
                bins = _magnitude_bits(vector.reshape(-1)[::step]) >> _LOW_BITS
                histogram += step * np.bincount(bins, minlength=_BINS)
    wanted = ranks(entries)
    if entries == 0:
        return [[0.0] * len(wanted) for _ in histograms]

    margin = math.ceil(_DEVIATIONS * math.sqrt(stride * sampled) / 2) + rounded  # a count's variance is a quarter at most
    brackets: list[list[_Bracket]] = []
    for histogram in histograms:
        ends = [[_find_bin(histogram, rank + shift) for shift in (margin, -margin)] for rank in wanted]
        if any(highest - lowest >= _WIDEST for lowest, highest in ends):
            return None
        brackets.append([_Bracket(rank, *pair) for rank, pair in zip(wanted, ends, strict=True)])
    for block in blocks():
        for _, vectors in iterate_chunks(block):
            for own, vector in zip(brackets, vectors, strict=True):
                bits = _magnitude_bits(vector.reshape(-1))
                for bracket in own:
                    bracket.count(bits)
    found = [[bracket.find() for bracket in own] for own in brackets]
    exact = [[magnitude for magnitude in own if magnitude is not None] for own in found]
    return exact if exact == found else None


def count_kept(density: float, entries: int) -> int:
    """The nearest whole number to density · entries, at least 1."""
    return max(1, round(density * entries))


def trim(tensor: Tensor, threshold: float) -> Tensor:
    """A copy in which the entries below ``threshold`` in magnitude are 0; those equal to it stay."""
    if threshold == 0:
        return tensor.clone()
    # Hardshrink keeps what is strictly above its bound, in one pass over memory: so the bound is the next number below.
    bound = float(np.nextafter(np.float32(threshold), np.float32(0)))
    return torch.nn.functional.hardshrink(tensor, bound)


def trim_band(tensor: Tensor, lowest: float, highest: float) -> Tensor:
    """A copy in which the entries below ``lowest`` or above ``highest`` in magnitude are 0; those equal to one of them stay."""
    return trim(tensor, lowest).sub_(torch.nn.functional.hardshrink(tensor, highest))


def _magnitude_bits(entries: Tensor) -> _Bits:
    return entries.numpy(force=True).view(np.int32) & np.int32(_MAGNITUDE_BITS)


def _find_bin(histogram: NDArray[np.int64], rank: int) -> int:
    """The bin that holds the entry of that rank, counted from the top bin's first as 1; ranks past the ends are at the ends."""
    above = histogram[::-1].cumsum()
    return len(histogram) - 1 - int(np.searchsorted(above, min(max(rank, 1), int(above[-1]))))
