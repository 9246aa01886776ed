"""Encoders with a CTC head: wav2vec 2.0, HuBERT, WavLM, data2vec-audio, wav2vec2-BERT."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Wav2Vec2BertProcessor,
    Wav2Vec2Processor,
)

from asrmerge.errors import CheckpointError
from asrmerge.recognizers.batching import batch_threads, length_buckets, map_batches
from asrmerge.recognizers.computing import autocast, best_tokens, evaluating
from asrmerge.recognizers.fast_linear import fast_linear
from asrmerge.recognizers.feature_cache import FeatureCache
from asrmerge.recognizers.likelihoods import ctc_negative_log_likelihoods, draw_ctc_labels, frame_entropies
from asrmerge.recognizers.loading import load_model, load_processor, save_checkpoint
from asrmerge.recognizers.partition import Part, names_in, norms_in, partition
from asrmerge.recognizers.recognizer import DecodingSettings, Precision
from asrmerge.recognizers.windows import middles, overlapping_windows

model_types = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "wav2vec2-bert")

# The convolutions need a few hundred samples for one frame; nothing that is shorter than this is speech.
_SHORTEST_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class CtcRecognizer:
    """A CTC model with its processor.

    Attributes:
        chunk_seconds: longer utterances are decoded in overlapping windows of this length, all of it in view at once taking
            memory with the square of the length.
        stride_seconds: what of a window, on each side, only gives the middle its surroundings. These two are ``chunk_length_s``
            and ``stride_length_s`` of transformers' pipeline.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    precision: Precision = "float32"
    family: str = "ctc"
    window_seconds: float | None = None
    chunk_seconds: float = 30.0
    stride_seconds: float = 5.0

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return int(self.processor.feature_extractor.sampling_rate)

    def features(self, audio: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """``input_values [batch, samples]`` (wav2vec2-BERT: ``input_features [batch, frames, bins]``), and ``attention_mask``
        where the feature extractor is configured to give one."""
        padded = [np.pad(samples, (0, max(0, self._shortest - len(samples)))) for samples in audio]
        batch = self.processor.feature_extractor(padded, sampling_rate=self.sampling_rate, padding=True, return_tensors="pt")
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for name, value in batch.items()
        }

    def labels(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``[batch, length]``, -100 where padded.

        Texts take the case of the vocabulary, and what it cannot spell is left out: a target ``<unk>`` would be learnt.
        """
        rows = [torch.tensor(self._token_ids(text), dtype=torch.long) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100).to(self.model.device)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Negative log-likelihood of each utterance's text divided by its number of labels, then the mean over utterances.

        Texts that do not fit in their audio count as zero (``zero_infinity``). Feature extractors without attention mask make the
        padding part of the utterance, as they did when such models were pretrained.
        """
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        labels = batch["labels"]
        logits, lengths = self._logits(inputs)
        losses = ctc_negative_log_likelihoods(logits, lengths, labels, self._blank, zero_infinity=True)
        return (losses / (labels >= 0).sum(1).clamp(min=1)).mean()

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Float32 logits of every frame ``[batch, frames, vocabulary]``."""
        return self._logits({name: value for name, value in batch.items() if name != "labels"})[0]

    def negative_log_likelihoods(self, logits: Tensor, batch: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """−log p(labels | audio) over all alignments, in nats ``[batch]``; infinite where a text does not fit in its audio."""
        return ctc_negative_log_likelihoods(logits, self._frames(logits, batch), labels, self._blank)

    def draw_labels(self, logits: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Texts drawn from p(text | audio) ``[batch, length]``, -100 where padded."""
        return draw_ctc_labels(logits, self._frames(logits, batch), self._blank, generator)

    def entropies(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean entropy of the frames that are not blank, in nats ``[batch]``."""
        return frame_entropies(logits, self._frames(logits, batch), self._blank)

    def real_positions(self, module: str, batch: Mapping[str, Tensor], samples: Sequence[int]) -> Tensor:
        """Output positions that are the utterance ``[batch]``: without an attention mask, padding is part of it."""
        inputs = batch[self.model.main_input_name]
        mask = batch.get("attention_mask")
        if mask is None:
            lengths = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        elif self.model.main_input_name == "input_values":
            lengths = torch.tensor([max(count, self._shortest) for count in samples], device=inputs.device)  # as in features()
        else:
            lengths = mask.sum(-1)
        convolution = re.search(r"feature_extractor\.conv_layers\.(\d+)\.", f"{module}.")
        if convolution is None:
            return self._output_lengths(lengths)
        config, last = self.model.config, int(convolution.group(1))
        for kernel, stride in list(zip(config.conv_kernel, config.conv_stride, strict=True))[: last + 1]:
            lengths = (lengths - kernel).div(stride, rounding_mode="floor") + 1
        return lengths

    def hears_padding(self, module: str) -> bool:
        """No: what an attention mask leaves out has no part, and without one padding counts as the utterance."""
        return False

    def transcribe(self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0) -> list[str]:
        """Best token per frame, repeats collapsed, blanks dropped; one text per utterance, in order.

        Where padding would change a model's output (see ``padding_is_neutral``), only utterances of equal length share a batch.
        Utterances beyond ``chunk_seconds`` are decoded one by one, in windows whose middles are put together.
        """
        chunk = self.chunk_seconds * self.sampling_rate
        short = [index for index, samples in enumerate(audio) if len(samples) <= chunk]
        long = [index for index, samples in enumerate(audio) if len(samples) > chunk]
        batches = length_buckets(
            [len(audio[index]) for index in short],
            batch_length=round(batch_seconds * self.sampling_rate),
            equal=not self.padding_is_neutral(),
        )
        # Not in inference mode: rotary positions are kept by the model, and a gradient may be asked for later.
        with evaluating(self.model), torch.no_grad(), fast_linear(self.model):
            found = map_batches(
                batches,
                lambda places: self._paths(self.features([audio[short[place]] for place in places])),
                threads=batch_threads(self.model.device),
            )
            paths = dict(zip(short, found, strict=True)) | {index: self._long_path(audio[index], batch_seconds) for index in long}
        texts: list[str] = self.processor.tokenizer.batch_decode([paths[index] for index in range(len(audio))])
        return texts

    def decoding_settings(self) -> DecodingSettings:
        """The best path; how long utterances are cut."""
        generation = {
            "search": "best path",
            "blank": self._blank,
            "chunk_seconds": self.chunk_seconds,
            "stride_seconds": self.stride_seconds,
            "equal_lengths_in_a_batch": not self.padding_is_neutral(),
        }
        dtype = str(self.model.dtype).removeprefix("torch.")
        return DecodingSettings(self.family, str(self.model.device), self.precision, dtype, generation)

    def padding_is_neutral(self) -> bool:
        """Whether an utterance's frames come out the same next to a longer one.

        Not so without an attention mask; with group normalisation in the feature extractor, whose statistics span the
        padding; with positional convolutions that see more than zeros beyond the end (data2vec stacks them, HuBERT may
        normalise their input); or with a convolutional adapter after the encoder.
        """
        parts = self._base.modules()
        return bool(
            self.processor.feature_extractor.return_attention_mask
            and not any(isinstance(part, (nn.GroupNorm, nn.BatchNorm1d)) for part in parts)
            and not isinstance(getattr(self._positional, "layers", None), nn.ModuleList)
            and getattr(self._base, "adapter", None) is None
        )

    def groups(self) -> dict[str, list[str]]:
        """``frontend``, ``positional``, ``encoder.N``, ``encoder``, ``head``, ``norms`` (those outside the front end)."""
        return partition(self.model, self._claims())

    def frontend_parameters(self) -> list[str]:
        """The convolutional feature extractor, without the projection after it; none in wav2vec2-BERT."""
        return names_in(self.model, [getattr(self._base, "feature_extractor", None)])

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write everything that ``from_pretrained`` needs to ``folder``; weights in ``dtype`` (default: the model's)."""
        save_checkpoint(folder, self.model, self.processor, dtype)

    @property
    def _shortest(self) -> int:
        return round(_SHORTEST_SECONDS * self.sampling_rate)

    @property
    def _blank(self) -> int:
        # The tokenizer's, not the config's: it is what a transcript is collapsed by.
        return int(self.processor.tokenizer.pad_token_id)

    @property
    def _base(self) -> Any:
        return self.model.base_model

    @property
    def _positional(self) -> nn.Module | None:
        return getattr(self._base.encoder, "pos_conv_embed", None)

    def _claims(self) -> Iterator[tuple[str, Part | None]]:
        base = self._base
        yield "frontend", getattr(base, "feature_extractor", None)
        yield "frontend", base.feature_projection
        yield from (("norms", module) for module in norms_in(self.model))
        yield "positional", self._positional
        # wav2vec2-BERT: without parameters in all but one of its position types.
        yield "positional", getattr(base.encoder, "embed_positions", None)
        for number, layer in enumerate(base.encoder.layers):
            # WavLM: the table of relative positions, which sits in the first layer and serves all of them.
            yield "positional", getattr(getattr(layer, "attention", None), "rel_attn_embed", None)
            yield f"encoder.{number}", layer
        yield "encoder", base
        yield "head", self.model

    def _paths(self, inputs: Mapping[str, Tensor]) -> list[list[int]]:
        """The best token of every real frame, by row."""
        logits, lengths = self._logits(inputs)
        real = torch.arange(logits.shape[1], device=logits.device) < lengths.to(logits.device)[:, None]
        tokens = best_tokens(logits, real)
        return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]

    def _long_path(self, samples: np.ndarray, batch_seconds: float) -> list[int]:
        """The best token of every frame, from windows over the features of the whole, which is normalised as one."""
        inputs = self.features([samples])
        positions, step = inputs[self.model.main_input_name].shape[1], self._positions_per_frame
        per_second = positions * self.sampling_rate / len(samples)
        windows = overlapping_windows(
            positions,
            window=round(self.chunk_seconds * per_second) // step * step,
            stride=round(self.stride_seconds * per_second),
            step=step,
        )
        rows = max(1, int(batch_seconds // self.chunk_seconds))
        # The last is by itself: it may be shorter, and padding could change what it says.
        batches = [windows[start : min(start + rows, len(windows) - 1)] for start in range(0, len(windows) - 1, rows)]
        paths: list[list[int]] = []
        for batch in [*batches, windows[-1:]]:
            paths += self._paths({name: torch.cat([value[:, a:b] for a, b in batch]) for name, value in inputs.items()})
        spans = [(start // step, start // step + len(path)) for (start, _), path in zip(windows, paths, strict=True)]
        kept = zip(paths, spans, middles(spans), strict=True)
        return [token for path, (start, _), (first, end) in kept for token in path[first - start : end - start]]

    @property
    def _positions_per_frame(self) -> int:
        config = self.model.config
        adapter = config.adapter_stride**config.num_adapter_layers if getattr(config, "add_adapter", False) else 1
        # wav2vec2-BERT takes filterbanks, whatever strides its config may name.
        strides = config.conv_stride if self.model.main_input_name == "input_values" else ()
        return int(math.prod(strides) * adapter)

    def _logits(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Float32 logits ``[batch, frames, vocabulary]`` and how many frames of each row are real."""
        with autocast(self.model.device, self.precision):
            logits: Tensor = self.model(**inputs).logits
        return logits.float(), self._frames(logits, inputs)

    def _frames(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """How many frames of each row are real ``[batch]``."""
        mask = batch.get("attention_mask")
        if mask is None:
            return torch.full((len(logits),), logits.shape[1], device=logits.device)
        return self._output_lengths(mask.sum(-1))

    def _output_lengths(self, lengths: Tensor) -> Tensor:
        frames: Tensor = self.model._get_feat_extract_output_lengths(lengths).long()
        return frames

    def _token_ids(self, text: str) -> list[int]:
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer(_in_case_of(tokenizer.get_vocab(), text)).input_ids
        separator = getattr(tokenizer, "word_delimiter_token_id", None)
        spelt: list[int] = []
        for token in ids:
            # A word that is left out would leave two separators side by side, or one at the start.
            doubled = token == separator and spelt[-1:] in ([], [separator])
            if token not in (tokenizer.unk_token_id, self._blank) and not doubled:
                spelt.append(token)
        return spelt[:-1] if spelt[-1:] == [separator] else spelt


def load(
    source: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    precision: Precision,
    language: str | None,
    feature_cache: FeatureCache | None,
) -> CtcRecognizer:
    """Load a CTC checkpoint.

    ``language`` and ``feature_cache`` have no effect here: the models take samples as they are, and the filterbanks of
    wav2vec2-BERT cost about a two-hundredth of what its encoder does.

    Raises:
        CheckpointError: weights, tokenizer or feature extractor are missing or do not fit.
    """
    processor = load_processor([AutoProcessor, Wav2Vec2Processor, Wav2Vec2BertProcessor], source)
    if processor.tokenizer.pad_token_id is None:
        raise CheckpointError(f"The tokenizer of {source} has no pad token, which is the CTC blank; set pad_token in its files.")
    model = load_model(AutoModelForCTC, source, device=device, dtype=dtype)
    return CtcRecognizer(model=model, processor=processor, precision=precision)


def _in_case_of(vocabulary: Mapping[str, int], text: str) -> str:
    """``text`` in the case of a vocabulary that has only one; its words apart by single spaces."""
    text = " ".join(text.split())
    letters = [token for token in vocabulary if len(token) == 1 and token.upper() != token.lower()]
    if letters and all(letter.isupper() for letter in letters):
        return text.upper()
    return text.lower() if letters and all(letter.islower() for letter in letters) else text
