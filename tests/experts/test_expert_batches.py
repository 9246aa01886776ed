"""Training batches: all of a domain, as much general speech as asked for, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.experts.batches import length_batches, plan_batches
from asrmerge.speech.manifest import Utterance


def utterances(name: str, durations: list[float]) -> list[Utterance]:
    return [Utterance(f"{name}-{index}", Path(f"{name}-{index}.wav"), one, "a") for index, one in enumerate(durations)]


DURATIONS = st.lists(st.floats(0.3, 5.0), min_size=1, max_size=40)
LIKE_SPEECH = [1.0 + (index * 37 % 31) / 10 for index in range(120)]


@settings(max_examples=50, deadline=None)
@given(DURATIONS, st.floats(1.0, 30.0), st.integers(0, 2**32))
def test_every_epoch_holds_every_utterance_once(durations: list[float], seconds: float, seed: int) -> None:
    domain = utterances("d", durations)
    plan = plan_batches(domain, [], steps=3 * len(domain), seconds=seconds, replay=0.5, seed=seed)
    order = [utterance.identifier for batch in plan for utterance in batch]
    expected = sorted(utterance.identifier for utterance in domain)
    for epoch in range(3):
        assert sorted(order[epoch * len(domain) : (epoch + 1) * len(domain)]) == expected


@settings(max_examples=50, deadline=None)
@given(DURATIONS, st.floats(1.0, 30.0), st.integers(0, 2**32))
def test_no_batch_is_longer_than_asked_for_but_for_single_utterances(durations: list[float], seconds: float, seed: int) -> None:
    domain = utterances("d", durations)
    for batch in plan_batches(domain, [], steps=20, seconds=seconds, replay=0.0, seed=seed):
        # Sorted by a length that wanders by 15 %: so does the bound on what is padded.
        assert len(batch) == 1 or max(one.duration for one in batch) * len(batch) <= seconds * 1.15 / 0.85


@pytest.mark.parametrize("replay", [0.1, 0.25, 0.5, 0.8])
def test_the_share_of_general_speech_is_what_was_asked_for(replay: float) -> None:
    domain, general = utterances("d", LIKE_SPEECH), utterances("g", LIKE_SPEECH[::-1])
    plan = plan_batches(domain, general, steps=200, seconds=48, replay=replay, seed=1)
    seconds = {kind: sum(one.duration for batch in plan for one in batch if one.identifier[0] == kind) for kind in "dg"}
    assert seconds["g"] / sum(seconds.values()) == pytest.approx(replay, abs=0.06)
    assert all({one.identifier[0] for one in batch} == {"d", "g"} for batch in plan)
    assert {one.identifier for batch in plan for one in batch} == {one.identifier for one in (*domain, *general)}


def test_no_replay_or_nothing_to_replay_leaves_the_whole_batch_to_the_domain() -> None:
    domain, general = utterances("d", LIKE_SPEECH), utterances("g", LIKE_SPEECH)
    without = plan_batches(domain, [], steps=20, seconds=24, replay=0.4, seed=1)
    assert without == plan_batches(domain, general, steps=20, seconds=24, replay=0.0, seed=1)
    average = sum(one.duration for batch in without for one in batch) / 20
    assert 18 < average <= 24


def test_the_seed_decides_the_plan_and_every_epoch_is_shuffled_anew() -> None:
    domain, general = utterances("d", LIKE_SPEECH), utterances("g", LIKE_SPEECH)

    def plan(seed: int, steps: int = 60) -> list[list[Utterance]]:
        return plan_batches(domain, general, steps=steps, seconds=24, replay=0.25, seed=seed)

    assert plan(1) == plan(1) != plan(2)
    assert plan(1, 60)[:30] == plan(1, 30)
    own = [one.identifier for batch in plan(1) for one in batch if one.identifier[0] == "d"]
    assert own[:120] != own[120:240]


def test_utterances_of_like_length_share_a_batch() -> None:
    plan = plan_batches(utterances("d", LIKE_SPEECH), [], steps=100, seconds=24, replay=0, seed=0)
    padded = sum(max(one.duration for one in batch) * len(batch) for batch in plan)
    assert sum(one.duration for batch in plan for one in batch) > 0.8 * padded


@settings(max_examples=50, deadline=None)
@given(DURATIONS, st.floats(1.0, 30.0))
def test_length_batches_hold_all_once_shortest_first_and_padded_within_bounds(durations: list[float], seconds: float) -> None:
    batches = length_batches(utterances("d", durations), seconds)
    assert [one.duration for batch in batches for one in batch] == sorted(durations)
    assert len({one.identifier for batch in batches for one in batch}) == len(durations)
    assert all(len(batch) == 1 or max(one.duration for one in batch) * len(batch) <= seconds for batch in batches)
