"""Summaries over domains and against base and expert: by hand, and against draws written out again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean

from asrmerge.evaluation.bootstrap import Resampling
from asrmerge.evaluation.estimates import figure, gap_closed, harmonic_accuracy, macro_average, range_of, retention, worst
from asrmerge.evaluation.records import Figure

rates = st.lists(st.lists(st.floats(0, 2), min_size=3, max_size=3), min_size=1, max_size=5).map(np.array)


@given(rates)
def test_averages_are_taken_in_every_draw(found: np.ndarray) -> None:
    np.testing.assert_allclose(macro_average(found), [np.mean(column) for column in found.T])
    np.testing.assert_array_equal(worst(found), [max(column) for column in found.T])
    np.testing.assert_allclose(
        harmonic_accuracy(found), [hmean([max(0, 1 - rate) for rate in column]) for column in found.T], rtol=1e-9
    )


def test_one_hopeless_domain_makes_the_harmonic_mean_nothing() -> None:
    assert harmonic_accuracy(np.array([[0.1], [1.3], [0.2]]))[0] == 0


def test_retention_is_the_share_of_the_accuracy_that_is_kept() -> None:
    base, model = np.array([0.2, 0.1, 0.3]), np.array([0.4, 0.1, 0.65])
    np.testing.assert_allclose(retention(model, base), [0.75, 1.0, 0.5])
    assert figure(retention(base, base), 0.95) == Figure(value=1.0, ci=(1.0, 1.0))
    assert retention(np.array([1.5]), base[:1])[0] == 0
    assert figure(retention(model, np.array([1.2, 0.5, 0.5])), 0.95) == Figure(value=None)


def test_the_gap_is_measured_only_where_there_is_one() -> None:
    base, expert = np.array([0.5, 0.5, 0.6, 0.5]), np.array([0.1, 0.2, 0.1, 0.1])
    np.testing.assert_allclose(gap_closed(base, base, expert, 0.5), 0)
    np.testing.assert_allclose(gap_closed(expert, base, expert, 0.5), 1)
    np.testing.assert_allclose(gap_closed(np.full(4, 0.3), base, expert, 0.5), [0.5, 2 / 3, 0.6, 0.5])
    noise = np.array([0.1, 0.2, 0.7, 0.1])  # worse than the base in a third of the draws
    assert np.isnan(gap_closed(expert, base, noise, 0.95)).all()
    assert np.isnan(gap_closed(expert, expert, base, 0.95)).all()  # an expert that is worse
    few = np.concatenate([expert[:1], np.full(199, 0.1), [0.9]])
    found = gap_closed(np.full(201, 0.3), np.full(201, 0.5), few, 0.95)
    assert figure(found, 0.95).ci == pytest.approx((0.5, 0.5)) and np.isnan(found[-1])


def test_figures_without_a_value() -> None:
    assert figure(np.array([np.nan, 0.2, 0.3]), 0.95) == Figure(value=None)
    assert range_of(np.array([0.3, np.nan]), 0.95) == (0.3, 0.3)
    low, high = range_of(np.array([0.5, *np.arange(101), np.nan]), 0.9)
    assert (low, high) == pytest.approx((5, 95))


def test_domains_have_draws_of_their_own() -> None:
    one, other = (Resampling(50, 200, 1, stream=name).sums(np.arange(50)) for name in ("medical", "legal"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.3
