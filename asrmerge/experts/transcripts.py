"""How transcripts are written before a model learns them."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

TranscriptStyle = Literal["written", "lower", "plain"]

_NOT_IN_WORDS = re.compile(r"[^\w\s']|_")
_NOT_INSIDE_A_WORD = re.compile(r"(?<!\w)'|'(?!\w)")


def restyle(text: str, style: TranscriptStyle) -> str:
    """``text`` as the model shall learn to write it.

    A model learns the style of its transcripts along with the words. An expert that had to learn capitals and punctuation
    from a model that never writes them spends its steps on that, and its task vector carries it into the merge.

    Args:
        style: ``written`` leaves the text as it is; ``lower`` takes the capitals away; ``plain`` also the punctuation, save
            apostrophes inside words, and parts hyphenated words: ``"Mr. Neild's forty-two."`` → ``"mr neild's forty two"``.
    """
    if style == "written":
        return text
    text = unicodedata.normalize("NFC", text).lower()
    if style == "plain":
        text = _NOT_IN_WORDS.sub(" ", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
        text = _NOT_INSIDE_A_WORD.sub(" ", text)
    return " ".join(text.split())
