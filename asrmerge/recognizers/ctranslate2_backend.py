"""Whisper computed by CTranslate2, from a folder that ``asrmerge export`` wrote (https://github.com/OpenNMT/CTranslate2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from transformers import WhisperProcessor
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.recognizers.batching import map_batches
from asrmerge.recognizers.loading import load_processor
from asrmerge.recognizers.long_form import long_form_segments
from asrmerge.recognizers.recognizer import DecodingSettings
from asrmerge.recognizers.windows import split_at_pauses
from asrmerge.speech.timed_text import Segment, TimedText

DECODING_FILE = "asrmerge_decoding.json"
_FEWEST_ROWS = 4  # as the torch decoder's


class Decoding(BaseModel):
    """How the exported checkpoint is decoded, beside what CTranslate2 stores itself.

    Attributes:
        prompt: ids that decoding starts from.
        tokens_per_second, spare_tokens, most_tokens: the bound on an utterance's tokens.
        long_form_tokens: the same of a window with timestamps.
        suppress_tokens: ids that are never chosen.
        timestamp_begin: the id of the timestamp zero, where there are timestamps.
        max_initial_timestamp: the largest first one, in steps.
    """

    prompt: tuple[int, ...]
    tokens_per_second: float
    spare_tokens: int
    most_tokens: int
    long_form_tokens: int
    suppress_tokens: tuple[int, ...]
    timestamp_begin: int | None
    max_initial_timestamp: int


@dataclass(frozen=True, eq=False)
class CTranslate2Whisper:
    """A Whisper in CTranslate2's format with its processor: the transcripts of ``WhisperRecognizer`` from another engine."""

    model: Any  # ctranslate2.models.Whisper
    processor: WhisperProcessor
    decoding: Decoding
    family: str = "whisper"

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def window_seconds(self) -> float:
        """What the encoder sees at once."""
        return self._window / self.sampling_rate

    def decoding_settings(self) -> DecodingSettings:
        """Greedy search from the prompt, as ``WhisperRecognizer`` does it, by another engine."""
        generation = {"search": "greedy", "engine": "ctranslate2", **self.decoding.model_dump(mode="json")}
        compute_type = str(self.model.compute_type)
        return DecodingSettings(self.family, str(self.model.device), compute_type, compute_type, generation)

    @property
    def has_timestamps(self) -> bool:
        """Whether the vocabulary has timestamps, which long-form decoding needs."""
        return self.decoding.timestamp_begin is not None

    def transcribe(self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0) -> list[str]:
        """Greedy transcripts, in order. Audio beyond the window: in one long-form pass where there are timestamps, else cut at
        pauses and the texts joined."""
        long = [index for index, samples in enumerate(audio) if len(samples) > self._window and self.has_timestamps]
        whole = {index: self.long_form(audio[index]).text for index in long}
        pieces = [
            (index, piece)
            for index, samples in enumerate(audio)
            if index not in whole
            for piece in split_at_pauses(samples, window=self._window, sampling_rate=self.sampling_rate)
        ]
        texts = self._transcribe_windows([piece for _, piece in pieces], batch_seconds)
        parts: list[list[str]] = [[whole[index]] if index in whole else [] for index in range(len(audio))]
        for (index, _), text in zip(pieces, texts, strict=True):
            parts[index].append(text)
        return [" ".join(filter(None, part)) for part in parts]

    def long_form(self, samples: np.ndarray) -> TimedText:
        """The transcript of one recording of any length with its own segments; needs timestamps."""
        extractor = self.processor.feature_extractor
        features = extractor(
            samples, sampling_rate=self.sampling_rate, truncation=False, padding="longest", return_tensors="np"
        ).input_features
        begin = self.decoding.timestamp_begin
        assert begin is not None
        window = int(extractor.nb_max_frames)

        def decode(start: int, count: int) -> list[int]:
            frames = np.pad(features[:, :, start : start + count], ((0, 0), (0, 0), (0, window - count)))
            prompt = [token for token in self.decoding.prompt if token != begin - 1]
            return self._generate(frames, prompt, self.decoding.long_form_tokens)[0]

        segments = list(long_form_segments(features.shape[-1], window, decode, timestamp_begin=begin))
        texts = [self._text(segment.tokens) for segment in segments]
        return TimedText(
            self._text([token for segment in segments for token in segment.tokens]),
            tuple(Segment(one.start, one.end, text) for one, text in zip(segments, texts, strict=True) if text),
        )

    @property
    def _window(self) -> int:
        return int(self.processor.feature_extractor.n_samples)

    def _transcribe_windows(self, audio: Sequence[np.ndarray], batch_seconds: float) -> list[str]:
        def decode(indices: Sequence[int]) -> list[str]:
            batch = [audio[index] for index in indices]
            features = self.processor.feature_extractor(batch, sampling_rate=self.sampling_rate, return_tensors="np")
            bounds = [self._bound(len(samples)) for samples in batch]
            rows = self._generate(features.input_features, self.decoding.prompt, max(bounds))
            # CTranslate2 has one bound for the batch; a greedy transcript cut at a lower one is what that would have given.
            return [self._text(row[:bound]) for row, bound in zip(rows, bounds, strict=True)]

        rows = max(_FEWEST_ROWS, int(batch_seconds // self.window_seconds))
        order = sorted(range(len(audio)), key=lambda index: -len(audio[index]))
        return map_batches([order[start : start + rows] for start in range(0, len(order), rows)], decode)

    def _bound(self, samples: int) -> int:
        spoken = math.ceil(samples / self.sampling_rate * self.decoding.tokens_per_second) + self.decoding.spare_tokens
        return min(spoken, self.decoding.most_tokens)

    def _generate(self, features: np.ndarray, prompt: Sequence[int], bound: int) -> list[list[int]]:
        results = self.model.generate(
            require_ctranslate2().StorageView.from_array(np.ascontiguousarray(features, dtype=np.float32)),
            [list(prompt)] * len(features),
            beam_size=1,
            # It takes half of this for the text, or what the prompt leaves of it if that is less.
            max_length=2 * max(bound, len(prompt)),
            suppress_tokens=list(self.decoding.suppress_tokens),
            max_initial_timestamp_index=self.decoding.max_initial_timestamp,
        )
        return [list(result.sequences_ids[0]) for result in results]

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.processor.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()


def is_ctranslate2(source: str | Path) -> bool:
    """Whether ``source`` is a folder with a model in CTranslate2's format."""
    return (Path(source).expanduser() / "model.bin").is_file()


def load_ctranslate2(
    source: str | Path, *, device: str = "cpu", precision: str | None = None, language: str | None = None
) -> CTranslate2Whisper:
    """Load an exported Whisper; it computes with as many threads as torch.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: one of CTranslate2's compute types; by default what the weights are stored in, as far as the device can.
        language: of multilingual models, a name or code; by default that of the export.

    Raises:
        CheckpointError: the folder is incomplete, or not one that ``asrmerge export`` wrote.
        ConfigError: CTranslate2 is not installed, or cannot use the device or the precision; the model has no such language.
    """
    ctranslate2 = require_ctranslate2()
    folder = Path(source).expanduser()
    try:
        decoding = Decoding.model_validate_json((folder / DECODING_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"{folder} is a CTranslate2 model without a usable {DECODING_FILE}; make it with asrmerge export."
        ) from error
    processor = load_processor([WhisperProcessor], str(folder))
    # It warns of computing in another type than the weights are stored in, which is what the default does on purpose.
    ctranslate2.set_log_level(logging.ERROR)
    kind, _, number = device.partition(":")
    try:
        model = ctranslate2.models.Whisper(
            str(folder),
            device=kind,
            device_index=int(number or 0),
            compute_type=precision or "default",
            intra_threads=torch.get_num_threads(),
        )
    except ValueError as error:
        raise ConfigError(f"CTranslate2 cannot run {folder} on {device} in {precision or 'its precision'}: {error}.") from error
    except RuntimeError as error:
        raise CheckpointError(f"CTranslate2 cannot load {folder}: {error}; export the model again.") from error
    prompt = _in_language(folder, processor, decoding.prompt, language)
    return CTranslate2Whisper(model=model, processor=processor, decoding=decoding.model_copy(update={"prompt": prompt}))


def require_ctranslate2() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("ctranslate2")
    except ImportError as error:
        raise ConfigError("CTranslate2 is not installed; install it with: pip install 'asrmerge[export]'.") from error


def _in_language(folder: Path, processor: Any, prompt: tuple[int, ...], language: str | None) -> tuple[int, ...]:
    tokenizer = processor.tokenizer
    if language is None or tokenizer.convert_tokens_to_ids("<|transcribe|>") not in prompt:
        return prompt
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    token = tokenizer.convert_tokens_to_ids(f"<|{code}|>")
    if token in (None, tokenizer.convert_tokens_to_ids("<|endoftext|>")):
        raise ConfigError(f"{folder} has no language {language!r}.")
    return (prompt[0], token, *prompt[2:])
