"""A domain's terms: a text file with one term a line; a line that begins with ``#`` is a comment.

Terms are looked for in normalised texts, so they are normalised too. A normaliser that looks at several words at a time, such as
Whisper's with its numbers, can give a term another form in a sentence than alone: such an occurrence is not found.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from asrmerge.errors import ConfigError
from asrmerge.evaluation.normalizers import Normalizer
from asrmerge.evaluation.word_lists import read_entries


def read_terms(path: Path | str, normalize: Normalizer) -> tuple[str, ...]:
    """The terms in ``path``, normalised, each form once.

    Raises:
        ConfigError: if the file cannot be read, holds no term, or nothing is left of a term; with its line number.
    """
    entries = read_entries(path)
    for place, term in entries:
        if not normalize(term).split():
            raise ConfigError(
                f"{place}: the text normaliser leaves nothing of the term '{term}', so it can never be found; take it out, or "
                "choose another normaliser."
            )
    return normalize_terms((term for _, term in entries), normalize)


def normalize_terms(terms: Iterable[str], normalize: Normalizer) -> tuple[str, ...]:
    """Normalised ``terms``, each form once, without those of which nothing is left."""
    forms = (" ".join(normalize(term).split()) for term in terms)
    return tuple(form for form in dict.fromkeys(forms) if form)
