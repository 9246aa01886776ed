"""The bootstrap against plain loops, its coverage, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.evaluation import bootstrap
from asrmerge.evaluation.bootstrap import bootstrap_interval, paired_bootstrap, resampling_unit

utterances = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=12)


def loop(errors: list[int], words: list[int], samples: int, seed: int) -> list[float]:
    """The rates of Bisani and Ney's draws, one utterance at a time."""
    generator = np.random.default_rng(seed)
    rates = []
    for _ in range(samples):
        drawn = generator.integers(0, len(words), size=len(words))
        rates.append(sum(errors[index] for index in drawn) / sum(words[index] for index in drawn))
    return rates


@settings(max_examples=30, deadline=None)
@given(utterances, st.integers(0, 99))
def test_interval_is_that_of_a_plain_loop(rows: list[tuple[int, int, int]], seed: int) -> None:
    errors, _, words = (list(column) for column in zip(*rows, strict=True))
    interval = bootstrap_interval(errors, words, samples=40, seed=seed)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(loop(errors, words, 40, seed), [0.025, 0.975])))
    assert interval.resampled_by == "utterance"


@settings(max_examples=30, deadline=None)
@given(utterances, st.integers(0, 99))
def test_comparison_is_that_of_a_plain_loop(rows: list[tuple[int, int, int]], seed: int) -> None:
    candidate, reference, words = (list(column) for column in zip(*rows, strict=True))
    comparison = paired_bootstrap(candidate, reference, words, samples=40, seed=seed)
    differences = np.subtract(loop(candidate, words, 40, seed), loop(reference, words, 40, seed))
    assert comparison.difference == pytest.approx((sum(candidate) - sum(reference)) / sum(words))
    assert (comparison.low, comparison.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-12)
    assert comparison.probability_of_improvement == pytest.approx(np.mean(differences < -1e-12))


@settings(max_examples=30, deadline=None)
@given(utterances, st.integers(0, 99))
def test_swapping_the_models_mirrors_the_comparison(rows: list[tuple[int, int, int]], seed: int) -> None:
    one, other, words = zip(*rows, strict=True)
    forth = paired_bootstrap(one, other, words, samples=40, seed=seed)
    back = paired_bootstrap(other, one, words, samples=40, seed=seed)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert forth.probability_of_improvement + back.probability_of_improvement <= 1
    assert paired_bootstrap(one, one, words, samples=40, seed=seed).probability_of_improvement == 0


def test_splitting_the_draws_does_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, words = [1, 0, 2, 0, 3, 1, 1], [4, 5, 6, 3, 7, 2, 9]
    whole = bootstrap_interval(errors, words, samples=101, seed=3)
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 20)
    assert bootstrap_interval(errors, words, samples=101, seed=3) == whole
    assert bootstrap_interval(errors, words, samples=101, seed=4) != whole


def test_speakers_are_drawn_where_enough_are_known() -> None:
    eight = [str(number % 8) for number in range(16)]
    assert resampling_unit(eight) == "speaker"
    assert resampling_unit([*eight[:-1], None]) == "utterance"
    assert resampling_unit(["0" if name == "7" else name for name in eight]) == "utterance"
    assert resampling_unit(None) == "utterance"


def test_drawing_speakers_is_drawing_their_sums() -> None:
    errors, words = np.arange(16) % 5, 3 + np.arange(16) % 4
    speakers = [str(number % 8) for number in range(16)]
    pooled = bootstrap_interval(errors[:8] + errors[8:], words[:8] + words[8:], seed=1)
    clustered = bootstrap_interval(errors, words, seed=1, clusters=speakers)
    assert clustered.resampled_by == "speaker"
    assert (clustered.low, clustered.high) == (pooled.low, pooled.high)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    words = np.full(80, 10)
    intervals = [bootstrap_interval(generator.binomial(10, 0.2, 80), words, samples=200, seed=seed) for seed in range(200)]
    assert 0.89 <= np.mean([interval.low <= 0.2 <= interval.high for interval in intervals]) <= 0.99


def test_degenerate_sets() -> None:
    single = bootstrap_interval([1], [4], seed=0)
    assert (single.low, single.high) == (0.25, 0.25)
    silent = bootstrap_interval([0, 0], [0, 0], seed=0)
    assert (silent.low, silent.high) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("errors", "words", "options"),
    [
        ([], [], {}),
        ([1], [1, 2], {}),
        ([1], [1], {"clusters": ["a", "b"]}),
        ([1], [1], {"level": 1.0}),
        ([1], [1], {"samples": 0}),
    ],
)
def test_bad_arguments_are_refused(errors: list[int], words: list[int], options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        bootstrap_interval(errors, words, seed=0, **options)  # type: ignore[arg-type]
