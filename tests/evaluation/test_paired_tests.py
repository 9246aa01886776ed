"""Sign, Wilcoxon and McNemar: sc_stats' and scipy's p-values, and their edges."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sctk_runner import domain_texts, misrecognise, needs_sctk, sc_stats, sclite

from asrmerge.evaluation.counts import count_all_errors
from asrmerge.evaluation.paired_tests import mcnemar_test, sign_test, wilcoxon_test

rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=30)


def tabulated(z: float) -> float:
    """sc_stats looks Z up in a table, with two digits."""
    return float(2 * stats.norm.sf(math.floor(100 * abs(z)) / 100))


@needs_sctk
@pytest.mark.parametrize(("one", "other", "seed"), [(0.1, 0.11, 1), (0.4, 0.2, 3), (0.1, 0.3, 5), (0.3, 0.4, 7)])
def test_p_values_are_sc_stats(tmp_path: Path, one: float, other: float, seed: int) -> None:
    """With up to 20 speakers, and utterances that only one model has right: beyond that its binomial distribution overflows."""
    references = domain_texts(38)
    first, second = misrecognise(references, one, seed), misrecognise(references, other, seed + 1)
    speakers = [f"f{number % 19:02}" for number in range(38)]
    _, expected = sc_stats(
        tmp_path,
        sclite(tmp_path / "one", references, first, speakers),
        sclite(tmp_path / "two", references, second, speakers),
    )
    counts = [count_all_errors(references, texts, "sclite") for texts in (first, second)]
    errors = [[count.errors for count in model] for model in counts]
    words = [count.words for count in counts[0]]

    assert expected["mcnemar"] == pytest.approx(max(mcnemar_test(*errors).p_value, 0.001), abs=0.0006)
    pooled = np.array([*errors, words]).reshape(3, 2, 19).sum(axis=1)
    differences = (pooled[0] - pooled[1]) / pooled[2]
    sign = sign_test(*errors, words, speakers)
    assert (sign.unit, sign.units, sign.mean) == ("speaker", 19, pytest.approx(differences.mean()))
    if differences.all():  # sc_stats gives equals to both models by turns
        assert expected["sign"] == pytest.approx(max(sign.p_value, 0.001), abs=0.0006)
        lower = wilcoxon_test(*errors, words, speakers).statistic
        assert expected["wilcoxon"] == pytest.approx(max(tabulated((lower - 95) / math.sqrt(617.5)), 0.001), abs=0.0006)


@needs_sctk
@pytest.mark.parametrize(("units", "better"), [(6, 0), (8, 1), (15, 4), (20, 5), (20, 10)])
def test_sign_and_mcnemar_are_sc_stats(tmp_path: Path, units: int, better: int) -> None:
    references = ["aa bb cc"] * units
    first = ["aa bb cc"] * better + ["aa xx cc"] * (units - better)
    second = ["xx bb cc"] * better + ["aa bb cc"] * (units - better)
    speakers = [f"f{number:02}" for number in range(units)]
    systems = [sclite(tmp_path / name, references, texts, speakers) for name, texts in (("one", first), ("two", second))]
    _, expected = sc_stats(tmp_path, *systems)
    errors = [[count.errors for count in count_all_errors(references, texts)] for texts in (first, second)]
    assert expected["sign"] == pytest.approx(sign_test(*errors, [3] * units, speakers).p_value, abs=0.0006)
    assert expected["mcnemar"] == pytest.approx(mcnemar_test(*errors).p_value, abs=0.0006)


def test_worked_example() -> None:
    candidate, reference, words = [1, 0, 2, 0, 1, 3], [2, 1, 2, 3, 2, 1], [5, 5, 5, 10, 4, 8]
    sign = sign_test(candidate, reference, words)
    assert (sign.statistic, sign.units, sign.unit) == (4, 6, "utterance")
    assert sign.p_value == pytest.approx(2 * (1 + 5) / 2**5)  # four of five
    assert sign.mean == pytest.approx(np.mean([-0.2, -0.2, 0, -0.3, -0.25, 0.25]))
    wilcoxon = wilcoxon_test(candidate, reference, words)
    assert wilcoxon.statistic == pytest.approx(3.5)  # ranks 1.5 1.5 5 3.5 and, for the reference, 3.5
    mcnemar = mcnemar_test(candidate, reference)
    assert (mcnemar.statistic, mcnemar.p_value, mcnemar.units) == (2, 0.5, 6)
    assert mcnemar.mean == pytest.approx(-2 / 6)


@settings(max_examples=10, deadline=None)  # scipy goes through all signs where a few units are tied
@given(rows)
def test_swapping_the_models_keeps_the_p_value(counts: list[tuple[int, int, int]]) -> None:
    one, other, words = zip(*counts, strict=True)
    for test in (sign_test, wilcoxon_test):
        forth, back = test(one, other, words), test(other, one, words)
        assert forth.p_value == pytest.approx(back.p_value)
        assert forth.mean == pytest.approx(-back.mean)
        assert 0 <= forth.p_value <= 1
    assert mcnemar_test(one, other).p_value == mcnemar_test(other, one).p_value


@settings(deadline=None)
@given(rows)
def test_equal_models_do_not_differ(counts: list[tuple[int, int, int]]) -> None:
    errors, _, words = zip(*counts, strict=True)
    for test in (sign_test(errors, errors, words), wilcoxon_test(errors, errors, words), mcnemar_test(errors, errors)):
        assert (test.p_value, test.mean, test.significant()) == (1.0, 0.0, False)


def test_speakers_are_the_units_where_enough_are_known() -> None:
    generator = np.random.default_rng(0)
    candidate, reference, words = generator.integers(0, 4, 40), generator.integers(0, 4, 40), generator.integers(5, 9, 40)
    speakers = [f"s{number % 8}" for number in range(40)]
    pooled = [counts.reshape(5, 8).sum(axis=0) for counts in (candidate, reference, words)]
    assert wilcoxon_test(candidate, reference, words, speakers).statistic == wilcoxon_test(*pooled).statistic
    assert sign_test(candidate, reference, words, speakers).p_value == sign_test(*pooled).p_value
    assert sign_test(candidate, reference, words, ["s"] * 40).unit == "utterance"


@pytest.mark.parametrize("arguments", [([], [], []), ([1], [1, 2], [1]), ([1], [1], [1, 2]), ([1, 2], [1, 2], [3, 3], ["s"])])
def test_counts_out_of_step_are_refused(arguments: tuple[list[int], ...]) -> None:
    for test in (sign_test, wilcoxon_test):
        with pytest.raises(ValueError, match="must"):
            test(*arguments)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_wilcoxon_counts_every_choice_of_signs(differences: list[int]) -> None:
    errors = [10 + difference for difference in differences]
    test = wilcoxon_test(errors, [10] * len(errors), [1] * len(errors))
    unequal = np.array([difference for difference in differences if difference])
    ranks = stats.rankdata(np.abs(unequal))
    sums = [sum(rank for rank, kept in zip(ranks, signs, strict=True) if kept)
            for signs in itertools.product([False, True], repeat=len(ranks))]  # fmt: skip
    assert test.p_value == pytest.approx(min(1.0, 2 * np.mean([one <= test.statistic for one in sums])))


@pytest.mark.parametrize("count", [12, 50, 51, 120])
def test_wilcoxon_is_scipys_without_ties(count: int) -> None:
    differences = np.random.default_rng(count).permutation(np.arange(1, count + 1)) * np.where(np.arange(count) % 3, 1, -1)
    test = wilcoxon_test(1000 + differences, [1000] * count, [1] * count)
    expected = stats.wilcoxon(differences)
    assert (test.statistic, test.p_value) == (expected.statistic, pytest.approx(expected.pvalue))
