"""How much a search says that its best is owed to luck, beside how much it is."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from spoken_world import COUNT, NAMES, WORDS, SpokenWorld, search

from asrmerge.search import study
from asrmerge.search.candidate import Candidate
from asrmerge.search.counts import SearchCounts
from asrmerge.speech.manifest import Utterance

RATE = 0.3


class World(SpokenWorld):
    """Every candidate is as good as the next, and only luck tells them apart."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def _counts(self, candidate: Candidate, domain: str, block: Sequence[Utterance]) -> tuple[SearchCounts, ...]:
        own = [self.seed, zlib.crc32(repr(candidate.key()).encode()), zlib.crc32(domain.encode())]
        errors = np.random.default_rng(own).poisson(RATE * WORDS, COUNT)
        return tuple(SearchCounts(WORDS, int(errors[int(one.identifier.rpartition("-")[2])])) for one in block)


def test_it_is_what_choosing_among_equals_gains_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "confirm", lambda *_: ())  # takes its time, and has no part in it
    said, true = [], []
    for seed in range(12):
        found = search(
            World(seed), tmp_path / f"{seed}.log", strategy="random", budget={"candidates": 40}, seed=seed, losses=False
        )
        assert found.optimism is not None and found.optimism.candidates == 40
        said.append(found.optimism.value)
        true.append(RATE - found.best.objective)
    # The lowest of 40 normal deviates lies 2.16 standard deviations below their mean.
    expected = 2.16 * (RATE / WORDS / (COUNT * len(NAMES))) ** 0.5
    assert mean(true) == pytest.approx(expected, rel=0.1)
    assert mean(said) == pytest.approx(expected, rel=0.1)
