from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.search.blocks import ALL_AT_ONCE, plan_audio
from asrmerge.speech.manifest import Utterance


def utterances(durations, prefix=""):
    return [Utterance(f"{prefix}{index}", Path("x"), duration, "a") for index, duration in enumerate(durations)]


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 120), min_size=1), st.integers(0, 5))
def test_every_utterance_is_heard_once_and_the_looks_grow(sizes, seed):
    validation = {name: utterances(np.linspace(1, 9, count), name) for name, count in sizes.items()}
    plan = plan_audio(validation, seed=seed)
    assert plan == plan_audio({name: found[::-1] for name, found in validation.items()}, seed=seed)
    assert plan.total == sum(sizes.values()) == sum(map(plan.size, range(plan.looks)))
    for name, found in validation.items():
        heard = [one for look in range(plan.looks) for one in plan.block(name, look)]
        assert sorted(one.identifier for one in heard) == sorted(one.identifier for one in found)
        assert len(plan.block(name, 0)) >= min(8, len(found))
        assert list(plan.ends[name]) == sorted(plan.ends[name]) and plan.ends[name][-1] == len(found)


def test_each_look_has_short_and_long_utterances_in_their_share():
    durations = np.random.default_rng(0).lognormal(1, 0.8, 200)
    plan = plan_audio({"a": utterances(durations)}, seed=1)
    spread = np.std(durations) / np.sqrt(25)
    for look in range(plan.looks):
        found = [one.duration for one in plan.block("a", look)]
        assert abs(np.mean(found) - durations.mean()) < spread / 2  # random draws miss this in every third look
    assert plan.ends["a"] == (25, 50, 100, 200)


def test_the_seed_decides_and_one_look_needs_none():
    validation = {"a": utterances(range(1, 50))}
    assert plan_audio(validation, seed=1) != plan_audio(validation, seed=2)
    alone = plan_audio(validation, seed=1, fractions=ALL_AT_ONCE)
    assert alone == plan_audio(validation, seed=2, fractions=ALL_AT_ONCE) and alone.looks == 1
    with pytest.raises(ValueError, match="must grow"):
        plan_audio(validation, fractions=(0.5, 0.2, 1.0))
