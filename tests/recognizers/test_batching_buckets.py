from __future__ import annotations

from collections.abc import Sequence
from threading import Barrier

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.recognizers.batching import batch_threads, length_buckets, map_batches
from asrmerge.recognizers.windows import split_at_pauses


@given(st.lists(st.integers(0, 200), max_size=30), st.integers(1, 400), st.booleans())
def test_buckets_are_a_partition_within_the_bound(lengths: list[int], bound: int, equal: bool) -> None:
    batches = length_buckets(lengths, batch_length=bound, equal=equal)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= bound
        assert not equal or {lengths[index] for index in batch} == {longest}


def test_buckets_start_with_the_longest() -> None:
    assert length_buckets([1, 5, 3, 4], batch_length=10) == [[1, 3], [2, 0]]


def test_map_batches_restores_the_order() -> None:
    assert map_batches([[2, 0], [1]], lambda indices: [f"{index}" for index in indices]) == ["0", "1", "2"]
    with pytest.raises(ValueError, match="zip"):
        map_batches([[0, 1]], lambda indices: ["only one"])


def test_split_cuts_in_the_pause() -> None:
    audio = np.ones(25_000, dtype=np.float32)
    audio[12_000:14_000] = 0
    first, second = split_at_pauses(audio, window=16_000, sampling_rate=16_000)
    assert 12_000 < len(first) < 14_000
    assert len(first) + len(second) == len(audio)


@given(st.integers(0, 500), st.integers(2, 100))
def test_split_keeps_every_sample_within_the_window(samples: int, window: int) -> None:
    audio = np.random.default_rng(samples).normal(size=samples).astype(np.float32)
    pieces = split_at_pauses(audio, window=window, sampling_rate=160)
    assert all(len(piece) <= window for piece in pieces)
    np.testing.assert_array_equal(np.concatenate(pieces), audio)


def test_threads_take_a_batch_each_and_compute_it_alone() -> None:
    usual = torch.get_num_threads()
    meeting = Barrier(2, timeout=30)  # breaks unless two batches are under way at a time

    def function(indices: Sequence[int]) -> list[tuple[int, int, bool]]:
        meeting.wait()
        return [(index, torch.get_num_threads(), torch.is_grad_enabled()) for index in indices]

    assert map_batches([[3, 1], [0, 2]], function, threads=2) == [(index, 1, False) for index in range(4)]
    assert torch.get_num_threads() == usual and torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError):
        map_batches([[0], [1]], lambda indices: [1 // index for index in indices], threads=2)
    assert torch.get_num_threads() == usual


def test_a_processor_computes_a_batch_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert [batch_threads(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [3, 1, 1]
