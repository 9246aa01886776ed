"""Sentences from a small template grammar, drawn by seed and split so that no sentence is in two splits.

A grammar file is YAML with two keys::

    sentences:                       # templates; a slot stands in braces
      - "the {doctor} prescribed {drug} for {condition}"
      - {text: "we will {verb} the {device}", weight: 2}
    slots:                           # what a slot may become; an expansion may hold slots itself
      drug: [metformin, lisinopril]
      condition: [asthma, "chronic {organ} disease"]
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal

import yaml

from asrmerge.errors import ConfigError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_SLOT = re.compile(r"\{([a-z_]+)\}")
_WORD = r"'?[a-z]+(?:'[a-z]+)*'?"
_SPEAKABLE = re.compile(rf"{_WORD}(?: {_WORD})*")
_MAXIMUM_DEPTH = 12


@dataclass(frozen=True)
class Grammar:
    """Templates with weights, and the expansions of each slot."""

    templates: tuple[tuple[str, float], ...]
    slots: Mapping[str, tuple[str, ...]]

    def sample(self, generator: random.Random) -> str:
        """One sentence: a template drawn by weight, its slots filled uniformly at random."""
        texts = [text for text, _ in self.templates]
        weights = [weight for _, weight in self.templates]
        return self.fill(generator.choices(texts, weights)[0], generator)

    def fill(self, template: str, generator: random.Random, depth: int = 0) -> str:
        """Replace every slot of ``template``; raises ConfigError when slots contain each other too deeply."""
        if depth > _MAXIMUM_DEPTH:
            raise ConfigError(f"grammar: slots contain each other too deeply near '{template}'; break the cycle")

        def expand(match: re.Match[str]) -> str:
            return self.fill(generator.choice(self.slots[match.group(1)]), generator, depth + 1)

        return _SLOT.sub(expand, template)

    def sentences(self, seed: int, *, maximum_characters: int = 60, minimum_words: int = 2) -> Iterator[str]:
        """Distinct sentences in an order fixed by ``seed``; ends when 20 000 draws in a row bring nothing new."""
        generator = random.Random(seed)
        seen: set[str] = set()
        fruitless = 0
        while fruitless < 20_000:
            sentence = self.sample(generator)
            fruitless += 1
            if sentence in seen or len(sentence) > maximum_characters or len(sentence.split()) < minimum_words:
                continue
            seen.add(sentence)
            fruitless = 0
            yield sentence


def is_speakable(text: str) -> bool:
    """Whether ``text`` holds only lower-case words, apostrophes and single spaces, as the embedded recognisers write."""
    return _SPEAKABLE.fullmatch(text) is not None


def read_grammar(path: Path) -> Grammar:
    """Read a grammar file.

    Raises:
        ConfigError: the file is missing or malformed, a slot is unknown, empty or contains itself, a text is not speakable.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such grammar; write one, or name another in domain.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error}); correct the file") from error
    sentences, expansions = (content.get("sentences"), content.get("slots") or {}) if isinstance(content, dict) else ([], {})
    if not isinstance(sentences, list) or not sentences or not isinstance(expansions, dict):
        raise ConfigError(f"{path}: a grammar needs a list 'sentences' and a mapping 'slots'")
    templates = tuple(_template(entry, path) for entry in sentences)
    slots = {str(name): _expansions(str(name), items, path) for name, items in expansions.items()}
    grammar = Grammar(templates=templates, slots=slots)
    _check(grammar, path)
    return grammar


def split_of(sentence: str) -> Split:
    """The split that a sentence belongs to, from its own text: 70 % train, 12 % validation, 18 % test."""
    bucket = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 70 else "validation" if bucket < 82 else "test"


def draw_splits(grammar: Grammar, counts: Mapping[Split, int], seed: int, path: Path) -> dict[Split, list[str]]:
    """Draw ``counts[split]`` distinct sentences for each split; no sentence is in two.

    Raises:
        ConfigError: the grammar holds too few distinct sentences.
    """
    drawn: dict[Split, list[str]] = {split: [] for split in SPLITS}
    missing = sum(counts.values())
    for sentence in grammar.sentences(seed):
        if not missing:
            break
        split = split_of(sentence)
        if len(drawn[split]) < counts.get(split, 0):
            drawn[split].append(sentence)
            missing -= 1
    if missing:
        got = ", ".join(f"{len(drawn[split])} of {counts.get(split, 0)} for {split}" for split in SPLITS)
        raise ConfigError(f"{path}: too few distinct sentences ({got}); add templates or expansions, or ask for fewer")
    return drawn


def _template(entry: object, path: Path) -> tuple[str, float]:
    if isinstance(entry, str):
        return entry, 1.0
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        weight = entry.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"{path}: the weight of '{entry['text']}' is {weight!r}; write a number above 0")
        return entry["text"], float(weight)
    raise ConfigError(f"{path}: '{entry}' is no template; write a sentence, or {{text: …, weight: …}}")


def _expansions(name: str, items: object, path: Path) -> tuple[str, ...]:
    if items is not None and not isinstance(items, list):
        raise ConfigError(f"{path}: the slot '{name}' is {items!r}; write its expansions as a list")
    return tuple(str(item) for item in items or ())


def _check_cycles(grammar: Grammar, path: Path) -> None:
    inner = {name: {slot for text in texts for slot in _SLOT.findall(text)} for name, texts in grammar.slots.items()}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        raise ConfigError(f"{path}: slots contain each other endlessly ({' in '.join(error.args[1])}); break the cycle") from None


def _check(grammar: Grammar, path: Path) -> None:
    texts: Sequence[str] = [text for text, _ in grammar.templates] + [text for items in grammar.slots.values() for text in items]
    for text in texts:
        for name in _SLOT.findall(text):
            if not grammar.slots.get(name):
                raise ConfigError(f"{path}: '{text}' uses the slot '{name}', which has no expansions; add it to 'slots'")
        bare = " ".join(_SLOT.sub("x", text).split())
        if bare != _SLOT.sub("x", text) or not is_speakable(bare):
            raise ConfigError(
                f"{path}: '{text}' may hold only lower-case letters, apostrophes, single spaces and {{slots}}; "
                "spell numbers and abbreviations out"
            )
    _check_cycles(grammar, path)
