"""Writing sclite's transcripts, one line an utterance: ``the words (utterance-id)``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.files import write_text

# What sclite takes for something other than a word: alternatives, an escape, a comment, the empty word.
_SPECIAL = re.compile(r"[{}\\]|;;|(?<!\S)@(?!\S)")


def write_trn(path: Path | str, texts: Iterable[tuple[str, str]]) -> None:
    """Write (identifier, text) pairs, atomically; references or hypotheses alike, normalised if they are to be scored so.

    Raises:
        ManifestError: if sclite would read an identifier or a text otherwise than it is.
    """
    path = Path(path)
    lines: dict[str, str] = {}
    for identifier, text in texts:
        key = identifier.casefold()
        if not identifier or re.search(r"[()\s]", identifier):
            raise ManifestError(
                f"{path}: the id '{identifier}' has brackets or blanks, which end an id in a trn file; rename it."
            )
        if key in lines:
            raise ManifestError(
                f"{path}: the id '{identifier}' occurs twice (sclite ignores case); give every utterance its own."
            )
        special = _SPECIAL.search(text)
        if special:
            raise ManifestError(
                f"{path}: the text of '{identifier}' holds '{special.group()}', which is no word to sclite; normalise the texts."
            )
        lines[key] = f"{' '.join(text.split())} ({identifier})\n".lstrip()
    write_text(path, "".join(lines.values()))
