"""Text normalisers by name: what counts as the same word is part of every figure, so the name is recorded with it.

``whisper``: openai/whisper's ``EnglishTextNormalizer`` (Radford et al. 2022, appendix C), which also writes number words as
digits and may so make one word of several; ``basic``: its ``BasicTextNormalizer`` for other languages (it splits words of Brahmic
scripts at their vowel signs: prefer a chain there); ``none``: the text as it is.

Steps joined with ``+`` are a chain, applied from left to right: ``nfkc+lowercase+strip_punctuation``. ``module:function`` is a
step too: any importable function from a text to a text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache, reduce
from importlib import import_module

from asrmerge.errors import ConfigError

Normalizer = Callable[[str], str]

# whisper_normalizer 0.1.15 adds these contractions to openai/whisper's; without them the two give the same text.
ADDED_CONTRACTIONS = (r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b")


def _whisper() -> Normalizer:
    from whisper_normalizer.english import EnglishTextNormalizer  # type: ignore[import-untyped]

    normalizer = EnglishTextNormalizer()
    normalizer.replacers = {
        pattern: replacement for pattern, replacement in normalizer.replacers.items() if pattern not in ADDED_CONTRACTIONS
    }
    return lambda text: str(normalizer(text))


def _basic() -> Normalizer:
    from whisper_normalizer.basic import BasicTextNormalizer  # type: ignore[import-untyped]

    normalizer = BasicTextNormalizer()
    return lambda text: str(normalizer(text))


def _none() -> Normalizer:
    return lambda text: text


def _lowercase() -> Normalizer:
    return str.lower


def _uppercase() -> Normalizer:
    return str.upper


def _nfc() -> Normalizer:
    return lambda text: unicodedata.normalize("NFC", text)


def _nfkc() -> Normalizer:
    return lambda text: unicodedata.normalize("NFKC", text)


def _strip_punctuation() -> Normalizer:
    import jiwer

    transform = jiwer.RemovePunctuation()  # every character of Unicode's categories P*
    return lambda text: str(transform(text))


def _strip_kaldi_non_words() -> Normalizer:
    import jiwer

    transform = jiwer.RemoveKaldiNonWords()  # [noise], <unk>
    return lambda text: str(transform(text))


def _strip_diacritics() -> Normalizer:
    def strip(text: str) -> str:
        kept = (character for character in unicodedata.normalize("NFD", text) if unicodedata.category(character) != "Mn")
        return unicodedata.normalize("NFC", "".join(kept))

    return strip


STEPS: dict[str, Callable[[], Normalizer]] = {
    "whisper": _whisper,
    "basic": _basic,
    "none": _none,
    "lowercase": _lowercase,
    "uppercase": _uppercase,
    "nfc": _nfc,
    "nfkc": _nfkc,
    "strip_punctuation": _strip_punctuation,
    "strip_kaldi_non_words": _strip_kaldi_non_words,
    "strip_diacritics": _strip_diacritics,
}


@cache
def normalizer(name: str) -> Normalizer:
    """The normaliser called ``name``: a step, or several joined with ``+``.

    Raises:
        ConfigError: listing the known names, or saying what is wrong with a function.
    """
    steps = [_step(step.strip()) for step in name.split("+")]
    return steps[0] if len(steps) == 1 else lambda text: reduce(lambda done, step: step(done), steps, text)


def _step(name: str) -> Normalizer:
    if name in STEPS:
        return STEPS[name]()
    if ":" in name:
        return _function(name)
    raise ConfigError(
        f"There is no text normaliser '{name}'; choose among {', '.join(STEPS)}, several joined with '+', or a function of "
        "your own as module:function."
    )


def _function(name: str) -> Normalizer:
    module, _, attribute = name.partition(":")
    try:
        function: Normalizer = getattr(import_module(module), attribute)
        result: object = function("Hello, World")
    except Exception as error:  # a module of the user's can raise anything
        raise ConfigError(f"The text normaliser '{name}' cannot be used ({error!r}); repair the function or its name.") from error
    if not isinstance(result, str):
        raise ConfigError(f"The text normaliser '{name}' returns {type(result).__name__}; make it return a text.")
    return function
