"""Which utterances are learnt from, and which are held out."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.errors import ManifestError
from asrmerge.learning.audio import split_audio
from asrmerge.speech.manifest import Utterance


def corpus(count: int, seconds: float = 2.0) -> list[Utterance]:
    return [Utterance(f"u{index}", Path(f"{index}.wav"), seconds, f"text {index}") for index in range(count)]


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5), st.randoms())
def test_a_split_hangs_on_seed_and_identifiers_alone(count: int, share: float, seed: int, random: st.DataObject) -> None:
    utterances = corpus(count)
    split = split_audio("legal", utterances, share=share, seed=seed, window=None)
    assert sorted(one.identifier for one in split.utterances) == sorted(one.identifier for one in utterances)
    assert len(split.held_out) == min(max(round(share * count), 1), count - 1)
    other = [replace(one, text="", duration=1.0) for one in utterances]
    random.shuffle(other)  # type: ignore[attr-defined]
    again = split_audio("legal", other, share=share, seed=seed, window=None)
    assert {one.identifier for one in again.held_out} == {one.identifier for one in split.held_out}
    assert split.has_texts and not again.has_texts


def test_other_seeds_hold_out_others() -> None:
    splits = {split_audio("legal", corpus(30), share=0.3, seed=seed, window=None).held_out for seed in range(4)}
    assert len(splits) == 4


def test_what_does_not_fit_is_left_out_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    utterances = [*corpus(3), *[replace(one, identifier=f"long-{one.identifier}") for one in corpus(5, seconds=31.0)]]
    utterances.append(replace(utterances[0], identifier="empty", duration=0.0))
    with caplog.at_level(logging.WARNING):
        split = split_audio("legal", utterances, share=0.3, seed=0, window=30.0)
    assert len(split.utterances) == 3 and len(split.left_out) == 6
    assert "audio of legal: 6 of 9 utterances left out" in caplog.text
    assert "long-u0: longer than the model's window of 30 s" in caplog.text and "and 3 more" in caplog.text
    assert split.left_out["empty"] == "shorter than a frame, or unreadable"


@pytest.mark.parametrize(("count", "seconds"), [(1, 2.0), (0, 2.0), (4, 31.0)])
def test_nothing_to_hold_out_is_refused(count: int, seconds: float) -> None:
    with pytest.raises(ManifestError, match=r"The audio of legal has [01] usable utterances.*at least two are needed"):
        split_audio("legal", corpus(count, seconds), share=0.3, seed=0, window=30.0)
