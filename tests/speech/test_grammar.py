"""Grammars: sentences by seed, splits that share nothing, and refusals that name the file."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.errors import ConfigError
from asrmerge.speech.grammar import SPLITS, Grammar, draw_splits, is_speakable, read_grammar, split_of

WORDS = tuple(f"{first}{second}" for first in "bcdfgh" for second in ("an", "en", "in", "on", "un"))
GRAMMAR = Grammar(
    templates=(("the {noun} saw {thing}", 1.0), ("{thing} is here", 2.0)),
    slots={"noun": WORDS, "thing": ("a {noun}", "the {noun} of the {noun}")},
)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def refusal(tmp_path: Path, content: object) -> str:
    path = write(tmp_path / "grammar.yaml", content)
    with pytest.raises(ConfigError) as raised:
        read_grammar(path)
    assert str(raised.value).startswith(str(path))
    return str(raised.value)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(30, 60), st.integers(1, 5))
def test_sentences_are_distinct_and_keep_to_the_bounds(seed: int, longest: int, fewest: int) -> None:
    sentences = list(islice(GRAMMAR.sentences(seed, maximum_characters=longest, minimum_words=fewest), 60))
    assert sentences and len(set(sentences)) == len(sentences)
    assert all(len(sentence) <= longest and len(sentence.split()) >= fewest for sentence in sentences)
    assert all(is_speakable(sentence) for sentence in sentences)


def test_the_seed_alone_decides_the_order_of_sentences() -> None:
    first, again, other = (list(islice(GRAMMAR.sentences(seed), 40)) for seed in (7, 7, 8))
    assert first == again != other


def test_a_small_grammar_ends_after_its_last_sentence() -> None:
    small = Grammar(templates=(("{a} {a}", 1.0),), slots={"a": ("b", "c")})
    assert sorted(small.sentences(0)) == ["b b", "b c", "c b", "c c"]


def test_weights_decide_how_often_a_template_is_drawn() -> None:
    grammar = Grammar(templates=(("rare one", 1.0), ("often one", 9.0)), slots={})
    generator = random.Random(0)
    often = sum(grammar.sample(generator) == "often one" for _ in range(2000))
    assert 1700 < often < 1900


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_splits_are_disjoint_and_every_sentence_lies_in_its_own(seed: int) -> None:
    counts = {"train": 40, "validation": 8, "test": 10}
    drawn = draw_splits(GRAMMAR, counts, seed, Path("g.yaml"))  # type: ignore[arg-type]
    assert {split: len(set(drawn[split])) for split in SPLITS} == counts
    assert all(split_of(sentence) == split for split in SPLITS for sentence in drawn[split])
    assert not set(drawn["train"]) & set(drawn["test"]) and not set(drawn["validation"]) & set(drawn["test"])


def test_a_sentence_keeps_its_split_whatever_is_asked_for() -> None:
    few = draw_splits(GRAMMAR, {"train": 5, "validation": 2, "test": 2}, 3, Path("g.yaml"))
    many = draw_splits(GRAMMAR, {"train": 50, "validation": 9, "test": 9}, 3, Path("g.yaml"))
    assert all(many[split][: len(few[split])] == few[split] for split in SPLITS)


def test_the_shares_of_the_splits() -> None:
    sentences = [f"sentence {number}" for number in range(5000)]
    shares = {split: sum(split_of(sentence) == split for sentence in sentences) / 50 for split in SPLITS}
    assert shares == pytest.approx({"train": 70, "validation": 12, "test": 18}, abs=2)


def test_the_split_of_a_sentence_never_changes() -> None:
    """As ``sha256sum`` says: another rule would put sentences that bases and experts have learnt into test sets."""
    by_hand = {"the dog ran": "validation", "a red door": "train", "no more tea": "test"}  # 0x71da49e3 % 100 = 71; 13; 98
    assert {sentence: split_of(sentence) for sentence in by_hand} == by_hand


def test_too_few_sentences_are_refused_with_what_there_is() -> None:
    small = Grammar(templates=(("{a} {a}", 1.0),), slots={"a": ("b", "c")})
    with pytest.raises(ConfigError, match=r"^some/g\.yaml: too few distinct sentences \(.* of 9 for train.*ask for fewer"):
        draw_splits(small, {"train": 9}, 0, Path("some/g.yaml"))


@pytest.mark.parametrize("text", ["don't", "the dogs' bowl", "'tis so", "rock 'n' roll", "a"])
def test_speakable(text: str) -> None:
    assert is_speakable(text)


@pytest.mark.parametrize("text", ["", "Don't", "two  spaces", " a", "a ", "3 pills", "e.g.", "x-ray", "naïve", "a\n"])
def test_unspeakable(text: str) -> None:
    assert not is_speakable(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab' ", max_size=12))
def test_speakable_texts_survive_normalising_spaces(text: str) -> None:
    if is_speakable(text):
        assert " ".join(text.split()) == text and text.strip("' ")


def test_a_grammar_is_read_with_weights_and_nested_slots(tmp_path: Path) -> None:
    content = {"sentences": ["see {a}", {"text": "go {b}", "weight": 3}], "slots": {"a": ["x {b}"], "b": ["y"]}}
    grammar = read_grammar(write(tmp_path / "grammar.yaml", content))
    assert grammar.templates == (("see {a}", 1.0), ("go {b}", 3.0))
    assert set(grammar.sentences(0)) == {"see x y", "go y"}


@pytest.mark.parametrize(
    ("slots", "chain"),
    [({"a": ["x {a}"]}, "a"), ({"a": ["{b}", "x"], "b": ["y {c}"], "c": ["z", "{a}"]}, "b")],
)
def test_a_cycle_is_refused_before_it_is_drawn(tmp_path: Path, slots: dict[str, list[str]], chain: str) -> None:
    message = refusal(tmp_path, {"sentences": ["see {a}"], "slots": slots})
    assert "endlessly" in message and "break the cycle" in message and chain in message


@pytest.mark.parametrize("slots", [{}, {"drug": []}, {"drug": None}])
def test_a_slot_without_expansions_is_refused(tmp_path: Path, slots: dict[str, list[str]]) -> None:
    assert "uses the slot 'drug', which has no expansions" in refusal(tmp_path, {"sentences": ["take {drug}"], "slots": slots})


@pytest.mark.parametrize("text", ["take 3 pills", "Take it", "two  spaces", "x-ray", "take {Drug}", "see {a", "a, b"])
@pytest.mark.parametrize("inside", ["sentences", "slots"])
def test_unspeakable_text_is_refused(tmp_path: Path, text: str, inside: str) -> None:
    content = {"sentences": [text], "slots": {}} if inside == "sentences" else {"sentences": ["{s} so"], "slots": {"s": [text]}}
    message = refusal(tmp_path, content)
    assert f"'{text}' may hold only" in message and "spell numbers" in message


@pytest.mark.parametrize(
    "content",
    [
        "",
        "just text",
        "sentences: []",
        "sentences: a sentence",
        "sentences: [a b]\nslots: [c]",
        "sentences: [a b]\nslots: {c: word}",
        "sentences: [a b]\nslots: {c: {d: e}}",
        "sentences: [[a]]",
        "sentences: [{txt: a b}]",
        "sentences: [{text: a b, weight: much}]",
        "sentences: [{text: a b, weight: -1}]",
        "sentences: [{text: a b, weight: .inf}]",
        "sentences: [a b",
        "a: \x00",
    ],
)
def test_a_malformed_file_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grammar\.yaml: no such grammar; write one"):
        read_grammar(tmp_path / "grammar.yaml")
