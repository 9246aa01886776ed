"""Batches of similar length, so that little of a padded batch is padding, and several of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

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


def map_batches(
    batches: Sequence[Sequence[int]], function: Callable[[Sequence[int]], Sequence[Result]], *, threads: int = 1
) -> list[Result]:
    """``function`` of each batch of indices; the results in the order of the indices, not of the batches.

    Args:
        threads: that take a batch each and compute it by themselves, without gradient.
    """
    found = _in_threads(batches, function, threads) if min(threads, len(batches)) > 1 else map(function, batches)
    pairs = (pair for batch, part in zip(batches, found, strict=True) for pair in zip(batch, part, strict=True))
    results = dict(pairs)
    return [results[index] for index in sorted(results)]


def batch_threads(device: torch.device) -> int:
    """How many batches a device should compute at a time: on a processor one for each of torch's threads.

    Threads that share one small operation wait for each other more than they compute; with a batch each, they never do.
    """
    return torch.get_num_threads() if device.type == "cpu" else 1


def _in_threads(
    batches: Sequence[Sequence[int]], function: Callable[[Sequence[int]], Sequence[Result]], threads: int
) -> list[Sequence[Result]]:
    usual = torch.get_num_threads()
    # For MKL the number holds in the whole process, for OpenMP in the thread that sets it.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(torch.no_grad()(function), batches))
    finally:
        torch.set_num_threads(usual)
