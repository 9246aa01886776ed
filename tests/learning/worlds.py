"""Tiny models of two layers with experts of them, noises, and what a brute force must know to hear them one by one."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import soundfile
import torch
from reference import statistics_reference as statistics
from reference.layerwise import Counted, Run
from tiny_recognizers import make_models, make_utterances
from torch import nn
from transformers import AutoModelForCTC, WhisperForConditionalGeneration

from asrmerge import cli
from asrmerge.learning.audio import split_audio
from asrmerge.learning.session import Session
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.manifest import Utterance

NAMES = ("legal", "medical")
PADDING_EVERY = 3
STAGES = {
    "ctc": [
        "wav2vec2.feature_extractor.conv_layers.0.conv",
        "wav2vec2.feature_extractor.conv_layers.0.layer_norm",
        "wav2vec2.feature_extractor.conv_layers.1.conv",
        "wav2vec2.feature_extractor.conv_layers.1.layer_norm",
        "wav2vec2.feature_projection.layer_norm",
        "wav2vec2.feature_projection.projection",
        "wav2vec2.encoder.pos_conv_embed.conv",
        "wav2vec2.encoder.layer_norm",
        "wav2vec2.encoder.layers.0",
        "wav2vec2.encoder.layers.1",
        "lm_head",
    ],
    "whisper": [
        "model.encoder.conv1",
        "model.encoder.conv2",
        "model.encoder.layers.0",
        "model.encoder.layers.1",
        "model.encoder.layer_norm",
        "model.decoder.embed_tokens",
        "model.decoder.embed_positions",
        "model.decoder.layers.0",
        "model.decoder.layers.1",
        "model.decoder.layer_norm",
    ],
}


@dataclass(frozen=True)
class World:
    family: str
    base: Path
    experts: Mapping[str, Path]
    audio: Mapping[str, Sequence[Utterance]]

    def session(
        self,
        *,
        names: Sequence[str] = NAMES,
        states: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
        audio: Mapping[str, Sequence[Utterance]] | None = None,
        **start: float,
    ) -> Session:
        recognizer: Any = load_recognizer(self.base)
        window = recognizer.window_seconds
        heard = audio or {name: self.audio[name] for name in names}
        domains = [split_audio(name, corpus, share=0.0, seed=0, window=window) for name, corpus in heard.items()]
        return Session(recognizer, states or {name: self.state(name) for name in names}, domains, start=start)

    def state(self, name: str) -> dict[str, torch.Tensor]:
        return self.load(self.experts[name]).state_dict()

    def load(self, folder: Path) -> nn.Module:
        """As transformers does."""
        kind = AutoModelForCTC if self.family == "ctc" else WhisperForConditionalGeneration
        return kind.from_pretrained(folder)

    def plain(self, folder: Path) -> nn.Module:
        return statistics.plain_copy(self.load(folder))

    def heard(self, name: str) -> list[tuple[Run, Counted]]:
        """Each utterance of a domain by itself."""
        return [(self._run(one), self._counted(one)) for one in self.audio[name]]

    def _run(self, utterance: Utterance) -> Run:
        recognizer: Any = load_recognizer(self.base)
        samples = soundfile.read(utterance.audio, dtype="float32")[0]
        inputs, labels = recognizer.features([samples]), recognizer.labels([utterance.text])
        loss = statistics.ctc_loss if self.family == "ctc" else statistics.whisper_loss(len(recognizer.prompt) - 1)
        return lambda model: loss(model, inputs, labels, labels)

    def _counted(self, utterance: Utterance) -> Counted:
        frames = math.ceil(round(utterance.duration * 16_000) / 160)

        def counted(name: str, positions: int) -> list[int]:
            if self.family == "ctc" and "pos_conv_embed" in name:
                return list(range(positions - 1))  # of an even kernel, the last is cut off
            if not (name.startswith("model.encoder") or "encoder_attn.k" in name or "encoder_attn.v" in name):
                return list(range(positions))
            real = frames if name == "model.encoder.conv1" else math.ceil(frames / 2)
            return statistics.counted(positions, real, PADDING_EVERY)

        return counted


def make_world(family: str, folder: Path) -> World:
    base, experts = make_models(folder, family, layers=2)
    for seed, place in enumerate(experts.values()):
        move_vectors(family, place, seed)
    lengths = {"legal": [0.6, 0.72, 0.85], "medical": [0.7, 0.62, 0.9, 0.55]}
    audio = {name: make_utterances(folder, name, lengths[name], seed) for seed, name in enumerate(NAMES)}
    return World(family, base, experts, audio)


def move_vectors(family: str, folder: Path, seed: int) -> None:
    """Norms, biases and the weight-normed convolution too, which the tiny experts have in common with their base."""
    kind = AutoModelForCTC if family == "ctc" else WhisperForConditionalGeneration
    model, generator = kind.from_pretrained(folder), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "parametrizations" in name:
                parameter.add_(0.2 * (0.3 + parameter.abs().mean()) * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)


def counting(function: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
    """``function``, with the length of what it is given noted."""

    def counted(self: Any, given: Sequence[Any], **options: Any) -> Any:
        counts.append(len(given))
        return function(self, given, **options)

    return counted


def run_command(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of asrmerge."""
    out, error, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["asrmerge", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(error):
        try:
            cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return code, out.getvalue(), error.getvalue()


PLAIN = """
import sys
import numpy as np
from transformers import AutoModelForCTC, AutoProcessor, WhisperForConditionalGeneration
family, folder = sys.argv[1:]
kind = AutoModelForCTC if family == "ctc" else WhisperForConditionalGeneration
processor, model = AutoProcessor.from_pretrained(folder), kind.from_pretrained(folder)
inputs = processor(np.zeros(8000, dtype=np.float32), sampling_rate=16000, return_tensors="pt").to(model.dtype)
if family == "ctc":
    assert len(processor.batch_decode(model(**inputs).logits.argmax(-1))) == 1
else:
    assert len(model.generate(inputs.input_features, max_new_tokens=3)) == 1
assert not any(name.startswith("asrmerge") for name in sys.modules)
"""


def loads_in_transformers(family: str, folder: Path) -> None:
    """Plain transformers, in a process of its own, loads the folder and runs it."""
    script = [sys.executable, "-c", PLAIN, family, str(folder)]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
