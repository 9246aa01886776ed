"""Error counts: worked examples, jiwer's figures, and what must always add up."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.evaluation.counts import AlignedPair, ErrorCounts, align, count_errors

sentences = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts", "wer"),
    [
        ("", "", ErrorCounts(0, 0, 0, 0), 0.0),
        ("", "a b", ErrorCounts(0, 0, 0, 2), 2.0),
        ("a b", "", ErrorCounts(2, 0, 2, 0), 1.0),
        ("a b c d", "a x c d", ErrorCounts(4, 1, 0, 0), 0.25),
        ("a b c", "a b c d e", ErrorCounts(3, 0, 0, 2), 2 / 3),
        (" a\tb\n c ", "a  b\u00a0c", ErrorCounts(3, 0, 0, 0), 0.0),
    ],
)
def test_worked_examples(reference: str, hypothesis: str, counts: ErrorCounts, wer: float) -> None:
    assert count_errors(reference, hypothesis) == counts
    assert counts.wer == pytest.approx(wer)


def test_alignment_names_every_word() -> None:
    assert align("take two tablets day", "take too tablets every day") == (
        AlignedPair("equal", "take", "take"),
        AlignedPair("substitution", "two", "too"),
        AlignedPair("equal", "tablets", "tablets"),
        AlignedPair("insertion", None, "every"),
        AlignedPair("equal", "day", "day"),
    )
    assert align("a b", "b") == (AlignedPair("deletion", "a", None), AlignedPair("equal", "b", "b"))
    assert align("", "") == ()


@given(sentences, sentences)
def test_counts_add_up_with_the_alignment(reference: str, hypothesis: str) -> None:
    counts, pairs = count_errors(reference, hypothesis), align(reference, hypothesis)
    kinds = [pair.kind for pair in pairs]
    assert counts.words == len(reference.split()) == kinds.count("equal") + counts.substitutions + counts.deletions
    assert counts.correct == kinds.count("equal")
    assert counts.correct + counts.substitutions + counts.insertions == len(hypothesis.split())
    edits = (counts.substitutions, counts.deletions, counts.insertions)
    assert edits == (kinds.count("substitution"), kinds.count("deletion"), kinds.count("insertion"))
    assert [pair.reference for pair in pairs if pair.reference is not None] == reference.split()
    assert [pair.hypothesis for pair in pairs if pair.hypothesis is not None] == hypothesis.split()
    assert all((pair.kind == "equal") == (pair.reference == pair.hypothesis) for pair in pairs)


@given(sentences, sentences)
def test_errors_are_the_edit_distance(reference: str, hypothesis: str) -> None:
    expected, heard = reference.split(), hypothesis.split()
    row = list(range(len(heard) + 1))
    for i, word in enumerate(expected, start=1):
        previous, row = row, [i]
        for j, other in enumerate(heard, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (word != other)))
    assert count_errors(reference, hypothesis).errors == row[-1]


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
def test_pooled_wer_is_jiwers(pairs: list[tuple[str, str]]) -> None:
    total = sum((count_errors(*pair) for pair in pairs), ErrorCounts())
    references, hypotheses = zip(*pairs, strict=True)
    assert total.wer == pytest.approx(jiwer.wer(list(references), list(hypotheses)))
