"""Fisher information from Adam's second moments, which every fine-tuning has made already (L2M, arXiv 2107.04695).

v/(1 − β₂ᵗ) is a running mean of squared gradients of batches. Near the optimum the gradients of utterances scatter about zero and
a batch's is the mean of B of them, so that B times that running mean is the mean square of one utterance's gradient. It is of the
training loss, which is a mean over tokens where log p(text | audio) is a sum, and of gradients that were clipped: its scale means
nothing beside that of a Fisher computed directly. What counts is the order of its entries; see
:func:`asrmerge.statistics.comparing.rank_correlation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from asrmerge import __version__
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.names import canonical_name
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.experts.moments import MOMENTS_FILE, read_moments
from asrmerge.files import hash_content, hash_file
from asrmerge.merging.artefact import Header, write_statistics
from asrmerge.merging.references import open_model
from asrmerge.merging.statistics import statistics_file
from asrmerge.merging.units import Unit, plan_units
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.statistics.trainer_state import read_trainer_moments

TRAINER_FILE = "optimizer.pt"
_UNITS = "squared unit of the training loss per squared unit of the parameter: utterances in a batch × v/(1 − β₂ᵗ)"


def fisher_from_optimizer(
    model: str,
    folder: Path,
    *,
    optimizer: Path | None = None,
    utterances_per_step: float | None = None,
    gradient_norm: float | None = None,
    frozen: Sequence[str] | None = None,
) -> Header:
    """Write ``folder/fisher.safetensors``, of the variant ``adam``; its header.

    Args:
        optimizer: by default what asrmerge's fine-tuning wrote beside the model, else the Trainer's ``optimizer.pt`` there.
        utterances_per_step: of a Trainer's: batch × accumulated batches × devices. asrmerge's own moments say it themselves.
        gradient_norm: to which a Trainer clipped the gradients, where that is known.
        frozen: of a Trainer's; see :func:`asrmerge.statistics.trainer_state.read_trainer_moments`.

    Raises:
        ConfigError: ``utterances_per_step`` is missing, or given where the moments say it.
        CheckpointError: a file is missing, corrupt, or of another optimiser.
        IncompatibleError: the moments are not of this model's parameters.
    """
    checkpoint = open_model(model)
    path = optimizer or next(
        (found for name in (MOMENTS_FILE, TRAINER_FILE) if (found := checkpoint.folder / name).is_file()), None
    )
    if path is None:
        raise CheckpointError(
            f"{model} has neither {MOMENTS_FILE} nor {TRAINER_FILE} beside its weights: give the optimiser's state."
        )
    if path.suffix == ".safetensors":
        values, batch, steps, note = _own(path, utterances_per_step)
    else:
        values, batch, steps, note = _trainers(path, checkpoint, utterances_per_step, gradient_norm, frozen)
    tensors, lacking = complete(checkpoint, values, batch)
    header = Header(
        kind="fisher",
        variant="adam",
        units=_UNITS,
        model=model,
        model_sha256=checkpoint.hash(),
        key=hash_content([__version__, "adam", checkpoint.hash(), hash_file(path), batch]),
        utterances=round(batch * steps),
        lacking=lacking,
        note=note,
        asrmerge=__version__,
    )
    write_statistics(statistics_file(folder, "fisher"), tensors, header)
    return header


def complete(checkpoint: Checkpoint, values: Mapping[str, Tensor], scale: float) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The diagonal of every parameter that merges see, ``scale`` times what is given; and those that it has zeros for, and why.

    A weight-normed weight is w = g·v/‖v‖; ∂L/∂w = (‖v‖/g)·∂L/∂v + (v/‖v‖)·∂L/∂g, so that its diagonal is taken to be
    (‖v‖/g)²·F_v + (v/‖v‖)²·F_g, as if the two were not correlated.

    Args:
        values: by canonical name.

    Raises:
        IncompatibleError: one is of a parameter that the checkpoint lacks, or has another shape.
    """
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names}
    for name, value in values.items():
        if name not in shapes or shapes[name] != tuple(value.shape):
            known = f"has shape {list(shapes[name])} there" if name in shapes else "is not there"
            raise IncompatibleError(
                f"the optimiser's state of {name} {list(value.shape)} does not fit {checkpoint.label}, where it {known}: give "
                "the model that it was written beside."
            )
    tensors: dict[str, Tensor] = {}
    lacking: dict[str, str] = {}
    for unit in plan_units({name: checkpoint.dtype(name) for name in checkpoint.names}, checkpoint.model_type):
        if unit.copied:
            continue
        if not all(name in values for name in unit.members):
            lacking[unit.name] = "the optimiser has no state of it"
            tensors[unit.name] = torch.zeros(shapes[unit.members[-1]])
        else:
            parts = [values[name] for name in unit.members]
            tensors[unit.name] = scale * (_of_product(checkpoint, unit, *parts) if unit.weight_normed else parts[0])
    return tensors, lacking


def _own(path: Path, utterances_per_step: float | None) -> tuple[dict[str, Tensor], float, int, str]:
    if utterances_per_step is not None:
        raise ConfigError(f"{path} says how many utterances a step had: leave that out.")
    moments = read_moments(path)
    header = moments.header
    for name, value in moments.values.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path} holds NaN or Inf for {name}: the training diverged; fine-tune the expert again.")
    kept = f" The weights are those of step {header.kept_step}." if header.kept_step != header.steps else ""
    note = _note(header.steps, header.beta2, header.utterances_per_step, header.gradient_norm) + kept
    return moments.values, header.utterances_per_step, header.steps, note


def _trainers(
    path: Path,
    checkpoint: Checkpoint,
    utterances_per_step: float | None,
    gradient_norm: float | None,
    frozen: Sequence[str] | None,
) -> tuple[dict[str, Tensor], float, int, str]:
    if utterances_per_step is None or not utterances_per_step > 0:
        raise ConfigError(f"{path} does not say how many utterances a step had: give it (batch × accumulated batches × devices).")
    moments = read_trainer_moments(path, load_recognizer(checkpoint.folder), frozen)
    values = {canonical_name(name): value for name, value in moments.values.items()}
    return values, utterances_per_step, moments.steps, _note(moments.steps, moments.beta2, utterances_per_step, gradient_norm)


def _note(steps: int, beta2: float, utterances: float, gradient_norm: float | None) -> str:
    clipping = (
        "Whether gradients were clipped, which makes the largest ones smaller, is not known; transformers' Trainer clips to a "
        "norm of 1 by default."
        if gradient_norm is None
        else f"Gradients were clipped to a norm of {gradient_norm:g}, which makes the largest ones smaller."
    )
    return (
        f"Second moments of Adam after {steps} steps of {utterances:g} utterances, β₂ = {beta2:g}. They are of the training "
        f"loss, a mean over tokens, not of log p(text | audio), a sum: compare ranks, not values. {clipping}"
    )


def _of_product(checkpoint: Checkpoint, unit: Unit, magnitude: Tensor, direction: Tensor) -> Tensor:
    """Of g·v/‖v‖, from the diagonals of g and v. Shapes: magnitude [1, 1, K], direction [O, I, K] → [O, I, K]."""
    g, v = (checkpoint.read(name).float() for name in unit.members)
    reduced = [index for index in range(v.ndim) if g.ndim == 0 or g.shape[index] == 1]
    norm: Tensor = torch.linalg.vector_norm(v, dim=reduced, keepdim=True)
    # Where g or v is zero, so is the weight, and neither says how the loss would change with it.
    along = torch.where(norm > 0, v / norm, 0.0) ** 2 * magnitude
    across = torch.where(g != 0, norm / g, 0.0) ** 2 * direction
    return along + across
