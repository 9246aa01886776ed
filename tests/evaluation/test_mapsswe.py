"""MAPSSWE: sc_stats' figures on generated and misrecognised texts, segments by hand, and its properties."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sctk_runner import domain_texts, human_speech, misrecognise, needs_sctk, random_texts, sc_stats, sclite

from asrmerge.evaluation.mapsswe import mapsswe
from asrmerge.evaluation.paired_tests import PairedTest

texts = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


def printed(test: PairedTest) -> tuple[str, ...]:
    """As sc_stats prints it."""
    numbers = (test.mean, test.standard_deviation, test.statistic)
    return (str(test.units), *(f"{number:.3f}" for number in numbers), "Yes" if test.significant() else "No")


def check(folder: Path, references: list[str], first: list[str], second: list[str]) -> PairedTest:
    test = mapsswe(references, first, second)
    figures, p_values = sc_stats(folder, sclite(folder / "one", references, first), sclite(folder / "two", references, second))
    assert printed(test) == figures
    looked_up = 2 * stats.norm.sf(math.floor(100 * abs(test.statistic)) / 100)  # in its table of Z with two digits
    assert p_values["mapsswe"] == pytest.approx(max(looked_up, 0.001), abs=0.0006)
    return test


@needs_sctk
@pytest.mark.parametrize("seed", range(12))
def test_random_texts_are_judged_as_by_sc_stats(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    count = generator.choice([20, 80, 300])
    references, first, second = (random_texts(generator, count, 20) for _ in range(3))
    check(tmp_path, references, first, second)


@needs_sctk
@pytest.mark.parametrize(("one", "other"), [(0.1, 0.1), (0.1, 0.12), (0.2, 0.3), (0.02, 0.02), (0.9, 0.8), (0.05, 0.5)])
def test_misrecognised_speech_is_judged_as_by_sc_stats(tmp_path: Path, one: float, other: float) -> None:
    references = domain_texts(500)
    check(tmp_path, references, misrecognise(references, one, seed=1), misrecognise(references, other, seed=2))


@needs_sctk
def test_two_models_on_human_speech_are_judged_as_by_sc_stats(tmp_path: Path) -> None:
    test = check(tmp_path, *human_speech())
    assert test.units > 10 and not test.significant()


@pytest.mark.parametrize(
    ("reference", "first", "second", "differences"),
    [
        ("a b c d e f", "x b c d e f", "a b c d e y", [1, -1]),  # two right words in a row part two segments
        ("a b c", "x b c", "a b y", [0]),  # one does not
        ("a b c d", "x b c d", "a b q c y", [-1]),  # nor do two with an insertion between them
        ("a b c d", "a b c d q", "p a b c d", [-1, 1]),
        ("a b", "a b q r", "a b", [2]),
        ("", "q", "q r", [-1]),
        ("a b c", "a b c", "a b c", []),
    ],
)
def test_segments(reference: str, first: str, second: str, differences: list[int]) -> None:
    test = mapsswe([reference], [first], [second])
    assert (test.units, test.mean) == (len(differences), pytest.approx(np.mean(differences) if differences else 0.0))
    assert test.standard_deviation == pytest.approx(np.std(differences, ddof=1) if len(differences) > 1 else 0.0)


def test_statistic_is_that_of_the_differences() -> None:
    reference, first, second = (
        ["a b"] * 6,
        ["x y", "x b", "a y", "a b", "a b", "a b"],
        ["a b", "a b", "a b", "a x", "a b", "y x z"],
    )
    test = mapsswe(reference, first, second)  # differences 2, 1, 1, -1, -3
    assert test.units == 5
    assert test.statistic == pytest.approx(stats.ttest_1samp([2, 1, 1, -1, -3], 0).statistic)
    assert test.p_value == pytest.approx(2 * stats.norm.sf(abs(test.statistic)))


def test_differences_without_spread_show_nothing() -> None:
    test = mapsswe(["a b"] * 5, ["a x"] * 5, ["a b"] * 5)
    assert (test.statistic, test.p_value, test.units) == (0.0, 1.0, 5)


def test_no_utterances_at_all() -> None:
    assert mapsswe([], [], []).units == 0


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=6))
def test_swapping_the_models_turns_the_sign(triples: list[tuple[str, str, str]]) -> None:
    references, first, second = zip(*triples, strict=True)
    forth, back = mapsswe(references, first, second), mapsswe(references, second, first)
    assert (forth.units, forth.p_value) == (back.units, pytest.approx(back.p_value))
    assert (forth.mean, forth.statistic) == (pytest.approx(-back.mean), pytest.approx(-back.statistic))
