"""Trimming by magnitude, with exact thresholds: over one block or a whole model, in two passes and a few hundred kilobytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._row_chunks import iterate_chunks

# Without their sign bit, the bit patterns of float32 numbers, read as integers, are in the order of the magnitudes.
_MAGNITUDE_BITS = 0x7FFF_FFFF
_LOW_BITS = 16
_HIGH_BINS, _LOW_BINS = 1 << (31 - _LOW_BITS), 1 << _LOW_BITS


def find_magnitudes(blocks: Callable[[], Iterator[Block]], ranks: Callable[[int], Sequence[int]]) -> list[list[float]]:
    """Per expert, the exact magnitudes of those ranks among the task vectors' entries in all blocks; rank 1 is the largest.

    Args:
        blocks: each call is one pass over the same blocks; two are made.
        ranks: the ranks wanted, each from 1 to n, of n entries. Where n = 0 the magnitudes are 0.
    """
    upper: list[Tensor] = []
    for block in blocks():
        upper = upper or [torch.zeros(_HIGH_BINS, dtype=torch.int64) for _ in block.weights]
        for _, vectors in iterate_chunks(block):
            for histogram, vector in zip(upper, vectors, strict=True):
                histogram += _count(_magnitude_bits(vector) >> _LOW_BITS, _HIGH_BINS)
    entries = int(upper[0].sum()) if upper else 0
    wanted = ranks(entries)
    if entries == 0:
        return [[0.0] * len(wanted) for _ in upper]

    found = [[_find_bin(histogram, rank) for rank in wanted] for histogram in upper]
    lower = [{high: torch.zeros(_LOW_BINS, dtype=torch.int64) for high, _ in places} for places in found]
    for block in blocks():
        for _, vectors in iterate_chunks(block):
            for histograms, vector in zip(lower, vectors, strict=True):
                _count_inside(histograms, _magnitude_bits(vector))
    return [
        [_from_bits((high << _LOW_BITS) + _find_bin(histograms[high], rank)[0]) for high, rank in places]
        for places, histograms in zip(found, lower, strict=True)
    ]


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


def _magnitude_bits(vector: Tensor) -> Tensor:
    return vector.reshape(-1).view(torch.int32) & _MAGNITUDE_BITS


def _count(values: Tensor, bins: int) -> Tensor:
    return torch.bincount(values, minlength=bins).cpu()


def _count_inside(histograms: Mapping[int, Tensor], bits: Tensor) -> None:
    """Add the lower bits of those entries to the histograms whose bin the upper bits name."""
    for high, histogram in histograms.items():
        inside = bits[(bits >> _LOW_BITS) == high]
        if len(inside) > 0:
            histogram += _count(inside & (_LOW_BINS - 1), _LOW_BINS)


def _find_bin(histogram: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the entry of that rank, counted from the top bin's first as 1, and its rank inside of the bin."""
    above = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    return len(histogram) - 1 - place, rank - (int(above[place - 1]) if place > 0 else 0)


def _from_bits(bits: int) -> float:
    return torch.tensor([bits], dtype=torch.int32).view(torch.float32).item()
