"""sclite's alignment: move for move the tool's, the lowest cost, and what must add up."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sctk_runner import domain_texts, human_speech, misrecognise, needs_sctk, random_texts, sclite, sclite_moves

from asrmerge.evaluation import alignment
from asrmerge.evaluation.alignment import sclite_paths
from asrmerge.evaluation.counts import AlignedPair, ErrorCounts, align, count_all_errors, count_errors

LETTERS = "CSDI"
texts = st.lists(st.sampled_from("abc"), max_size=8)


def moves_of(references: list[str], hypotheses: list[str]) -> list[str]:
    paths = sclite_paths([text.split() for text in references], [text.split() for text in hypotheses])
    return ["".join(LETTERS[move] for move in path) for path in paths]


@needs_sctk
def test_random_texts_are_aligned_as_by_sclite(tmp_path: Path) -> None:
    generator = random.Random(0)
    references, hypotheses = random_texts(generator, 8000, 40), random_texts(generator, 8000, 40)
    assert moves_of(references, hypotheses) == sclite_moves(sclite(tmp_path, references, hypotheses))


@needs_sctk
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_misrecognised_speech_is_counted_as_by_sclite(tmp_path: Path, rate: float) -> None:
    references = domain_texts(3000)
    hypotheses = misrecognise(references, rate, seed=1)
    expected = sclite_moves(sclite(tmp_path, references, hypotheses))
    counts = count_all_errors(references, hypotheses, "sclite")
    assert [(count.substitutions, count.deletions, count.insertions) for count in counts] == [
        tuple(moves.count(letter) for letter in "SDI") for moves in expected
    ]


@needs_sctk
def test_human_speech_is_aligned_as_by_sclite(tmp_path: Path) -> None:
    references, first, second = human_speech()
    assert len(references) == 135
    for name, hypotheses in (("first", first), ("second", second)):
        assert moves_of(references, hypotheses) == sclite_moves(sclite(tmp_path / name, references, hypotheses))


def test_ties_are_broken_as_by_sclite() -> None:
    """What sclite 2.10 prints."""
    references = ["a b c d", "a a b", "a b a", "a b c", "x x a b", "", "a"]
    hypotheses = ["a x c", "a b", "a", "b c d e", "a b y", "q r", ""]
    assert moves_of(references, hypotheses) == ["CSCD", "DCC", "DDC", "DCCII", "DDCCI", "II", "D"]


def test_three_substitutions_cost_as_much_as_two_deletions_and_insertions() -> None:
    assert count_errors("a b c d e", "c d a b e", "sclite") == ErrorCounts(5, 0, 2, 2)
    assert count_errors("a b c", "b c a", "sclite") == ErrorCounts(3, 0, 1, 1)


@given(texts, texts)
def test_the_cost_is_the_lowest(reference: list[str], hypothesis: list[str]) -> None:
    row = [3 * j for j in range(len(hypothesis) + 1)]
    for i, word in enumerate(reference, start=1):
        previous, row = row, [3 * i]
        for j, other in enumerate(hypothesis, start=1):
            row.append(min(previous[j] + 3, row[-1] + 3, previous[j - 1] + 4 * (word != other)))
    counts = count_errors(" ".join(reference), " ".join(hypothesis), "sclite")
    assert 4 * counts.substitutions + 3 * (counts.deletions + counts.insertions) == row[-1]
    assert counts.errors >= count_errors(" ".join(reference), " ".join(hypothesis)).errors


@given(texts, texts)
def test_moves_take_every_word_once(reference: list[str], hypothesis: list[str]) -> None:
    pairs = align(" ".join(reference), " ".join(hypothesis), "sclite")
    assert [pair.reference for pair in pairs if pair.reference is not None] == reference
    assert [pair.hypothesis for pair in pairs if pair.hypothesis is not None] == hypothesis
    assert all((pair.kind == "equal") == (pair.reference == pair.hypothesis) for pair in pairs)
    assert all((pair.kind == "insertion") == (pair.reference is None) for pair in pairs)
    assert all((pair.kind == "deletion") == (pair.hypothesis is None) for pair in pairs)


@given(st.lists(st.tuples(texts, texts), max_size=12), st.integers(1, 200))
def test_batches_do_not_change_the_alignment(pairs: list[tuple[list[str], list[str]]], cells: int) -> None:
    references, hypotheses = [reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_CELLS_AT_ONCE", cells)
        together = sclite_paths(references, hypotheses)
    apart = [sclite_paths([reference], [hypothesis])[0] for reference, hypothesis in pairs]
    assert all(np.array_equal(one, other) for one, other in zip(together, apart, strict=True))


def test_both_schemes_name_every_word() -> None:
    assert align("take two tablets day", "take too tablets every day", "sclite") == (
        AlignedPair("equal", "take", "take"),
        AlignedPair("substitution", "two", "too"),
        AlignedPair("equal", "tablets", "tablets"),
        AlignedPair("insertion", None, "every"),
        AlignedPair("equal", "day", "day"),
    )


def test_texts_that_sclite_reads_in_its_own_way_are_words() -> None:
    assert count_errors("{ a / b } c @", "b c", "sclite").words == 7


@pytest.mark.parametrize("scheme", ["levenshtein", "sclite"])
def test_texts_out_of_step_are_refused(scheme: str) -> None:
    with pytest.raises(ValueError):
        count_all_errors(["a", "b"], ["a"], scheme)  # type: ignore[arg-type]
