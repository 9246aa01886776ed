"""What the rows of a CTC head stand for: tokens, and the roles that some of them play."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.storage import read_json
from asrmerge.errors import CheckpointError

HEADS = ("lm_head", "ctc_head")  # wav2vec2 and its relatives; Parakeet

# The usual spelling of each role, which transformers takes where no file names another.
_ROLES = {"pad": "<pad>", "unk": "<unk>", "word_delimiter": "|"}
_SUBWORD_MODELS = ("BPE", "Unigram", "WordPiece")
_SUBWORD_MARKS = ("▁", "Ġ", "##")


@dataclass(frozen=True)
class CTCVocabulary:
    """The tokens of a head by row; role → token for those that have one; whether tokens are pieces of words."""

    tokens: tuple[str, ...]
    roles: Mapping[str, str]
    subwords: bool

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """What each row is matched by: its role, else its token."""
        role_of = {token: role for role, token in self.roles.items()}
        return tuple(("role", role_of[token]) if token in role_of else ("token", token) for token in self.tokens)


def is_head(name: str) -> bool:
    """Whether a parameter's first dimension is the vocabulary of a CTC model."""
    return name.partition(".")[0] in HEADS


def read_ctc_vocabulary(checkpoint: Checkpoint) -> CTCVocabulary | None:
    """The vocabulary of a checkpoint's head; None where there is no head, or no file that names its tokens.

    Raises:
        CheckpointError: a row has no token, or the head has not as many rows as config.json says.
    """
    heads = [name for name in checkpoint.names if is_head(name)]
    found = checkpoint.vocabulary()
    if not heads or found is None:
        return None
    rows = checkpoint.shape(heads[0])[0]
    if rows != checkpoint.config.get("vocab_size", rows):
        raise CheckpointError(
            f"{heads[0]} in {checkpoint.folder} has {rows} rows but config.json says vocab_size "
            f"{checkpoint.config['vocab_size']}: save the model again."
        )
    roles = _roles(checkpoint, found)
    blank = checkpoint.config.get("pad_token_id")
    if isinstance(blank, int) and 0 <= blank < rows and blank not in found:
        # Parakeet's blank comes after the tokens and need not be among them.
        found = found | {blank: roles.setdefault("pad", _ROLES["pad"])}
    for row in range(rows):
        if row not in found:
            raise CheckpointError(
                f"row {row} of {heads[0]} in {checkpoint.folder} has no token in the tokenizer's files, so it can't be matched "
                "with another vocabulary: add its token to vocab.json."
            )
    tokens = tuple(found[row] for row in range(rows))
    return CTCVocabulary(tokens, roles, _is_subwords(checkpoint.folder, tokens, roles))


def _roles(checkpoint: Checkpoint, rows: Mapping[int, str]) -> dict[str, str]:
    """The tokenizer's files first, as they decide what is transcribed; then config.json, which knows the blank; then spelling."""
    named: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path := checkpoint.folder / file).is_file():
            named |= read_json(path)
    present, found = set(rows.values()), dict[str, str]()
    for role, usual in _ROLES.items():
        given = named.get(f"{role}_token")
        spelt = given.get("content") if isinstance(given, dict) else given
        blank = rows.get(checkpoint.config.get("pad_token_id", -1)) if role == "pad" else None
        for token in (spelt, blank, usual):
            if isinstance(token, str) and token in present and token not in found.values():
                found[role] = token
                break
    return found


def _is_subwords(folder: Path, tokens: tuple[str, ...], roles: Mapping[str, str]) -> bool:
    """By the tokenizer's kind, by marks of word starts, or because most tokens are longer than a character."""
    fast = folder / "tokenizer.json"
    if fast.is_file() and read_json(fast).get("model", {}).get("type") in _SUBWORD_MODELS:
        return True
    plain = [token for token in tokens if token not in roles.values() and not is_bracketed(token)]
    longer = [token for token in plain if sum(not unicodedata.combining(character) for character in token) > 1]
    return any(token.startswith(_SUBWORD_MARKS) for token in longer) or 2 * len(longer) > len(plain)


def is_bracketed(token: str) -> bool:
    """Whether a token is spelt like a special one: ``<s>``, ``[NOISE]``."""
    return len(token) > 2 and (token[0], token[-1]) in (("<", ">"), ("[", "]"))
