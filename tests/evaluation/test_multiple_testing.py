"""Holm's correction against closed testing, of which it is a short cut; the smallest detectable difference by simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from asrmerge.evaluation.bootstrap import paired_bootstrap
from asrmerge.evaluation.detectable import minimum_detectable_difference
from asrmerge.evaluation.multiple_testing import holm

p_values = st.lists(st.floats(0, 1), max_size=6)


def test_holm_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()
    assert holm([0.2]) == (0.2,)


@given(p_values)
def test_holm_is_closed_testing_with_bonferroni(values: list[float]) -> None:
    """A hypothesis falls when every set of hypotheses that holds it falls."""
    indices = range(len(values))
    sets = [chosen for size in range(1, len(values) + 1) for chosen in combinations(indices, size)]
    expected = [max(min(1.0, len(s) * min(values[i] for i in s)) for s in sets if index in s) for index in indices]
    assert holm(values) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(wrong: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, wrong])


def test_detectable_difference_of_many_units_is_the_textbooks() -> None:
    assert minimum_detectable_difference(0.01, 10**6) == pytest.approx(0.02802, abs=1e-5)  # 1.960 + 0.842 standard errors
    assert minimum_detectable_difference(0.01, 8) == pytest.approx(
        0.01 * (8 / 7) ** 0.5 * (stats.t.ppf(0.975, 7) + stats.t.ppf(0.8, 7))
    )


def test_nothing_is_known_without_spread() -> None:
    assert minimum_detectable_difference(0.0, 50) is None
    assert minimum_detectable_difference(0.1, 1) is None


@pytest.mark.parametrize("options", [{"level": 0.0}, {"power": 1.0}])
def test_detectable_difference_refuses_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        minimum_detectable_difference(0.1, 20, **options)


def draw(generator: np.random.Generator, difference: float, utterances: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of a candidate that is better by ``difference``, of a reference at 20 %, and words."""
    words = generator.integers(8, 16, utterances)
    share = generator.beta(3, 12, utterances)
    return generator.binomial(words, share * (1 - difference / 0.2)), generator.binomial(words, share), words


def test_a_difference_of_that_size_is_found_four_times_in_five() -> None:
    generator = np.random.default_rng(0)
    pilot = paired_bootstrap(*draw(generator, 0.0), samples=1000, seed=0)
    detectable = minimum_detectable_difference(pilot.standard_error, 400)
    assert detectable is not None

    def found(difference: float) -> float:
        tests = [paired_bootstrap(*draw(generator, difference), samples=300, seed=seed) for seed in range(300)]
        return float(np.mean([test.p_value < 0.05 for test in tests]))

    assert 0.72 <= found(detectable) <= 0.88
    assert found(detectable / 3) <= 0.3


def test_the_same_of_a_few_speakers() -> None:
    """With ten speakers, each a draw of its own, and the t-test that the formula supposes."""
    generator = np.random.default_rng(0)
    detectable = minimum_detectable_difference(0.03 * np.sqrt(0.9) / np.sqrt(10), 10)  # what a bootstrap finds on average
    assert detectable is not None
    differences = generator.normal(detectable, 0.03, (4000, 10))
    assert np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)
