"""Whether checkpoints can be merged: one sentence naming tensor or file, and folder, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.finite import is_finite
from asrmerge.checkpoints.vocabulary import read_vocabulary
from asrmerge.errors import CheckpointError, IncompatibleError

# Settings that change what the weights mean without changing any shape.
_MEANING = (
    "num_attention_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "hidden_act",
    "activation_function",
    "do_stable_layer_norm",
    "feat_extract_norm",
    "feat_extract_activation",
    "conv_stride",
    "num_conv_pos_embedding_groups",
    "position_embeddings_type",
    "scale_embedding",
    "tie_word_embeddings",
)


_ONE_BASE = "merge fine-tunes of one base only"


@dataclass(frozen=True)
class _Named:
    label: str
    checkpoint: Checkpoint

    def __str__(self) -> str:
        folder = str(self.checkpoint.folder)
        return folder if self.label == folder else f"{self.label} ({folder})"


def check_compatible(checkpoints: Sequence[Checkpoint], labels: Sequence[str] | None = None) -> None:
    """Check that all have one model type, architecture, vocabulary (token by token), and tensor names and shapes.

    ``labels`` name the checkpoints in messages; by default, what they were opened from.

    Raises:
        IncompatibleError: the first difference, with what to do.
    """
    shown = labels if labels is not None else [checkpoint.label for checkpoint in checkpoints]
    named = [_Named(label, checkpoint) for label, checkpoint in zip(shown, checkpoints, strict=True)]
    for one in named:
        _check_unquantised(one)
    for other in named[1:]:
        for check in (_check_model, _check_vocabulary, _check_names, _check_tensors):
            check(named[0], other)


def read_finite(checkpoint: Checkpoint, name: str, label: str | None = None, elements: tuple[int, int] | None = None) -> Tensor:
    """Read a tensor for a merge, or its ``elements`` from the first to before the last, flattened.

    Raises:
        CheckpointError: it holds NaN or Inf, which a merge would spread to every model.
    """
    tensor = checkpoint.read(name) if elements is None else checkpoint.read_elements(name, *elements)
    if not is_finite(tensor):
        raise CheckpointError(
            f"{name} in {_Named(label or checkpoint.label, checkpoint)} holds NaN or Inf: the training diverged or overflowed; "
            "take an earlier checkpoint or leave this expert out."
        )
    return tensor


def _check_unquantised(one: _Named) -> None:
    if one.checkpoint.config.get("quantization_config"):
        raise IncompatibleError(
            f"{one} is quantised (its config.json says so) and can't be averaged: give the unquantised checkpoint."
        )


def _check_model(first: _Named, other: _Named) -> None:
    one, two = first.checkpoint.config, other.checkpoint.config
    for key in ("model_type", "architectures"):
        if one.get(key) != two.get(key):
            raise IncompatibleError(
                f"config.json says {key} {one.get(key)} in {first} and {two.get(key)} in {other}: {_ONE_BASE}."
            )
    for key in _MEANING:
        if key in one and key in two and one[key] != two[key]:
            raise IncompatibleError(
                f"config.json says {key} {one[key]} in {first} and {two[key]} in {other}, "
                f"so equal weights mean different models: {_ONE_BASE}."
            )


def _check_vocabulary(first: _Named, other: _Named) -> None:
    sizes = [one.checkpoint.config.get("vocab_size") for one in (first, other)]
    if first.checkpoint.model_type == "whisper" and sizes[0] != sizes[1]:
        # 51864 tokens are the English-only models; multilingual ones have one or two rows more, so every later token shifts.
        mixed = (
            "one is English-only, the other multilingual; "
            if 51864 in sizes and min(map(int, filter(None, sizes))) > 51000
            else ""
        )
        raise IncompatibleError(
            f"Whisper's vocabulary has {sizes[0]} tokens in {first} and {sizes[1]} in {other}: {mixed}"
            "their rows are different tokens, so merge fine-tunes of the same Whisper."
        )
    one, two = read_vocabulary(first.checkpoint), read_vocabulary(other.checkpoint)
    if (one is None) != (two is None):
        without, having = (first, other) if one is None else (other, first)
        raise IncompatibleError(
            f"{without} has no tokenizer.json or vocab.json to compare with that of {having}: "
            "copy the tokenizer's files into the folder."
        )
    if one is None or two is None:
        return
    for number in sorted(one.keys() | two.keys()):
        if one.get(number) != two.get(number):
            raise IncompatibleError(
                f"token {number} of the vocabulary is {_quoted(one.get(number))} in {first} "
                f"and {_quoted(two.get(number))} in {other}: fine-tune with one tokenizer, or leave one of them out."
            )


def _quoted(token: str | None) -> str:
    return "absent" if token is None else repr(token)


def _check_names(first: _Named, other: _Named) -> None:
    one, two = set(first.checkpoint.names), set(other.checkpoint.names)
    for having, without, names in ((first, other, one - two), (other, first, two - one)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise IncompatibleError(
                f"{min(names)}{more} is in {having} but not in {without}: {_ONE_BASE}, saved from the same model class."
            )


def _check_tensors(first: _Named, other: _Named) -> None:
    for name in first.checkpoint.names:
        shapes = [one.checkpoint.shape(name) for one in (first, other)]
        if shapes[0] != shapes[1]:
            raise IncompatibleError(
                f"{name} has shape {list(shapes[0])} in {first} and {list(shapes[1])} in {other}: {_ONE_BASE}."
            )
        dtypes = [one.checkpoint.dtype(name) for one in (first, other)]
        if dtypes[0].is_floating_point != dtypes[1].is_floating_point:
            raise IncompatibleError(
                f"{name} is {dtypes[0]} in {first} and {dtypes[1]} in {other}: "
                "give unquantised checkpoints, saved from the same model."
            )
