"""Whether checkpoints can be merged: one sentence naming tensor or file, and folder, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.ctc_vocabulary import is_head
from asrmerge.checkpoints.finite import is_finite
from asrmerge.checkpoints.storage import read_json
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
# Whisper's vocabularies: English-only models have one token less than multilingual ones, the third generation one language more.
_ENGLISH_TOKENS, _V3_TOKENS, _V3_BANDS = 51864, 51866, 128
_SMALLEST_WHISPER = 51000
_NEWEST_LANGUAGE = "<|yue|>"
_GENERATION, _NO_TIMESTAMPS = "generation_config.json", "no_timestamps_token_id"
_GENERATIONS = (
    "they are different Whisper generations (v3 has 128 mel bins, not 80, and one language token more, which moves the tokens "
    "after it)"
)


@dataclass(frozen=True)
class Named:
    """A checkpoint as messages call it: by its label and its folder."""

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
    named = [Named(label, checkpoint) for label, checkpoint in zip(shown, checkpoints, strict=True)]
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
            f"{name} in {Named(label or checkpoint.label, checkpoint)} holds NaN or Inf: the training diverged or overflowed; "
            "take an earlier checkpoint or leave this expert out."
        )
    return tensor


def _check_unquantised(one: Named) -> None:
    if one.checkpoint.config.get("quantization_config"):
        raise IncompatibleError(
            f"{one} is quantised (its config.json says so) and can't be averaged: give the unquantised checkpoint."
        )


def _check_model(first: Named, other: Named) -> None:
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


def _check_vocabulary(first: Named, other: Named) -> None:
    if first.checkpoint.model_type == "whisper":
        _check_whisper(first, other)
    elif not any(is_head(name) for one in (first, other) for name in one.checkpoint.names):
        return  # layers put together with the head of another model: nothing here stands for a token
    one, two = first.checkpoint.vocabulary(), other.checkpoint.vocabulary()
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
            # The newest language: every token after it has another number before the third generation.
            mixed = (_NEWEST_LANGUAGE in one.values()) != (_NEWEST_LANGUAGE in two.values())
            generations = "these are the tokenizers of different Whisper generations, v3 and an earlier one; " if mixed else ""
            raise IncompatibleError(
                f"token {number} of the vocabulary is {_quoted(one.get(number))} in {first} "
                f"and {_quoted(two.get(number))} in {other}: {generations}fine-tune with one tokenizer, or leave one of them out."
            )


def _check_whisper(first: Named, other: Named) -> None:
    configs = first.checkpoint.config, other.checkpoint.config
    sizes = [config.get("vocab_size") for config in configs]
    bands = [config.get("num_mel_bins") for config in configs]
    v3 = [size == _V3_TOKENS or band == _V3_BANDS for size, band in zip(sizes, bands, strict=True)]
    if sizes[0] != sizes[1]:
        reason = ""
        if _ENGLISH_TOKENS in sizes and min(map(int, filter(None, sizes))) > _SMALLEST_WHISPER:
            reason = "one is English-only, the other multilingual; "
        elif v3[0] != v3[1]:
            reason = f"{_GENERATIONS}; "
        raise IncompatibleError(
            f"Whisper's vocabulary has {sizes[0]} tokens in {first} and {sizes[1]} in {other}: {reason}"
            "their rows are different tokens, so merge fine-tunes of the same Whisper."
        )
    starts = [_no_timestamps(one.checkpoint) for one in (first, other)]
    if None not in starts and starts[0] != starts[1]:
        raise IncompatibleError(
            f"{_GENERATION} says {_NO_TIMESTAMPS} {starts[0]} in {first} and {starts[1]} in {other}: one has the token numbers "
            "of another Whisper generation; if their tokenizers are the same, copy the right generation_config.json there."
        )
    if bands[0] != bands[1]:
        reason = f"{_GENERATIONS}, so " if v3[0] != v3[1] else ""
        raise IncompatibleError(
            f"config.json says num_mel_bins {bands[0]} in {first} and {bands[1]} in {other}: {reason}"
            "merge fine-tunes of the same Whisper."
        )


def _no_timestamps(checkpoint: Checkpoint) -> int | None:
    """The number of the token that differs between English-only models, v2 and v3; None where no file says it."""
    path = checkpoint.folder / _GENERATION
    return read_json(path).get(_NO_TIMESTAMPS) if path.is_file() else None


def _quoted(token: str | None) -> str:
    return "absent" if token is None else repr(token)


def _check_names(first: Named, other: Named) -> None:
    one, two = set(first.checkpoint.names), set(other.checkpoint.names)
    for having, without, names in ((first, other, one - two), (other, first, two - one)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise IncompatibleError(
                f"{min(names)}{more} is in {having} but not in {without}: {_ONE_BASE}, saved from the same model class."
            )


def _check_tensors(first: Named, other: Named) -> None:
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
