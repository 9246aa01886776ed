"""CTC heads that were fine-tuned with vocabularies of their own, brought to one: rows are matched by token, not by number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import Named, read_finite
from asrmerge.checkpoints.ctc_vocabulary import CTCVocabulary, is_bracketed, is_head, read_ctc_vocabulary
from asrmerge.checkpoints.storage import read_json
from asrmerge.errors import IncompatibleError

_SHOWN = 5  # tokens that a message names


@dataclass(frozen=True)
class _Loan:
    """Rows that a model lacks, and the model that lends its own."""

    lender: Named
    rows: tuple[int, ...]
    lent: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AlignedCheckpoint(Checkpoint):
    """A checkpoint whose head has the rows of a joint vocabulary; every other parameter is read as it is.

    ``folder`` is the model's own; what its tokenizer's files must say about the joint vocabulary, :func:`vocabulary_files` tells.
    """

    source: Checkpoint = field(kw_only=True)
    joint: CTCVocabulary = field(kw_only=True)
    _places: tuple[int, ...] = field(kw_only=True, repr=False)  # of the own rows, among those of the joint vocabulary
    _loans: tuple[_Loan, ...] = field(kw_only=True, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, sorted."""
        return self.source.names

    @property
    def lacking(self) -> tuple[str, ...]:
        """The tokens whose rows are borrowed, in the order of the joint vocabulary."""
        return tuple(self.joint.tokens[row] for row in sorted(row for loan in self._loans for row in loan.rows))

    def vocabulary(self) -> dict[int, str]:
        """Row → token of the joint vocabulary."""
        return dict(enumerate(self.joint.tokens))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter; a head has as many rows as the joint vocabulary."""
        shape = self.source.shape(name)
        return (len(self.joint.tokens), *shape[1:]) if is_head(name) else shape

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of a parameter."""
        return self.source.dtype(name)

    def read(self, name: str) -> Tensor:
        """The parameter's values; of a head, in a dtype that holds the borrowed rows as they are.

        Raises:
            CheckpointError: as :meth:`Checkpoint.read`, or NaN or Inf in a borrowed row.
        """
        own = self.source.read(name)
        if not is_head(name):
            return own
        loans = [(loan, read_finite(loan.lender.checkpoint, name, loan.lender.label)) for loan in self._loans]
        dtype = own.dtype
        for _, tensor in loans:
            dtype = torch.promote_types(dtype, tensor.dtype)
        joint = torch.empty((len(self.joint.tokens), *own.shape[1:]), dtype=dtype)
        joint[list(self._places)] = own.to(dtype)
        for loan, tensor in loans:
            joint[list(loan.rows)] = tensor[list(loan.lent)].to(dtype)
        return joint

    def spread(self, name: str, own: Tensor) -> Tensor:
        """What was measured on the model's own head, such as a Fisher diagonal, in the rows of the joint one; zero elsewhere.

        Other tensors come back as they are.
        """
        if not is_head(name) or own.shape != self.source.shape(name):
            return own
        joint = own.new_zeros(self.shape(name))
        joint[list(self._places)] = own
        return joint

    def spread_square(self, name: str, own: Tensor) -> Tensor:
        """A matrix over the rows of the model's own head, [own, own], in those of the joint one; zero elsewhere."""
        if not is_head(name) or len(own) != self.source.shape(name)[0]:
            return own
        joint = own.new_zeros(len(self.joint.tokens), len(self.joint.tokens))
        places = torch.tensor(self._places)
        joint[places[:, None], places] = own
        return joint

    def read_elements(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened parameter.

        Raises:
            CheckpointError: as :meth:`read`.
        """
        if is_head(name):
            return self.read(name).flatten()[start:stop]
        return self.source.read_elements(name, start, stop)

    def hash(self) -> str:
        """That of the model itself."""
        return self.source.hash()


def aligned(
    checkpoints: Sequence[Checkpoint], labels: Sequence[str], *, has_base: bool = True, donor: int = 0
) -> list[Checkpoint]:
    """The checkpoints with one vocabulary; the same objects where they have one already, or no CTC head.

    The joint vocabulary has the tokens of ``checkpoints[donor]`` in their order, then the others' by spelling. The blank, the
    unknown token and the word delimiter are matched by what they are for. A model that lacks a token borrows the row of the
    base (the first checkpoint, unless ``has_base`` is false), else of the first model by label that has the token: against the
    base its task vector is zero there.

    Raises:
        IncompatibleError: letters in another case, words cut into other pieces, or one spelling for two tokens.
        CheckpointError: a vocabulary's files are corrupt or do not name a row.
    """
    if len({checkpoint.model_type for checkpoint in checkpoints}) != 1 or checkpoints[0].model_type == "whisper":
        return list(checkpoints)
    plain = [checkpoint.vocabulary() for checkpoint in checkpoints]
    if None in plain or all(vocabulary == plain[0] for vocabulary in plain):
        return list(checkpoints)
    named = [Named(label, checkpoint) for label, checkpoint in zip(labels, checkpoints, strict=True)]
    found = [read_ctc_vocabulary(checkpoint) for checkpoint in checkpoints]
    vocabularies = [vocabulary for vocabulary in found if vocabulary is not None]
    if len(vocabularies) < len(found):
        return list(checkpoints)
    for one, two in combinations(zip(named, vocabularies, strict=True), 2):
        _check_alike(*one, *two)
    order = sorted(range(len(named)), key=lambda index: (index > 0 or not has_base, named[index].label, index))
    return _align(named, vocabularies, order, donor)


def vocabulary_files(donor: Checkpoint, config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Name → text of the files in which the joint vocabulary differs from that of the donor's folder; none if it does not.

    ``config.json`` is one of them: ``config``, by default the donor's, with the new size.

    With them beside the merged weights, the folder's processor numbers tokens as the head does. Tokens that the donor's files
    number beyond its head, such as an added ``<s>``, are moved behind the new rows.
    """
    if not isinstance(donor, AlignedCheckpoint):
        return {}
    own = donor.source.vocabulary() or {}
    new = {token: row for row, token in enumerate(donor.joint.tokens) if row not in donor._places}
    if not new:
        return {}
    contents: dict[str, Any] = {}
    for name in ("vocab.json", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json", "alphabet.json"):
        if (donor.folder / name).is_file():
            contents[name] = read_json(donor.folder / name)
    rows = len(donor.joint.tokens) - len(new)
    numbers = _renumbered(contents, rows, new)
    contents["vocab.json"] = {token: numbers.get(token, number) for token, number in contents["vocab.json"].items()} | new
    if "added_tokens.json" in contents:
        kept = {token: number for token, number in contents["added_tokens.json"].items() if token not in new}
        contents["added_tokens.json"] = {token: numbers.get(token, number) for token, number in kept.items()}
    settings = contents.setdefault("tokenizer_config.json", {})
    if "added_tokens_decoder" in settings:
        kept = {int(number): entry for number, entry in settings["added_tokens_decoder"].items() if entry["content"] not in new}
        moved = {str(numbers.get(entry["content"], number)): entry for number, entry in kept.items()}
        settings["added_tokens_decoder"] = moved
    for role, token in donor.joint.roles.items():
        if token in new:
            for name in ("tokenizer_config.json", "special_tokens_map.json"):
                if name in contents:
                    contents[name][f"{role}_token"] = token
    if not settings:
        del contents["tokenizer_config.json"]
    if "alphabet.json" in contents and len(own) == rows:  # the n-gram decoder's list of the same tokens
        labels = contents["alphabet.json"]["labels"]
        contents["alphabet.json"]["labels"] = [*labels[:rows], *new, *(label for label in labels[rows:] if label not in new)]
    contents["config.json"] = dict(donor.config if config is None else config) | {"vocab_size": len(donor.joint.tokens)}
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in contents.items()}


def _renumbered(contents: Mapping[str, Any], rows: int, new: Mapping[str, int]) -> dict[str, int]:
    """New numbers of the tokens that the files number beyond the head."""
    beyond = {
        token: int(number)
        for name in ("vocab.json", "added_tokens.json")
        for token, number in contents.get(name, {}).items()
        if int(number) >= rows
    }
    listed = contents.get("tokenizer_config.json", {}).get("added_tokens_decoder", {})
    beyond |= {entry["content"]: int(number) for number, entry in listed.items() if int(number) >= rows}
    moved = [token for token in sorted(beyond, key=lambda token: (beyond[token], token)) if token not in new]
    return {token: rows + len(new) + place for place, token in enumerate(moved)}


def _align(named: Sequence[Named], vocabularies: Sequence[CTCVocabulary], order: Sequence[int], donor: int) -> list[Checkpoint]:
    rows = [{key: row for row, key in enumerate(vocabulary.keys)} for vocabulary in vocabularies]
    lenders: dict[tuple[str, str], int] = {}  # key → the first model, in the order of lending, that has it
    for index in order:
        for key in rows[index]:
            lenders.setdefault(key, index)
    spelling = {key: vocabularies[index].tokens[rows[index][key]] for key, index in lenders.items()}
    spelling |= dict(zip(vocabularies[donor].keys, vocabularies[donor].tokens, strict=True))
    others = sorted((key for key in lenders if key not in rows[donor]), key=lambda key: (spelling[key], key))
    keys = [*vocabularies[donor].keys, *others]
    _check_one_spelling(keys, spelling, named, lenders)
    if others and (named[donor].checkpoint.folder / "tokenizer.json").is_file():
        raise IncompatibleError(
            f"{named[donor]} lacks {_some([spelling[key] for key in others])} of the others' vocabularies, and its "
            "tokenizer.json can't be extended: fine-tune with one tokenizer."
        )
    roles = {name: spelling[kind, name] for kind, name in keys if kind == "role"}
    joint = CTCVocabulary(tuple(spelling[key] for key in keys), roles, vocabularies[donor].subwords)
    places = {key: place for place, key in enumerate(keys)}
    return [
        _view(one.checkpoint, joint, tuple(places[key] for key in vocabulary.keys), _loans(own, places, lenders, rows, named))
        for one, vocabulary, own in zip(named, vocabularies, rows, strict=True)
    ]


def _view(checkpoint: Checkpoint, joint: CTCVocabulary, places: tuple[int, ...], loans: tuple[_Loan, ...]) -> Checkpoint:
    config = dict(checkpoint.config) | {"vocab_size": len(joint.tokens)}
    if "pad" in joint.roles:
        config["pad_token_id"] = joint.tokens.index(joint.roles["pad"])
    return AlignedCheckpoint(
        checkpoint.label,
        checkpoint.folder,
        config,
        checkpoint.weight_files,
        checkpoint._tensors,
        source=checkpoint,
        joint=joint,
        _places=places,
        _loans=loans,
    )


def _loans(
    own: Mapping[tuple[str, str], int],
    places: Mapping[tuple[str, str], int],
    lenders: Mapping[tuple[str, str], int],
    rows: Sequence[Mapping[tuple[str, str], int]],
    named: Sequence[Named],
) -> tuple[_Loan, ...]:
    lacking = [key for key in places if key not in own]
    loans = []
    for index in sorted({lenders[key] for key in lacking}):
        keys = [key for key in lacking if lenders[key] == index]
        loans.append(_Loan(named[index], tuple(places[key] for key in keys), tuple(rows[index][key] for key in keys)))
    return tuple(loans)


def _check_alike(one: Named, first: CTCVocabulary, two: Named, second: CTCVocabulary) -> None:
    mine, others = _plain(first), _plain(second)
    if first.subwords != second.subwords:
        whole, cut = ((two, others), (one, mine)) if first.subwords else ((one, mine), (two, others))
        raise IncompatibleError(
            f"the vocabulary of {cut[0]} has pieces of words such as {_some(_longest(cut[1]))}, that of {whole[0]} characters "
            f"such as {_some(sorted(whole[1]))}: their rows can't be matched, so retrain one of them with the other's tokenizer."
        )
    if first.subwords and mine != others:
        lacking = "; ".join(
            f"{name} alone has {_some(_longest(tokens))}"
            for name, tokens in ((one, mine - others), (two, others - mine))
            if tokens
        )
        raise IncompatibleError(
            f"the vocabularies cut words into other pieces ({lacking}): retrain one of them with the other's tokenizer."
        )
    recased = sorted(token for token in mine - others if token.swapcase() in others - mine)
    if recased:
        raise IncompatibleError(
            f"the vocabulary of {one} has {_some(recased)} where that of {two} has "
            f"{_some([token.swapcase() for token in recased])}, the same letters in another case: retrain one of them with the "
            "other's tokenizer, or re-case the tokens in its vocab.json."
        )


def _check_one_spelling(
    keys: Sequence[tuple[str, str]],
    spelling: Mapping[tuple[str, str], str],
    named: Sequence[Named],
    lenders: Mapping[tuple[str, str], int],
) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for key in keys:
        token = spelling[key]
        if token in seen:
            roles = [name for kind, name in (key, seen[token]) if kind == "role"]
            models = " and ".join(str(named[lenders[one]]) for one in (seen[token], key))
            raise IncompatibleError(
                f"{token!r} is the {roles[0].replace('_', ' ')} token in one vocabulary and an ordinary one in the other "
                f"({models}): rename one of them in its vocab.json and tokenizer_config.json."
            )
        seen[token] = key


def _plain(vocabulary: CTCVocabulary) -> set[str]:
    return {token for token in vocabulary.tokens if token not in vocabulary.roles.values() and not is_bracketed(token)}


def _longest(tokens: set[str]) -> list[str]:
    return sorted(tokens, key=lambda token: (-len(token), token))


def _some(tokens: Sequence[str]) -> str:
    shown = ", ".join(repr(token) for token in tokens[:_SHOWN])
    return shown if len(tokens) <= _SHOWN else f"{shown} and {len(tokens) - _SHOWN} more"
