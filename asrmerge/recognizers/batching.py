"""Batches of similar length, so that little of a padded batch is padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def length_buckets(lengths: Sequence[int], *, batch_length: int, equal: bool = False) -> list[list[int]]:
    """Indices into ``lengths`` as batches of at most ``batch_length`` once padded to their longest, longest batch first.

    The longest first, because a batch that does not fit in memory should fail at the start. An utterance longer than
    ``batch_length`` is a batch of its own.

    Args:
        lengths: in samples.
        batch_length: in samples, padding included.
        equal: only utterances of exactly the same length share a batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = bool(batches) and longest * (len(batches[-1]) + 1) <= batch_length
        if fits and not (equal and lengths[index] != longest):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def map_batches(batches: Sequence[Sequence[int]], function: Callable[[Sequence[int]], Sequence[Result]]) -> list[Result]:
    """``function`` of each batch of indices; the results in the order of the indices, not of the batches."""
    results = {index: result for batch in batches for index, result in zip(batch, function(batch), strict=True)}
    return [results[index] for index in sorted(results)]
