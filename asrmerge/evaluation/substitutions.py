"""Wordings that count as the same: a text file of ``colour => color`` lines, applied to references and hypotheses alike.

A line is a word or phrase, ``=>``, and what takes its place, which may be empty (``uh =>``). sclite's global mapping files (GLM)
without conditions and alternatives are read too: ``[COLOUR] => [COLOR] / [ ] __ [ ] ;; British``. Lines that begin with ``;;`` or
``#`` are comments. Both sides are normalised like the texts. Of two wordings that overlap the longer one is replaced, and what
was put in is not looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from asrmerge.errors import ConfigError
from asrmerge.evaluation.normalizers import Normalizer
from asrmerge.evaluation.phrases import Phrases
from asrmerge.evaluation.word_lists import read_entries

_CONDITION = re.compile(r"\s*/\s*\[\s*\]\s*__\s*\[\s*\]\s*$")  # "wherever it stands", the only condition that is understood


def read_substitutions(path: Path | str, normalize: Normalizer) -> dict[str, str]:
    """The wordings in ``path``, normalised, and what takes their place.

    Raises:
        ConfigError: if the file cannot be read, or a line is no substitution, contradicts an earlier one, or has nothing left to
            replace when normalised; with its number.
    """
    substitutions: dict[str, str] = {}
    for place, line in read_entries(path):
        wording, replacement = (" ".join(normalize(side).split()) for side in _sides(line, place))
        if not wording:
            raise ConfigError(f"{place}: the text normaliser leaves nothing to replace in '{line}'; take the line out.")
        if substitutions.setdefault(wording, replacement) != replacement:
            raise ConfigError(
                f"{place}: '{wording}' is to become '{replacement}', but an earlier line makes it '{substitutions[wording]}'; "
                "keep one of the two."
            )
    return substitutions


def substituting(normalize: Normalizer, substitutions: Mapping[str, str]) -> Normalizer:
    """``normalize``, followed by the substitutions, which are in normalised form."""
    phrases = Phrases.of(substitutions)
    if not phrases:
        return normalize

    def apply(text: str) -> str:
        words = normalize(text).split()
        for found in reversed(phrases.find(words)):
            words[found.start : found.end] = substitutions[found.phrase].split()
        return " ".join(words)

    return apply


def _sides(line: str, place: str) -> tuple[str, str]:
    text = _CONDITION.sub("", line.partition(";;")[0])
    wording, arrow, replacement = (part.strip() for part in text.partition("=>"))
    if not arrow or "=>" in replacement or any(mark in text for mark in ("{", "}", "__")):
        raise ConfigError(
            f"{place}: '{line}' is no substitution; write 'colour => color', one a line, without alternatives or conditions."
        )
    return _without_brackets(wording), _without_brackets(replacement)


def _without_brackets(side: str) -> str:
    return side[1:-1].strip() if side.startswith("[") and side.endswith("]") else side
