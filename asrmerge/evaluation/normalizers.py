"""Text normalisers by name: what counts as the same word is part of every figure, so the name is recorded with it.

``whisper``: openai/whisper's ``EnglishTextNormalizer`` (Radford et al. 2022, appendix C); ``basic``: its ``BasicTextNormalizer``
for other languages (it splits words of Brahmic scripts at their vowel signs: prefer ``none`` there); ``none``: the text as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from whisper_normalizer.basic import BasicTextNormalizer  # type: ignore[import-untyped]
from whisper_normalizer.english import EnglishTextNormalizer  # type: ignore[import-untyped]

from asrmerge.errors import ConfigError

Normalizer = Callable[[str], str]

# whisper_normalizer 0.1.15 adds these contractions to openai/whisper's; without them the two give the same text.
ADDED_CONTRACTIONS = (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b")


def _whisper() -> Normalizer:
    normalizer = EnglishTextNormalizer()
    normalizer.replacers = {
        pattern: replacement for pattern, replacement in normalizer.replacers.items() if pattern not in ADDED_CONTRACTIONS
    }
    return lambda text: str(normalizer(text))


def _basic() -> Normalizer:
    normalizer = BasicTextNormalizer()
    return lambda text: str(normalizer(text))


def _none() -> Normalizer:
    return lambda text: text


NORMALIZERS: dict[str, Callable[[], Normalizer]] = {"whisper": _whisper, "basic": _basic, "none": _none}


@cache
def normalizer(name: str) -> Normalizer:
    """The normaliser called ``name``.

    Raises:
        ConfigError: listing the known names.
    """
    if name not in NORMALIZERS:
        raise ConfigError(f"There is no text normaliser '{name}'; choose one of {', '.join(NORMALIZERS)}.")
    return NORMALIZERS[name]()
