"""The token strings behind the rows of a CTC head or of Whisper's embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asrmerge.checkpoints.storage import read_json
from asrmerge.errors import CheckpointError


def read_vocabulary(folder: Path, rows: int | None = None) -> dict[int, str] | None:
    """Row number → token, from tokenizer.json, or from vocab.json and the tokens added to it; None without either file.

    Token numbers from ``rows`` on have no row in the model and are left out, so files that list such tokens and files that
    don't read the same.

    Raises:
        CheckpointError: a file is corrupt or not of the known form.
    """
    tokens = _tokens(folder)
    if tokens is None:
        return None
    return {number: token for token, number in tokens.items() if rows is None or number < rows}


def _tokens(folder: Path) -> dict[str, int] | None:
    fast, slow, added, settings = (
        folder / name for name in ("tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json")
    )
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
        tokens |= _numbered(read_json(added)) if added.is_file() else {}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{slow} must map tokens to numbers ({error}): save the tokenizer again.") from error
    return tokens | (_later_added(settings, tokens) if settings.is_file() else {})


def _later_added(settings: Path, known: dict[str, int]) -> dict[str, int]:
    """What newer versions of transformers list in tokenizer_config.json only; vocab.json goes before it."""
    try:
        listed = {
            str(entry["content"]): int(number) for number, entry in read_json(settings).get("added_tokens_decoder", {}).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"added_tokens_decoder in {settings} must map numbers to tokens ({error!r}): save the tokenizer again."
        ) from error
    taken = set(known.values())
    return {token: number for token, number in listed.items() if token not in known and number not in taken}


def _numbered(content: Any) -> dict[str, int]:
    if isinstance(content, list):  # unigram models store [token, score] pairs; the place is the number
        return {str(entry[0]): number for number, entry in enumerate(content)}
    return {str(token): int(number) for token, number in content.items()}
