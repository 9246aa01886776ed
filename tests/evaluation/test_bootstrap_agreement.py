"""The bootstrap beside Kaldi's, sums of any counts, p-values, and what simulated sets show of them."""

from __future__ import annotations

import bootci
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.evaluation import bootstrap
from asrmerge.evaluation.bootstrap import (
    Resampling,
    bootstrap_interval,
    interval,
    paired_bootstrap,
    probability_of_improvement,
    standard_error,
    two_sided_p_value,
)

Counts = npt.NDArray[np.int64]
SAMPLES = 4000


def draw_set(seed: int, utterances: int = 300) -> tuple[Counts, Counts, Counts]:
    """Errors of two models, the second a little better, and words."""
    generator = np.random.default_rng(seed)
    words = generator.integers(3, 30, utterances)
    hard = generator.beta(1, 6, utterances)
    return generator.binomial(words, hard), generator.binomial(words, 0.9 * hard), words


@pytest.mark.parametrize("seed", range(3))
def test_normal_interval_is_kaldis(seed: int) -> None:
    errors, _, words = draw_set(seed)
    mean, low, high = bootci.wer_interval(errors, words, SAMPLES, np.random.default_rng(seed + 100))
    ours = bootstrap_interval(errors, words, samples=SAMPLES, seed=seed, kind="normal")
    deviation = (high - low) / (2 * 1.96)
    monte_carlo = deviation * np.sqrt((1 + 1.96**2 / 2) / SAMPLES)  # of a mean plus 1.96 standard deviations
    assert abs(ours.low - low) < 4 * np.sqrt(2) * monte_carlo
    assert abs(ours.high - high) < 4 * np.sqrt(2) * monte_carlo
    assert abs((ours.low + ours.high) / 2 - mean) < 4 * np.sqrt(2 / SAMPLES) * deviation


@pytest.mark.parametrize("seed", range(3))
def test_percentile_interval_is_near_kaldis_on_a_large_set(seed: int) -> None:
    errors, _, words = draw_set(seed, utterances=2000)
    _, low, high = bootci.wer_interval(errors, words, SAMPLES, np.random.default_rng(seed + 100))
    ours = bootstrap_interval(errors, words, samples=SAMPLES, seed=seed)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.08 * (high - low))


@pytest.mark.parametrize("seed", range(3))
def test_probability_of_improvement_is_kaldis(seed: int) -> None:
    first, second, words = draw_set(seed)
    expected = bootci.probability_of_improvement(first, second, SAMPLES, np.random.default_rng(seed + 100))
    ours = paired_bootstrap(second, first, words, samples=SAMPLES, seed=seed).probability_of_improvement
    assert abs(ours - expected) < 4 * np.sqrt(2 * max(expected * (1 - expected), 1 / SAMPLES) / SAMPLES)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(0, 99), st.sampled_from(["", "medical", "légal"]))
def test_sums_are_those_of_the_drawn_utterances(data: st.DataObject, utterances: int, seed: int, stream: str) -> None:
    counts = np.array(data.draw(st.lists(st.lists(st.integers(-5, 50), min_size=utterances, max_size=utterances), min_size=1)))
    resampling = Resampling(utterances, samples=17, seed=seed, stream=stream)
    generator = np.random.default_rng([seed, *stream.encode()] if stream else seed)
    drawn = generator.integers(utterances, size=(17, utterances))
    sums = resampling.sums(counts)
    assert sums.dtype == np.int64
    assert np.array_equal(sums, counts[:, drawn].sum(axis=2))
    assert np.array_equal(resampling.sums(counts[0]), sums[0])
    assert resampling.sums(counts / 3) == pytest.approx(sums / 3)


def test_speakers_are_drawn_whole() -> None:
    speakers = [f"f{number % 9}" for number in range(40)]
    resampling = Resampling(40, samples=50, seed=0, speakers=speakers)
    assert (resampling.unit, resampling.units) == ("speaker", 9)
    of_one = np.array([speaker == "f3" for speaker in speakers])
    assert set(resampling.sums(of_one) % of_one.sum()) == {0}
    assert resampling.sums(np.ones(40, dtype=int)).std() > 0  # speakers have four or five utterances each


def test_sets_of_their_own_streams_are_drawn_apart() -> None:
    counts = np.random.default_rng(0).integers(0, 9, 200)
    draws = {stream: Resampling(200, 500, seed=1, stream=stream).sums(counts) for stream in ("", "legal", "medical")}
    assert abs(np.corrcoef(draws["legal"], draws["medical"])[0, 1]) < 0.2
    assert np.array_equal(draws["legal"], Resampling(200, 500, seed=1, stream="legal").sums(counts))
    assert not np.array_equal(draws[""], draws["legal"])


def test_memory_is_bounded_without_changing_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (3, 70))
    whole = Resampling(70, 101, seed=3).sums(counts)
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 200)
    assert np.array_equal(Resampling(70, 101, seed=3).sums(counts), whole)


def test_figures_of_draws() -> None:
    draws = np.array([-0.3, -0.2, -0.2, -0.1, -0.1, -0.1, -0.05, 0.0, 0.1])
    assert probability_of_improvement(draws) == pytest.approx(7 / 9)
    assert two_sided_p_value(draws) == pytest.approx(2 * (1 + 2) / 10)
    assert two_sided_p_value(np.zeros(5)) == 1.0
    assert two_sided_p_value(np.full(99, -1.0)) == pytest.approx(0.02)
    assert standard_error(draws) == pytest.approx(np.std(draws, ddof=1))
    assert standard_error(draws[:1]) == 0.0


def test_draws_without_a_value_are_left_out() -> None:
    draws = np.array([0.1, np.nan, 0.3, 0.2])
    assert interval(draws, 0.5) == interval(draws[~np.isnan(draws)], 0.5)
    assert np.isnan(interval(np.full(3, np.nan))).all()
    assert two_sided_p_value(np.full(3, np.nan)) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999))
def test_p_value_and_interval_say_the_same(seed: int) -> None:
    candidate, reference, words = draw_set(seed, utterances=60)
    comparison = paired_bootstrap(candidate, reference, words, samples=1999, seed=seed)
    if comparison.p_value < 0.045:
        assert not comparison.low <= 0 <= comparison.high
    if comparison.p_value > 0.055:
        assert comparison.low <= 0 <= comparison.high


def test_equal_models_seldom_differ_significantly() -> None:
    generator = np.random.default_rng(0)
    words = np.full(150, 12)
    p_values = []
    for seed in range(300):
        hard = generator.beta(2, 8, 150)
        one, other = generator.binomial(words, hard), generator.binomial(words, hard)
        p_values.append(paired_bootstrap(one, other, words, samples=400, seed=seed).p_value)
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert 0.4 <= np.mean(np.array(p_values) < 0.5) <= 0.6


def test_drawing_speakers_covers_where_drawing_utterances_does_not() -> None:
    """Speakers differ, and their utterances come together."""
    generator = np.random.default_rng(0)
    covered = {"speaker": 0, "utterance": 0}
    speakers = [f"s{number // 15}" for number in range(30 * 15)]
    words = np.full(len(speakers), 10)
    for seed in range(150):
        rates = np.repeat(generator.beta(4, 16, 30), 15)
        errors = generator.binomial(words, rates)
        for clusters in (speakers, None):
            found = bootstrap_interval(errors, words, samples=200, seed=seed, clusters=clusters)
            covered[found.resampled_by] += found.low <= 0.2 <= found.high
    assert covered["speaker"] / 150 >= 0.88
    assert covered["utterance"] / 150 <= 0.75


@pytest.mark.parametrize("counts", [5, [1, 2], [[1, 2, 3, 4]]])
def test_counts_of_other_utterances_are_refused(counts: object) -> None:
    with pytest.raises(ValueError, match="must cover 3 utterances"):
        Resampling(3, 10, seed=0).sums(counts)  # type: ignore[arg-type]
