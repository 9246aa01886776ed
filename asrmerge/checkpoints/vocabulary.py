"""The token strings behind the rows of a CTC head or of Whisper's embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.storage import read_json
from asrmerge.errors import CheckpointError


def read_vocabulary(checkpoint: Checkpoint) -> dict[int, str] | None:
    """Row number → token, from tokenizer.json, or from vocab.json and added_tokens.json; None without any of them.

    Token numbers beyond the model's ``vocab_size`` have no row and are left out, so files that list such tokens and
    files that don't read the same.

    Raises:
        CheckpointError: a file is corrupt or not of the known form.
    """
    tokens = _tokens(checkpoint.folder)
    if tokens is None:
        return None
    rows = checkpoint.config.get("vocab_size")
    return {number: token for token, number in tokens.items() if not isinstance(rows, int) or number < rows}


def _tokens(folder: Path) -> dict[str, int] | None:
    fast, slow, added = (folder / name for name in ("tokenizer.json", "vocab.json", "added_tokens.json"))
    if fast.is_file():
        content = read_json(fast)
        try:
            tokens = _numbered(content["model"]["vocab"])
            return tokens | {str(token["content"]): int(token["id"]) for token in content.get("added_tokens", [])}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{fast} is no tokenizer file of a known form ({error!r}): save the tokenizer again."
            ) from error
    if not slow.is_file():
        return None
    try:
        tokens = _numbered(read_json(slow))
        return tokens | (_numbered(read_json(added)) if added.is_file() else {})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{slow} must map tokens to numbers ({error}): save the tokenizer again.") from error


def _numbered(content: Any) -> dict[str, int]:
    if isinstance(content, list):  # unigram models store [token, score] pairs; the place is the number
        return {str(entry[0]): number for number, entry in enumerate(content)}
    return {str(token): int(number) for token, number in content.items()}
