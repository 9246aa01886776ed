"""The tiny models that statistics are compared on, and what the brute force needs to know of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import statistics_reference as reference
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.subject import load_subject

# wav2vec2 with layer normalisation hears padding not at all, with group normalisation and without a mask as if it were speech.
FAMILIES = ("whisper", "layer", "group")
TEXTS = ["ab cd", "hello", "no", "a bad day"]
SECONDS = [0.62, 0.5, 0.9, 0.71]


@dataclass(frozen=True)
class Family:
    """A model's folder, the model as transformers loads it, and its loss."""

    folder: Path
    recognizer: Any
    loss: Callable[[nn.Module, Mapping[str, Tensor], Tensor, Tensor], Tensor]

    @property
    def model(self) -> nn.Module:
        """With weights normed as they are stored."""
        return self.recognizer.model

    def inputs(self, utterance: Utterance) -> tuple[dict[str, Tensor], Tensor]:
        """Of one utterance by itself: features, labels."""
        samples = soundfile.read(utterance.audio, dtype="float32")[0]
        return self.recognizer.features([samples]), self.recognizer.labels([utterance.text])

    def drawn(self, utterance: Utterance, seed: int, draws: int) -> list[Tensor]:
        """Labels from the model itself: each draw of each utterance has a seed of its own."""
        inputs, labels = self.inputs(utterance)
        batch = {**inputs, "labels": labels}
        found = []
        with torch.no_grad():
            logits = self.recognizer.logits(batch)
        for draw in range(draws):
            digest = hashlib.sha256(f"{seed}/{utterance.identifier}/{draw}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            found.append(self.recognizer.draw_labels(logits, batch, generator))
        return found

    def run(self, model: nn.Module, utterance: Utterance) -> None:
        """A forward pass of one utterance by itself."""
        inputs, labels = self.inputs(utterance)
        self.loss(model, inputs, labels, labels)

    def collect(self, utterances: Sequence[Utterance], output: Path, **settings: Any) -> dict[str, dict[str, np.ndarray]]:
        """What asrmerge writes, by kind, in float64."""
        chosen = StatisticsSettings.model_validate(settings)
        collect_statistics(load_subject(str(self.folder)), utterances, output, chosen)
        return {
            kind: {name: value.double().numpy() for name, value in load_file(output / f"{kind}.safetensors").items()}
            for kind in chosen.kinds
        }


def make_family(name: str, make_ctc: Callable[..., Path], make_whisper: Callable[..., Path]) -> Family:
    if name == "whisper":
        recognizer = load_recognizer(folder := make_whisper(multilingual=True))
        return Family(folder, recognizer, reference.whisper_loss(len(recognizer.prompt) - 1))
    folder = make_ctc() if name == "layer" else make_ctc(mask=False, feat_extract_norm="group")
    return Family(folder, load_recognizer(folder), reference.ctc_loss)


def assert_close(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float = 1e-3) -> None:
    """Of each tensor, the largest difference beside the largest entry; or beside that of all, what is only rounding there.

    A bias of keys, for one, has no gradient: the softmax takes it out again.
    """
    assert found.keys() == expected.keys()
    smallest = 1e-9 * max(float(np.abs(value).max()) for value in expected.values())
    for name, value in expected.items():
        scale = max(smallest, float(np.abs(value).max()))
        assert found[name].shape == value.shape, name
        assert float(np.abs(found[name] - value).max()) <= tolerance * scale, name
