"""What every recogniser offers, and how the family of a checkpoint is found.

A family is one module in ``asrmerge.recognizers.families`` with two names: ``model_types``, the ``model_type`` values of
``config.json`` that it serves, and ``load``, which returns a ``Recognizer``. A new family is one new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.recognizers import families
from asrmerge.recognizers.feature_cache import FeatureCache
from asrmerge.recognizers.loading import read_config

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class DecodingSettings:
    """How a loaded recogniser decodes: what its transcripts and its speed depend on.

    Attributes:
        precision: of the computation.
        dtype: of the parameters in memory.
        generation: the family's own settings, as JSON.
    """

    family: str
    device: str
    precision: str
    dtype: str
    generation: Mapping[str, Any]


class Recognizer(Protocol):
    """A loaded model with what it takes to train it, decode with it and take it apart.

    Audio is mono float32 at ``sampling_rate``, one array ``[samples]`` per utterance.
    """

    @property
    def family(self) -> str:
        """``ctc``, ``whisper``, …"""

    @property
    def model(self) -> PreTrainedModel:
        """The live model; its parameters may be changed in place between calls."""

    @property
    def sampling_rate(self) -> int:
        """Samples per second that the model expects."""

    @property
    def window_seconds(self) -> float | None:
        """The longest utterance that ``features`` takes; ``None`` where there is no such bound."""

    def features(self, audio: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """One padded batch of model inputs, on the model's device.

        Raises:
            AudioError: an utterance is longer than ``window_seconds``.
        """

    def labels(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``[batch, length]``, -100 where padded, on the model's device."""

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The scalar training loss of ``features`` plus ``labels``: per utterance by its own target length, then their mean."""

    def transcribe(self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0) -> list[str]:
        """Greedy transcripts in the order of ``audio``; which utterances share a batch does not change them."""

    def decoding_settings(self) -> DecodingSettings:
        """What ``transcribe`` uses."""

    def groups(self) -> dict[str, list[str]]:
        """Structural group → names of its parameters; every name of ``model.named_parameters()`` occurs exactly once.

        Dots nest: ``encoder`` holds only what is in no ``encoder.N``.
        """

    def frontend_parameters(self) -> list[str]:
        """Names of the acoustic front end's parameters, which fine-tuning usually leaves alone."""

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write weights, config, tokenizer, processor and generation config to ``folder``, at once or not at all.

        Args:
            dtype: of the weights on disk; the model's own by default.
        """


@runtime_checkable
class CachingRecognizer(Protocol):
    """A recogniser whose encoder can be run once, where only what follows it changes."""

    def encode(self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0) -> Tensor:
        """Encoder states ``[batch, positions, width]``, without gradient.

        Raises:
            AudioError: an utterance is longer than the window.
        """

    def loss(self, batch: Mapping[str, Tensor], *, encoder_states: Tensor | None = None) -> Tensor:
        """As ``Recognizer.loss``; with ``encoder_states``, ``batch`` needs ``labels`` only."""

    def logits(self, batch: Mapping[str, Tensor], *, encoder_states: Tensor | None = None) -> Tensor:
        """As ``DifferentiableRecognizer.logits``; with ``encoder_states``, ``batch`` needs ``labels`` only."""

    def transcribe(
        self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0, encoder_states: Tensor | None = None
    ) -> list[str]:
        """As ``Recognizer.transcribe``; with ``encoder_states``, ``audio`` only says how long each utterance is."""


@runtime_checkable
class DifferentiableRecognizer(Recognizer, Protocol):
    """A recogniser whose probabilities can be looked into: what statistics and coefficients learnt from audio are made with.

    ``batch`` is ``features`` plus ``labels`` throughout; decoders that write the text are fed the labels.
    """

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Float32 logits ``[batch, positions, vocabulary]``, with gradient: of frames, or of the labels' tokens."""

    def negative_log_likelihoods(self, logits: Tensor, batch: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """−log p(labels | audio) of every utterance in nats, summed over its tokens ``[batch]``; infinite where it cannot be."""

    def draw_labels(self, logits: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Labels drawn from what the model believes ``[batch, length]``; a decoder is fed the batch's own (teacher forcing)."""

    def entropies(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean entropy in nats of what each utterance's text hangs on ``[batch]``: of CTC, the frames that are not blank."""

    def real_positions(self, module: str, batch: Mapping[str, Tensor], samples: Sequence[int]) -> Tensor:
        """How many of a module's output positions are the utterance itself, by row; what follows is padding ``[batch]``.

        Args:
            module: as in ``model.named_modules()``, one that computes a sequence.
            samples: of the utterances' audio.
        """

    def hears_padding(self, module: str) -> bool:
        """Whether positions of padding take part in what the model computes of an utterance, as in Whisper's encoder."""

    def padding_is_neutral(self) -> bool:
        """Whether an utterance's logits are the same beside a longer one in a batch."""


class _Family(Protocol):
    model_types: tuple[str, ...]

    def load(
        self,
        source: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        precision: Precision,
        language: str | None,
        feature_cache: FeatureCache | None,
    ) -> Recognizer: ...


def load_recognizer(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    precision: Precision = "float32",
    language: str | None = None,
    feature_cache: FeatureCache | None = None,
) -> Recognizer:
    """Load a checkpoint, whatever its family, ready to transcribe (in evaluation mode).

    Args:
        source: a local folder or a Hugging Face hub id; ``HF_HUB_OFFLINE`` is respected.
        dtype: of the parameters in memory.
        precision: ``bfloat16`` computes under autocast; the parameters stay in ``dtype``.
        language: of multilingual Whisper models, a name or code; elsewhere without effect.
        feature_cache: where features are kept for other models of the same feature extractor; for families whose features cost
            something beside the model, elsewhere without effect.

    Raises:
        CheckpointError: ``source`` is missing, incomplete, or of a family that is not known.
        ConfigError: ``precision`` or ``language`` is not known.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"Precision {precision!r} is not known; use one of: {', '.join(get_args(Precision))}.")
    family = find_family(source)
    folder = Path(source).expanduser()
    return family.load(
        str(folder if folder.exists() else source),
        device=torch.device(device),
        dtype=dtype,
        precision=precision,
        language=language,
        feature_cache=feature_cache,
    )


def find_family(source: str | Path) -> _Family:
    """The module that serves a checkpoint's family.

    Raises:
        CheckpointError: ``source`` is missing, or of a family that is not known.
    """
    known = model_families()
    model_type = read_config(source).get("model_type")
    if model_type not in known:
        raise CheckpointError(f"{source} has model_type {model_type!r}; supported are: {', '.join(sorted(known))}.")
    return known[model_type]


def model_families() -> dict[str, _Family]:
    """Every served ``model_type`` → the module of its family."""
    modules: list[Any] = [
        importlib.import_module(f"{families.__name__}.{found.name}") for found in pkgutil.iter_modules(families.__path__)
    ]
    return {model_type: cast(_Family, module) for module in modules for model_type in module.model_types}
