"""The shipped domains: large enough, speakable, every term said, nothing of the test sets in training."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from asrmerge.content import shipped_domains
from asrmerge.speech.domains import Domain, load_domain
from asrmerge.speech.grammar import SPLITS, draw_splits, is_speakable

DOMAINS = ("conversation", "technical", "medical", "legal")
COUNTS = {"train": 1200, "validation": 200, "test": 300}


@pytest.fixture(scope="module", params=[*DOMAINS, "general"])
def any_domain(request: pytest.FixtureRequest) -> Domain:
    return load_domain(request.param)


@pytest.fixture(scope="module", params=DOMAINS)
def domain(request: pytest.FixtureRequest) -> Domain:
    return load_domain(request.param)


def texts(domain: Domain) -> list[str]:
    return [text for text, _ in domain.grammar.templates] + [text for items in domain.grammar.slots.values() for text in items]


def test_the_four_domains_and_general_are_shipped() -> None:
    assert shipped_domains() == sorted([*DOMAINS, "general"])


def test_the_name_is_the_folders_and_seeds_differ() -> None:
    loaded = {name: load_domain(name) for name in shipped_domains()}
    assert all(domain.name == name and domain.settings.description for name, domain in loaded.items())
    assert len({domain.settings.seed for domain in loaded.values()}) == len(loaded)


def test_at_least_1500_distinct_speakable_sentences(any_domain: Domain) -> None:
    sentences = list(islice(any_domain.grammar.sentences(any_domain.settings.seed), 3000))
    assert len(set(sentences)) == len(sentences) >= 1500
    assert all(is_speakable(sentence) and len(sentence) <= 60 for sentence in sentences)


def test_no_test_sentence_is_in_training(any_domain: Domain) -> None:
    drawn = draw_splits(any_domain.grammar, COUNTS, any_domain.settings.seed, any_domain.folder)  # type: ignore[arg-type]
    assert {split: len(drawn[split]) for split in SPLITS} == COUNTS
    assert not set(drawn["test"]) & {*drawn["train"], *drawn["validation"]}


def test_at_least_250_terms_each_of_which_is_said(domain: Domain) -> None:
    assert len(set(domain.terms)) == len(domain.terms) >= 250
    assert all(is_speakable(term) for term in domain.terms)
    written = "\n".join(f" {text} " for text in texts(domain))
    assert [term for term in domain.terms if f" {term} " not in written] == []


def test_every_expansion_can_be_said(any_domain: Domain) -> None:
    """No slot is left over: what stands in it would never be drawn."""
    used = set(re.findall(r"\{([a-z_]+)\}", " ".join(text for text, _ in any_domain.grammar.templates)))
    reached: set[str] = set()
    while fresh := used - reached:
        reached |= fresh
        used |= set(re.findall(r"\{([a-z_]+)\}", " ".join(text for name in fresh for text in any_domain.grammar.slots[name])))
    assert reached == set(any_domain.grammar.slots)


def test_terms_are_most_of_what_is_new_in_a_domain(domain: Domain) -> None:
    sentences = list(islice(domain.grammar.sentences(domain.settings.seed), 1500))
    with_term = sum(any(f" {term} " in f" {sentence} " for term in domain.terms) for sentence in sentences)
    assert with_term > 0.6 * len(sentences)


def test_general_speech_keeps_to_one_to_two_thousand_words() -> None:
    general = load_domain("general")
    words = {word for text in texts(general) for word in re.sub(r"\{[a-z_]+\}", " ", text).split()}
    assert 1000 <= len(words) <= 2000


def test_domains_say_different_things() -> None:
    said = {name: {frozenset(islice(load_domain(name).grammar.sentences(1), 1500))} for name in DOMAINS}
    sets = {name: next(iter(one)) for name, one in said.items()}
    names = list(sets)
    assert all(not sets[one] & sets[two] for index, one in enumerate(names) for two in names[:index])
