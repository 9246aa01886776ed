"""What the loss leaves of the word errors, smoothed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spoken_world import BEST, FLOOR, NAMES, SpokenWorld, rate, search, truth

from asrmerge.search import loss_model
from asrmerge.search.candidate import Candidate
from asrmerge.search.smoothing import Smoothed


def test_it_is_the_conditional_mean_of_jointly_normal_values() -> None:
    """By drawing from the joint distribution: the values that agree with what was seen have this mean."""
    generator = np.random.default_rng(0)
    places, noise = [[0.1, 0.2], [0.6, 0.4]], [0.01, 0.04]
    asked = [0.4, 0.3]
    everywhere = np.array([*places, asked])
    apart = ((everywhere[:, None] - everywhere[None]) ** 2).sum(axis=2)
    joint = 0.3**2 * np.exp(-apart / (2 * 0.5**2)) + np.diag([*noise, 0.0])
    draws = generator.multivariate_normal(np.zeros(3), joint, size=200_000)
    slopes, *_ = np.linalg.lstsq(draws[:, :2], draws[:, 2], rcond=None)
    smoothed = Smoothed.fit(places, [0.2, -0.1], noise, spread=0.3, length=0.5)
    assert smoothed.at(asked) == pytest.approx(float(slopes @ [0.2, -0.1]), abs=2e-3)


def test_without_noise_it_goes_through_what_was_seen_and_far_away_it_says_nothing() -> None:
    smoothed = Smoothed.fit([[0.0], [0.5]], [0.1, -0.2], [1e-12, 1e-12], spread=0.3, length=0.2)
    assert (smoothed.at([0.0]), smoothed.at([0.5])) == (pytest.approx(0.1), pytest.approx(-0.2))
    assert smoothed.at([9.0]) == pytest.approx(0.0)


class MisledWorld(SpokenWorld):
    """Whose losses have their valley elsewhere than the word errors."""

    def losses(self, plan: Any) -> Any:
        def shifted(candidate: Candidate) -> Candidate:
            if candidate.method not in BEST or candidate.kind != "search":
                return candidate
            moved = {name: weight - 0.35 for name, weight in (candidate.model_weights() or {}).items()}
            return Candidate(candidate.label, candidate.method, moved)

        def answer(asked: Any) -> list[Mapping[str, tuple[float, ...]]]:
            return [
                {name: tuple(3 * rate(shifted(one), name) ** 1.2 for _ in plan.block(name, look)) for name in NAMES}
                for one, look in asked
            ]

        return answer


def test_where_the_loss_misleads_what_was_decoded_counts_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {}
    for spread in (loss_model._SPREAD, 1e-9):
        monkeypatch.setattr(loss_model, "_SPREAD", spread)
        found = [search(MisledWorld(), tmp_path / f"{spread}-{seed}", seed=seed).best.candidate for seed in range(4)]
        lost[spread] = np.mean([truth(one) for one in found]) - FLOOR["iso_c"]
    smoothed, plain = lost.values()
    assert plain > 0.01  # it does mislead
    assert smoothed < 0.8 * plain
