"""Whisper: an encoder over a window of fixed length, and a decoder that writes the text."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoProcessor, WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from asrmerge.errors import AudioError, CheckpointError, ManifestError
from asrmerge.recognizers.batching import batch_threads, map_batches
from asrmerge.recognizers.computing import autocast, evaluating
from asrmerge.recognizers.fast_linear import fast_linear
from asrmerge.recognizers.feature_cache import FeatureCache
from asrmerge.recognizers.greedy import TokenRules, greedy_tokens
from asrmerge.recognizers.likelihoods import IGNORED, draw_tokens, token_entropies, token_negative_log_likelihoods
from asrmerge.recognizers.loading import load_model, load_processor, save_checkpoint
from asrmerge.recognizers.long_form_generation import generate_long_form
from asrmerge.recognizers.partition import Part, names_in, norms_in, partition
from asrmerge.recognizers.recognizer import DecodingSettings, Precision
from asrmerge.recognizers.whisper_prompt import find_prompt
from asrmerge.recognizers.windows import split_at_pauses
from asrmerge.speech.timed_text import TimedText

model_types = ("whisper",)

logger = logging.getLogger(__name__)

# Fast speech has about 25 letters a second: the token bound of an utterance follows from it.
_LETTERS_PER_SECOND = 30.0
_SPARE_TOKENS = 8
_PLAIN_TEXT = "the people who came to the meeting in the morning said that they would like to know more about it"
# Fewer rows leave the decoder waiting for its weights: measured, two rows take 1.5 times as long per row as four.
_FEWEST_ROWS = 4


@dataclass(frozen=True, eq=False)
class WhisperRecognizer:
    """A Whisper model with its processor.

    Attributes:
        prompt: ids that decoding starts from: start of transcript, language and task where multilingual, no timestamps.
        tokens_per_second: bound on what an utterance may take.
        feature_cache: where features are kept that other models of the same feature extractor will ask for.
    """

    model: WhisperForConditionalGeneration
    processor: WhisperProcessor
    prompt: tuple[int, ...]
    tokens_per_second: float
    precision: Precision = "float32"
    family: str = "whisper"
    feature_cache: FeatureCache | None = None

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def window_seconds(self) -> float:
        """What the encoder sees at once: 30 s in OpenAI's models."""
        return float(self.processor.feature_extractor.n_samples) / self.sampling_rate

    def features(self, audio: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """``input_features [batch, mel bins, frames]``, padded with silence to the window.

        Raises:
            AudioError: an utterance is longer than the window.
        """
        longest = max((len(samples) for samples in audio), default=0)
        if longest > self._window:
            raise AudioError(
                f"An utterance of {longest / self.sampling_rate:.1f} s is longer than this Whisper's window of "
                f"{self.window_seconds:g} s; cut it, or leave it out."
            )
        return {"input_features": self._extract(audio).to(self.model.device, self.model.dtype)}

    def labels(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``[batch, length]``, -100 where padded: the prompt after its start token, the text, the end token.

        The text starts with a space, as in OpenAI's own training.

        Raises:
            ManifestError: a text has more tokens than the decoder has positions.
        """
        tokenizer = self.processor.tokenizer
        rows = []
        for text in texts:
            words = " ".join(text.split())
            ids = tokenizer(f" {words}", add_special_tokens=False).input_ids if words else []
            row = [*self.prompt[1:], *ids, self._rules.end[0]]
            if len(row) > self.model.config.max_target_positions:
                raise ManifestError(
                    f"A text of {len(row)} tokens is longer than this Whisper's {self.model.config.max_target_positions} "
                    f"positions; cut it, or leave it out: {words[:60]}…"
                )
            rows.append(torch.tensor(row, dtype=torch.long))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100).to(self.model.device)

    def loss(self, batch: Mapping[str, Tensor], *, encoder_states: Tensor | None = None) -> Tensor:
        """Cross entropy: the mean over an utterance's tokens, then over utterances.

        Args:
            batch: ``labels``, and ``input_features`` unless ``encoder_states [batch, positions, width]`` are given.
        """
        labels = batch["labels"]
        losses = token_negative_log_likelihoods(self.logits(batch, encoder_states=encoder_states), labels)
        return (losses / (labels >= 0).sum(1).clamp(min=1)).mean()

    def logits(self, batch: Mapping[str, Tensor], *, encoder_states: Tensor | None = None) -> Tensor:
        """Float32 logits of each label after those before it ``[batch, length, vocabulary]``; arguments as those of ``loss``."""
        config = self.model.config
        with autocast(self.model.device, self.precision):
            hidden = self.model.model(
                input_features=None if encoder_states is not None else batch["input_features"],
                encoder_outputs=None if encoder_states is None else BaseModelOutput(last_hidden_state=self._own(encoder_states)),
                decoder_input_ids=shift_tokens_right(batch["labels"], config.pad_token_id, config.decoder_start_token_id),
                use_cache=False,
            ).last_hidden_state
            logits: Tensor = self.model.proj_out(hidden)
        return logits.float()

    def negative_log_likelihoods(self, logits: Tensor, batch: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """−log p(text | audio, prompt) in nats ``[batch]``: the prompt is given, so its tokens don't count."""
        return token_negative_log_likelihoods(logits, self._without_prompt(labels))

    def draw_labels(self, logits: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """A token from each position's distribution after the batch's own labels, prompt and padding kept ``[batch, length]``."""
        labels = batch["labels"]
        drawn = draw_tokens(logits, self._without_prompt(labels), generator)
        return torch.where(drawn == IGNORED, labels, drawn)

    def entropies(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean entropy at the tokens after the prompt, in nats ``[batch]``."""
        return token_entropies(logits, self._without_prompt(batch["labels"]))

    def real_positions(self, module: str, batch: Mapping[str, Tensor], samples: Sequence[int]) -> Tensor:
        """Output positions that are the utterance ``[batch]``: of the encoder, those before the silence that fills the window."""
        if not self.hears_padding(module):
            tokens: Tensor = (batch["labels"] >= 0).sum(1)
            return tokens
        extractor = self.processor.feature_extractor
        lengths = torch.tensor(samples, device=batch["labels"].device)
        frames: Tensor = (-(-lengths // extractor.hop_length)).clamp(max=extractor.nb_max_frames)
        return frames if module == "model.encoder.conv1" else -(-frames // 2)  # the second convolution has stride 2

    def hears_padding(self, module: str) -> bool:
        """Where the encoder's positions are computed: nothing masks the silence that fills the window."""
        return module.startswith("model.encoder.") or module.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))

    def padding_is_neutral(self) -> bool:
        """Yes: every window has one length, and the decoder looks back only."""
        return True

    def encode(self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0) -> Tensor:
        """Encoder states ``[batch, positions, width]``, without gradient, for ``transcribe`` and ``loss``.

        Raises:
            AudioError: an utterance is longer than the window.
        """
        rows = self._rows(batch_seconds)
        batches = [range(len(audio))[start : start + rows] for start in range(0, len(audio), rows)]
        with evaluating(self.model), torch.no_grad(), fast_linear(self.model):
            states = map_batches(
                batches,
                lambda indices: list(self._encode([audio[index] for index in indices])),
                threads=batch_threads(self.model.device),
            )
        config = self.model.config
        return torch.stack(states) if states else torch.empty(0, config.max_source_positions, config.d_model)

    def transcribe(
        self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0, encoder_states: Tensor | None = None
    ) -> list[str]:
        """Greedy transcripts, in order, of at most ``token_bound`` tokens each.

        Utterances beyond the window: by transformers' long-form generation where the vocabulary has timestamps, else cut at
        pauses and the texts joined. A batch counts each row as a whole window, and has four rows at least.

        Args:
            encoder_states: ``encode(audio)``, on any device; then no utterance may be longer than the window.

        Raises:
            AudioError: ``encoder_states`` do not have a row for each utterance.
        """
        long = [index for index, samples in enumerate(audio) if len(samples) > self._window]
        if encoder_states is not None and (long or len(encoder_states) != len(audio)):
            raise AudioError(
                f"{len(encoder_states)} rows of encoder states do not fit {len(audio)} utterances, {len(long)} of which are "
                "longer than the window; encode the same utterances."
            )
        if long:
            way = "in one long-form pass each" if self.has_timestamps else "cut at pauses"
            logger.warning(
                "%d of %d utterances are longer than the window of %g s: transcribed %s.", len(long), len(audio),
                self.window_seconds, way,
            )  # fmt: skip
        with evaluating(self.model), torch.inference_mode(), fast_linear(self.model):
            whole = {index: self.long_form(audio[index]).text for index in long} if self.has_timestamps else {}
            pieces = [
                (index, piece)
                for index, samples in enumerate(audio)
                if index not in whole
                for piece in split_at_pauses(samples, window=self._window, sampling_rate=self.sampling_rate)
            ]
            texts = self._transcribe_windows([piece for _, piece in pieces], batch_seconds, encoder_states)
        parts: list[list[str]] = [[whole[index]] if index in whole else [] for index in range(len(audio))]
        for (index, _), text in zip(pieces, texts, strict=True):
            parts[index].append(text)
        return [" ".join(filter(None, part)) for part in parts]

    def long_form(self, samples: np.ndarray) -> TimedText:
        """The transcript of one recording of any length with its own segments; needs timestamps."""
        with evaluating(self.model), fast_linear(self.model), autocast(self.model.device, self.precision):
            return generate_long_form(self.model, self.processor, samples, prompt=self.prompt)

    def decoding_settings(self) -> DecodingSettings:
        """Greedy search from the prompt: which tokens are barred, how many there may be, what happens beyond the window."""
        rules, tokenizer = self._rules, self.processor.tokenizer
        language = tokenizer.convert_ids_to_tokens(self.prompt[1]).strip("<|>") if self._is_multilingual else None
        generation = {
            "search": "greedy",
            "prompt": tokenizer.convert_ids_to_tokens(list(self.prompt)),
            "language": language,
            "task": "transcribe" if self._is_multilingual else None,
            "end_tokens": list(rules.end),
            "suppress_tokens": list(rules.suppress),
            "begin_suppress_tokens": list(rules.begin_suppress),
            "tokens_per_second": self.tokens_per_second,
            "spare_tokens": _SPARE_TOKENS,
            "most_tokens": int(self.model.config.max_target_positions) - len(self.prompt),
            "window_seconds": self.window_seconds,
            "beyond_the_window": "long-form generation" if self.has_timestamps else "cut at pauses",
            "decoder_precision": self._decoder_precision,
        }
        dtype = str(self.model.dtype).removeprefix("torch.")
        return DecodingSettings(self.family, str(self.model.device), self.precision, dtype, generation)

    @property
    def has_timestamps(self) -> bool:
        """Whether the vocabulary has timestamps, which long-form generation needs."""
        marker = getattr(self.model.generation_config, "no_timestamps_token_id", None)
        return marker is not None and marker + 1 < self.model.config.vocab_size

    def token_bound(self, samples: int) -> int:
        """Most tokens of an utterance of so many samples: more cannot be said, only repeated."""
        spoken = math.ceil(samples / self.sampling_rate * self.tokens_per_second) + _SPARE_TOKENS
        return min(spoken, int(self.model.config.max_target_positions) - len(self.prompt))

    def groups(self) -> dict[str, list[str]]:
        """``frontend``, ``encoder.N``, ``decoder.N.self``, ``decoder.N.cross``, ``decoder.N.ffn``, ``decoder`` (positions),
        ``embedding`` (tokens, and the output projection where it is not tied to them), ``norms``."""
        return partition(self.model, self._claims())

    def frontend_parameters(self) -> list[str]:
        """The encoder's two convolutions and its positions."""
        return names_in(self.model, self._frontend())

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write everything that ``from_pretrained`` needs to ``folder``; weights in ``dtype`` (default: the model's)."""
        save_checkpoint(folder, self.model, self.processor, dtype)

    @property
    def _window(self) -> int:
        return int(self.processor.feature_extractor.n_samples)

    @property
    def _is_multilingual(self) -> bool:
        return len(self.prompt) > 2  # start, language, task

    @property
    def _decoder_precision(self) -> Precision:
        # CPUs attend from one query eight times slower in bfloat16 than in float32 (measured).
        return "float32" if self.model.device.type == "cpu" else self.precision

    @property
    def _rules(self) -> TokenRules:
        return TokenRules.from_generation_config(self.model.generation_config)

    def _rows(self, batch_seconds: float) -> int:
        return max(_FEWEST_ROWS, int(batch_seconds // self.window_seconds))

    def _without_prompt(self, labels: Tensor) -> Tensor:
        """``labels`` with -100 for what ``self.prompt`` says already; its start token is none of them."""
        given = torch.arange(labels.shape[1], device=labels.device) < len(self.prompt) - 1
        return labels.masked_fill(given, IGNORED)

    def _own(self, states: Tensor) -> Tensor:
        return states.to(self.model.device, self.model.dtype)

    def _extract(self, audio: Sequence[np.ndarray]) -> Tensor:
        """Float32 features ``[batch, mel bins, frames]`` of the whole window, from ``feature_cache`` where it has them."""
        if self.feature_cache is None or not audio:
            return self._compute_features(audio)
        cache, extractor = self.feature_cache, self.processor.feature_extractor
        keys = [cache.key(samples, extractor.to_json_string()) for samples in audio]
        known = {key: cache.read(key, extractor.nb_max_frames) for key in keys}
        missing = [index for index, key in enumerate(keys) if known[key] is None]
        if missing:
            for index, features in zip(missing, self._compute_features([audio[index] for index in missing]), strict=True):
                known[keys[index]] = features
                cache.write(keys[index], features)
        return torch.stack([features for key in keys if (features := known[key]) is not None])

    def _compute_features(self, audio: Sequence[np.ndarray]) -> Tensor:
        """Only what holds sound is computed: frames of silence are all alike, and the last one stands for those after it."""
        extractor = self.processor.feature_extractor
        # The last frame must see nothing but silence: a hop and half of the Fourier transform's span from its centre.
        sound = max((len(samples) for samples in audio), default=0) + extractor.hop_length + extractor.n_fft
        length = min(self._window, math.ceil(sound / extractor.hop_length) * extractor.hop_length)
        if getattr(extractor, "dither", 0.0):
            length = self._window  # noise is added, to the silence as well
        # The extractor computes with torch on the CPU, and NumPy cannot take what autocast makes of that.
        with torch.autocast("cpu", enabled=False):
            features: Tensor = extractor(
                list(audio), sampling_rate=self.sampling_rate, max_length=length, return_tensors="pt"
            ).input_features
        return F.pad(features, (0, extractor.nb_max_frames - features.shape[-1]), mode="replicate")

    def _encode(self, audio: Sequence[np.ndarray]) -> Tensor:
        with autocast(self.model.device, self.precision):
            states: Tensor = self.model.model.encoder(self.features(audio)["input_features"]).last_hidden_state
        return self._own(states)

    def _transcribe_windows(self, audio: Sequence[np.ndarray], batch_seconds: float, encoder_states: Tensor | None) -> list[str]:
        def decode(indices: Sequence[int]) -> list[list[int]]:
            states = (
                self._encode([audio[index] for index in indices])
                if encoder_states is None
                else self._own(encoder_states[torch.tensor(indices, device=encoder_states.device)])
            )
            limits = [self.token_bound(len(audio[index])) for index in indices]
            with autocast(self.model.device, self._decoder_precision):
                return greedy_tokens(self.model, states, prompt=self.prompt, limits=limits, rules=self._rules)

        # Sorted by length although each row is padded to the window: short utterances end together.
        rows = self._rows(batch_seconds)
        order = sorted(range(len(audio)), key=lambda index: -len(audio[index]))
        batches = [order[start : start + rows] for start in range(0, len(order), rows)]
        tokens = map_batches(batches, decode, threads=batch_threads(self.model.device))
        tokenizer = self.processor.tokenizer
        return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]

    def _frontend(self) -> list[Part]:
        encoder = self.model.model.encoder
        return [encoder.conv1, encoder.conv2, encoder.embed_positions]

    def _claims(self) -> Iterator[tuple[str, Part | None]]:
        encoder, decoder = self.model.model.encoder, self.model.model.decoder
        yield from (("frontend", part) for part in self._frontend())
        yield from (("norms", module) for module in norms_in(self.model))
        yield from ((f"encoder.{number}", layer) for number, layer in enumerate(encoder.layers))
        yield "encoder", encoder
        for number, layer in enumerate(decoder.layers):
            yield f"decoder.{number}.self", layer.self_attn
            yield f"decoder.{number}.cross", layer.encoder_attn
            yield f"decoder.{number}.ffn", layer
        yield "embedding", decoder.embed_tokens
        yield "embedding", self.model.proj_out
        yield "decoder", self.model


def load(
    source: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    precision: Precision,
    language: str | None,
    feature_cache: FeatureCache | None,
) -> WhisperRecognizer:
    """Load a Whisper checkpoint.

    Args:
        language: a name or code; by default what the generation config or the tokenizer says, else English. Without effect on
            English-only models.

    Raises:
        CheckpointError: weights, tokenizer or feature extractor are missing or do not fit each other.
        ConfigError: the model has no such language.
    """
    processor = load_processor([AutoProcessor, WhisperProcessor], source)
    model = load_model(WhisperForConditionalGeneration, source, device=device, dtype=dtype)
    extractor, config = processor.feature_extractor, model.config
    if (extractor.nb_max_frames, extractor.feature_size) != (2 * config.max_source_positions, config.num_mel_bins):
        raise CheckpointError(
            f"The feature extractor of {source} gives {extractor.nb_max_frames} frames of {extractor.feature_size} bins, but its "
            f"model takes {2 * config.max_source_positions} of {config.num_mel_bins}; use the one it was trained with."
        )
    letters_per_token = len(_PLAIN_TEXT) / len(processor.tokenizer(_PLAIN_TEXT, add_special_tokens=False).input_ids)
    return WhisperRecognizer(
        model=model,
        processor=processor,
        prompt=find_prompt(source, model, processor, language),
        # Names and terms are spelt in shorter tokens than plain text: half as long, but never shorter than a letter.
        tokens_per_second=_LETTERS_PER_SECOND / max(1.0, letters_per_token / 2),
        precision=precision,
        feature_cache=feature_cache,
    )
