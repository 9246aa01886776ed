"""Tiny recognisers of several layers, their experts and merges, and noise for them to hear."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_recognizers import make_models, make_utterances
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoProcessor,
    GenerationConfig,
    Wav2Vec2ForCTC,
    WhisperForConditionalGeneration,
)

from asrmerge.pipeline.statistics import StatisticsJob, statistics_task
from asrmerge.speech.manifest import Utterance

State = dict[str, Tensor]
LAYERS = {"ctc": ("encoder.0", "encoder.1", "encoder.2"), "whisper": ("encoder.0", "encoder.1", "decoder.0", "decoder.1")}


@dataclass(frozen=True)
class Listeners:
    """A base, an expert for each of two domains, and the domains' audio."""

    family: str
    folder: Path
    base: Path
    experts: Mapping[str, Path]
    audio: Mapping[str, Sequence[Utterance]]

    def state(self, name: str) -> State:
        return load_file((self.base if name == "base" else self.experts[name]) / "model.safetensors")

    def write(self, name: str, state: State) -> Path:
        """A model with these weights, and all else as the base."""
        return write_like(self.base, self.folder / name, state)

    def altered(self, name: str, change: Callable[[str, Tensor], Tensor], *, of: str = "legal") -> Path:
        """An expert with its tensors changed, each by its name."""
        return self.write(name, {key: change(key, value) for key, value in self.state(of).items()})


def make_listeners(folder: Path, family: str) -> Listeners:
    shallow = folder / "shallow"
    shallow.mkdir(parents=True)
    source, _ = make_models(shallow, family)
    config = AutoConfig.from_pretrained(source)
    torch.manual_seed(1)
    if family == "ctc":
        config.num_hidden_layers = 3
        model = Wav2Vec2ForCTC(config)
    else:
        config.encoder_layers = config.decoder_layers = 2
        model = WhisperForConditionalGeneration(config)
        model.generation_config = GenerationConfig.from_pretrained(source)
    base = folder / "base"
    model.save_pretrained(base)
    AutoProcessor.from_pretrained(source).save_pretrained(base)
    start = {name: _moved(name, value, 2.0, 0) for name, value in load_file(base / "model.safetensors").items()}
    save_file(start, base / "model.safetensors", {"format": "pt"})
    experts = {
        name: write_like(base, folder / name, {key: _moved(key, value, 0.3, seed) for key, value in start.items()})
        for seed, name in enumerate(("legal", "medical"), start=1)
    }
    audio = {
        name: make_utterances(folder / "audio", name, [0.4 + 0.1 * index for index in range(5)], seed)
        for seed, name in enumerate(experts)
    }
    return Listeners(family, folder, base, experts, audio)


def write_like(donor: Path, folder: Path, state: State) -> Path:
    shutil.copytree(donor, folder)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def inline_statistics(jobs: Sequence[StatisticsJob], **_: object) -> None:
    """As ``run_statistics``, but in this process."""
    for job in jobs:
        statistics_task(lambda done, total: None, job)


def _moved(name: str, value: Tensor, amount: float, seed: int) -> Tensor:
    """With noise where a fine-tune moves most: in matrices; positions that are constants stay."""
    if value.dim() < 2 or "parametrizations" in name or "encoder.embed_positions" in name:
        return value
    generator = torch.Generator().manual_seed(1000 * seed + sum(map(ord, name)))
    return value + torch.randn(value.shape, generator=generator) * amount / value[0].numel() ** 0.5
