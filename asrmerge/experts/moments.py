"""AdamW's second moments of a fine-tuning: kept beside the expert, they are Fisher information that costs nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from asrmerge.checkpoints.names import canonical_name
from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import CheckpointError
from asrmerge.merging.artefact import write_tensors
from asrmerge.validation import Section

MOMENTS_FILE = "optimizer_moments.safetensors"
_KEY = "moments"


class MomentsHeader(Section):
    """What the moments are of.

    Attributes:
        steps: that the optimiser made.
        kept_step: after which the weights beside it were what they are.
        beta2: of the running mean.
        utterances_per_step: as a mean, over all processes.
        gradient_norm: to which gradients were clipped.
    """

    steps: int
    kept_step: int
    beta2: float
    utterances_per_step: float
    gradient_norm: float


@dataclass(frozen=True, eq=False)
class Moments:
    """v/(1 − β₂ᵗ) by canonical name, float32, of every parameter that was trained; and what they are of."""

    header: MomentsHeader
    values: dict[str, Tensor]


def write_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, header: MomentsHeader) -> None:
    """Write the second moments of whatever the optimiser has trained, freed of their start at zero: v/(1 − β₂ᵗ).

    In bfloat16, which takes half the room of float32 weights: its 0.4 % are nothing beside the noise of the estimate.
    """
    values = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            second = unbiased_second_moment(state["exp_avg_sq"], float(state["step"]), header.beta2)
            values[canonical_name(name)] = second.detach().to("cpu", torch.bfloat16).contiguous()
    write_tensors(path, values, {_KEY: header.model_dump_json()})


def read_moments(path: Path) -> Moments:
    """Read what :func:`write_moments` wrote.

    Raises:
        CheckpointError: the file is missing, truncated, or something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: fine-tune the expert with asrmerge, or give an optimizer.pt.")
    file = SafetensorsReader(path)
    try:
        header = MomentsHeader.model_validate(json.loads(file.metadata[_KEY]))
    except (KeyError, ValidationError, ValueError) as error:
        raise CheckpointError(
            f"{path} has no header of moments that can be read ({error}): fine-tune the expert again."
        ) from error
    return Moments(header, {name: file.read(name).float() for name in file.names()})


def unbiased_second_moment(second: Tensor, steps: float, beta2: float) -> Tensor:
    """v/(1 − β₂ᵗ): the mean of squared gradients with weights that add up to one (Kingma & Ba, arXiv 1412.6980)."""
    unbiased: Tensor = second.float() / (1 - beta2**steps)
    return unbiased
