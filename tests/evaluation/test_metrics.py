"""Metrics: jiwer's figures, sclite's and the contextual literature's definitions written out again, worked examples, plugins."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge import plugins
from asrmerge.errors import ConfigError
from asrmerge.evaluation.alignment import sclite_paths
from asrmerge.evaluation.counts import align
from asrmerge.evaluation.domain_table import levenshtein_paths
from asrmerge.evaluation.metric_registry import find_metrics
from asrmerge.evaluation.phrases import Phrases
from asrmerge.evaluation.scored import ScoredUtterance

sentences = st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join)
pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6)
TERMS = ("a", "a b", "c d e", "d")


def scored(reference: str, hypothesis: str, terms: tuple[str, ...] = TERMS) -> ScoredUtterance:
    words, heard = reference.split(), hypothesis.split()
    return ScoredUtterance(tuple(words), tuple(heard), levenshtein_paths([words], [heard])[0], Phrases.of(terms))


def value(name: str, *texts: tuple[str, str], terms: tuple[str, ...] = TERMS) -> float:
    metric = find_metrics()[name]
    sums = np.sum([metric.counts(scored(*pair, terms)) for pair in texts], axis=0, dtype=np.float64)
    return float(metric.value(sums[:, None])[0])


@given(pairs)
def test_jiwers_figures(texts: list[tuple[str, str]]) -> None:
    references, hypotheses = (list(side) for side in zip(*texts, strict=True))
    words = jiwer.process_words(references, hypotheses)
    assert value("wer", *texts) == pytest.approx(words.wer)
    assert value("mer", *texts) == pytest.approx(words.mer)
    assert value("wip", *texts) == pytest.approx(words.wip)
    assert value("wil", *texts) == pytest.approx(words.wil)
    assert value("cer", *texts) == pytest.approx(jiwer.cer(references, hypotheses))
    assert value("ser", *texts) == np.mean([one != other for one, other in texts])


@given(pairs)
def test_figures_of_many_draws_at_once_are_those_of_each(texts: list[tuple[str, str]]) -> None:
    for metric in find_metrics().values():
        counts = np.array([metric.counts(scored(*pair)) for pair in texts], dtype=np.float64).T
        np.testing.assert_array_equal(
            metric.value(counts[:, :, None]), [[float(metric.value(column[:, None])[0])] for column in counts.T]
        )


@given(pairs)
def test_single_word_terms_split_the_errors_as_b_wer_and_u_wer_do(texts: list[tuple[str, str]]) -> None:
    terms = {"a", "d"}
    errors, words, hits = {True: 0, False: 0}, {True: 0, False: 0}, 0
    for pair in (step for one in texts for step in align(*one)):
        in_terms = (pair.hypothesis if pair.reference is None else pair.reference) in terms
        words[in_terms] += pair.reference is not None
        errors[in_terms] += pair.kind != "equal"
        hits += pair.kind == "equal" and in_terms
    recognised = sum(word in terms for _, hypothesis in texts for word in hypothesis.split())
    expected = {
        "term_wer": (errors[True], words[True]),
        "other_wer": (errors[False], words[False]),
        "term_recall": (hits, words[True]),
        "term_precision": (hits, recognised),
        "term_f1": (2 * hits, words[True] + recognised),
    }
    for name, (numerator, denominator) in expected.items():
        found = value(name, *texts, terms=tuple(terms))
        assert math.isnan(found) if denominator == 0 else found == pytest.approx(numerator / denominator)


@given(pairs)
def test_every_error_is_in_a_term_or_outside(texts: list[tuple[str, str]]) -> None:
    for utterance in (scored(*pair) for pair in texts):
        assert 0 <= utterance.term_errors <= utterance.errors.errors
        assert 0 <= utterance.term_hits <= min(len(utterance.reference_terms), len(utterance.hypothesis_terms))
        assert utterance.term_words <= utterance.errors.words


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits", "said", "recognised", "errors"),
    [
        ("give a b now", "give a b now", 1, 1, 1, 0),  # the longer of two terms counts, once
        ("a b a b", "a b x a b", 2, 2, 2, 0),  # a term that occurs twice counts twice; what is put in between is no term
        ("a b x", "a x", 0, 1, 1, 1),  # the shorter term in its place is no hit, but is recognised
        ("c d e", "c x d e", 0, 1, 1, 0),  # torn apart; 'd' is left, and the inserted word is outside
        ("x x", "x a b x", 0, 0, 1, 2),  # a term out of nowhere: both its words are errors in terms
        ("a x y", "x y a", 0, 1, 1, 2),  # recognised elsewhere: one deletion, one insertion of a term's word
        ("", "", 0, 0, 0, 0),
    ],
)
def test_terms_by_hand(reference: str, hypothesis: str, hits: int, said: int, recognised: int, errors: int) -> None:
    found = scored(reference, hypothesis)
    assert (found.term_hits, len(found.reference_terms), len(found.hypothesis_terms)) == (hits, said, recognised)
    assert found.term_errors == errors


def test_nothing_to_measure_is_not_zero() -> None:
    for name in ("term_recall", "term_precision", "term_f1", "term_wer", "other_wer"):
        assert math.isnan(value(name, ("x y", "x z"), terms=()))
    assert math.isnan(value("term_recall", ("x", "a"))) and value("term_precision", ("x", "a")) == 0
    assert (value("wer", ("", "x y")), value("wer", ("", "")), value("mer", ("", ""))) == (2, 0, 0)
    assert (value("wip", ("", "")), value("wil", ("", "")), value("wip", ("x", ""))) == (1, 0, 0)


@given(sentences, sentences)
def test_either_alignment_gives_its_own_counts(reference: str, hypothesis: str) -> None:
    words, heard = reference.split(), hypothesis.split()
    by_jiwer = ScoredUtterance(tuple(words), tuple(heard), levenshtein_paths([words], [heard])[0], Phrases({})).errors
    by_sclite = ScoredUtterance(tuple(words), tuple(heard), sclite_paths([words], [heard])[0], Phrases({})).errors
    assert by_sclite.words == by_jiwer.words == len(words)
    assert by_sclite.errors >= by_jiwer.errors
    assert by_sclite.correct + by_sclite.substitutions + by_sclite.insertions == len(heard)


class Doubled:
    name, title, higher_is_better = "doubled", "Doubled", False

    def counts(self, found: ScoredUtterance) -> tuple[int]:
        return (2 * found.errors.errors,)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return sums[0]


def plug_in(monkeypatch: pytest.MonkeyPatch, load: object) -> None:
    point = SimpleNamespace(name="mine", value="mine:metric", load=load)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == "asrmerge.metrics" else [])


def test_a_plugin_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, Doubled)
    assert value("doubled", ("a b", "a"), ("c", "d")) == 4
    assert list(find_metrics()) == sorted(find_metrics())


def broken() -> object:
    raise ImportError("gone")


def taken() -> object:
    metric = Doubled()
    metric.name = "wer"
    return metric


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (broken, r"cannot be imported \(ImportError\('gone'\)\)"),
        (taken, "named wer, which is in use"),
        (lambda: Doubled, "must be an object with name, title, higher_is_better, counts and value"),
        (lambda: 3, "must be an object with name"),
    ],
)
def test_unusable_plugins_are_named(monkeypatch: pytest.MonkeyPatch, load: object, message: str) -> None:
    plug_in(monkeypatch, load)
    with pytest.raises(ConfigError, match=rf"^the plugin mine:metric \(entry point asrmerge.metrics: mine\).* {message}"):
        find_metrics()
