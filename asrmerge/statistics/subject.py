"""The model that statistics are of, loaded from wherever recipes name it: LoRA adapters over their base included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asrmerge.adapters.materialise import AdaptedCheckpoint
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import read_finite
from asrmerge.checkpoints.names import canonical_name
from asrmerge.errors import ConfigError
from asrmerge.merging.references import open_model
from asrmerge.recognizers.recognizer import DifferentiableRecognizer, Recognizer, load_recognizer


@dataclass(frozen=True)
class Subject:
    """The model as the user named it, the hash of its weights, and loaded."""

    label: str
    hash: str
    recognizer: DifferentiableRecognizer


def load_subject(source: str, *, device: str = "cpu", language: str | None = None) -> Subject:
    """Load a model in float32 for statistics.

    Raises:
        ConfigError: its family cannot show its likelihoods.
        CheckpointError: it is missing, incomplete or corrupt, or holds NaN or Inf.
    """
    checkpoint = open_model(source)
    recognizer = load_recognizer(checkpoint.folder, device=device, language=language)
    if isinstance(checkpoint, AdaptedCheckpoint):
        put_weights(recognizer, checkpoint)
    return Subject(source, checkpoint.hash(), differentiable(recognizer, source))


def differentiable(recognizer: Recognizer, label: str) -> DifferentiableRecognizer:
    """The recogniser, known to show its likelihoods.

    Raises:
        ConfigError: its family does not.
    """
    if not isinstance(recognizer, DifferentiableRecognizer):
        raise ConfigError(
            f"{label} is of the family {recognizer.family}, which does not show its likelihoods: give it the methods of "
            "DifferentiableRecognizer."
        )
    return recognizer


def put_weights(recognizer: Recognizer, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's parameters into a live model of the same architecture.

    Raises:
        CheckpointError: it lacks a parameter, or one holds NaN or Inf.
    """
    targets: Mapping[str, Tensor] = {canonical_name(name): value for name, value in recognizer.model.named_parameters()}
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(read_finite(checkpoint, name, checkpoint.label).to(target))
