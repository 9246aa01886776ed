"""Paired tests between candidates that have heard the same part of the audio."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.search.counts import SearchCounts, missed_share
from asrmerge.search.outcome import pooled
from asrmerge.search.racing import Totals, beaten_level, difference, excess_spread, expected_counts

UTTERANCE = st.tuples(st.integers(1, 12), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)).map(
    lambda one: SearchCounts(one[0], one[1], 0, 0, terms=one[2], found=min(one[2], one[3]))
)


def totals_of(scores: dict[str, tuple[SearchCounts, ...]]) -> dict[str, Totals]:
    return {
        name: Totals(len(found), sum(one.words for one in found), sum(one.terms for one in found))
        for name, found in scores.items()
    }


@given(
    st.dictionaries(st.sampled_from("ab"), st.lists(UTTERANCE, min_size=2, max_size=9).map(tuple), min_size=1), st.integers(1, 9)
)
def test_rates_of_a_part_are_means_over_utterances_and_of_the_whole_the_pooled_ones(scores, heard):
    totals = totals_of(scores)
    part = {name: found[:heard] for name, found in scores.items()}
    for name, counts in expected_counts(part, totals).items():
        total, own = totals[name], part[name]
        mean = np.mean([one.errors / (total.words / total.utterances) for one in own])
        assert counts.wer == pytest.approx(mean, rel=1e-12)
        if total.terms:
            missed = np.mean([(one.terms - one.found) / (total.terms / total.utterances) for one in own])
            assert missed_share(counts) == pytest.approx(missed, rel=1e-12)
    whole = expected_counts(scores, totals)
    for name, counts in pooled(scores).items():
        assert whole[name].wer == counts.wer and missed_share(whole[name]) == missed_share(counts)


def test_a_difference_is_that_of_the_plain_paired_t_test():
    generator = np.random.default_rng(0)
    words = generator.integers(5, 15, 40)
    one, other = generator.poisson(2.0, 40), generator.poisson(2.6, 40)
    scores = [{"a": tuple(SearchCounts(int(w), int(e)) for w, e in zip(words, found, strict=True))} for found in (one, other)]
    total = totals_of(scores[0])
    value = (one.sum() - other.sum()) / words.sum()
    found = difference(value, *scores, ({"a": (1.0, 0.0)}, {"a": (1.0, 0.0)}), total)
    from scipy import stats

    expected = stats.ttest_rel(one / words.mean(), other / words.mean(), alternative="greater")
    assert (found.freedom, found.p_value) == (pytest.approx(39), pytest.approx(expected.pvalue))
    assert found.value / found.error == pytest.approx(expected.statistic)


def test_domains_add_up_by_their_slopes_and_terms_count():
    a = tuple(SearchCounts(10, errors, terms=2, found=2 - errors % 2) for errors in (0, 1, 2, 5, 3))
    b = tuple(SearchCounts(8, errors) for errors in (1, 0, 0, 4))
    totals = {**totals_of({"a": a, "b": b})}
    slopes = {"a": (0.4, 0.1), "b": (0.5, 0.0)}
    found = excess_spread(0.3, {"a": a, "b": b}, slopes, totals)
    parts = [
        np.array([0.4 * one.errors / 10 + 0.1 * (one.terms - one.found) / 2 for one in a]),
        np.array([0.5 * one.errors / 8 for one in b]),
    ]
    variances = [part.var(ddof=1) / len(part) for part in parts]
    assert found.error == pytest.approx(math.sqrt(sum(variances)))
    assert found.freedom == pytest.approx(sum(variances) ** 2 / (variances[0] ** 2 / 4 + variances[1] ** 2 / 3))


def test_equal_candidates_are_never_beaten_and_one_utterance_says_nothing():
    scores = {"a": tuple(SearchCounts(5, errors) for errors in (0, 2, 1))}
    slopes = ({"a": (1.0, 0.0)}, {"a": (1.0, 0.0)})
    same = difference(0.0, scores, scores, slopes, totals_of(scores))
    assert same.error == 0 and same.p_value == 1.0
    alone = {"a": scores["a"][:1]}
    assert difference(0.5, alone, {"a": (SearchCounts(5, 0),)}, slopes, totals_of(scores)).p_value > 0.4


def test_the_best_is_seldom_dropped_and_the_bad_are():
    """Candidates of 15 to 30 % WER on 100 utterances, four looks: the level bounds how often the true best is lost."""
    generator = np.random.default_rng(1)
    rates = np.array([0.15, 0.155, 0.16, 0.17, 0.2, 0.25, 0.3])
    slopes = ({"a": (1.0, 0.0)}, {"a": (1.0, 0.0)})
    totals = {"a": Totals(100, 1000)}
    lost, dropped, rounds = 0, np.zeros(len(rates)), 150
    for _ in range(rounds):
        hardness = generator.gamma(2.0, 0.5, 100)
        errors = generator.poisson(10 * rates[:, None] * hardness)
        alive = set(range(len(rates)))
        for heard in (12, 25, 50):
            means = errors[:, :heard].mean(1) / 10
            leader = min(alive, key=means.__getitem__)
            for one in sorted(alive - {leader}):
                scores = [{"a": tuple(SearchCounts(10, int(e)) for e in errors[who, :heard])} for who in (one, leader)]
                found = difference(means[one] - means[leader], *scores, slopes, totals)
                if found.p_value < beaten_level(0.05, 4, len(alive) - 1):
                    alive.discard(one)
        lost += 0 not in alive
        dropped += [index not in alive for index in range(len(rates))]
    assert lost <= 0.05 * rounds
    assert dropped[-1] >= 0.9 * rounds > dropped[1]
