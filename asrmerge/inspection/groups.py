"""Parameters as an inspection reads them, and structural groups in the order of the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import read_finite
from asrmerge.merging.structure import Place
from asrmerge.merging.units import Unit, compose_weight_norm

_ORDER = ("frontend", "positional", "encoder.", "encoder", "decoder.", "decoder", "embedding", "norms", "head")
_PARTS = ("self", "cross", "ffn")


def read_unit(unit: Unit, checkpoint: Checkpoint, label: str) -> Tensor:
    """A parameter of a model that messages call ``label``, in float64 where it is the product of a weight norm.

    Raises:
        CheckpointError: NaN or Inf in a tensor.
    """
    members = [read_finite(checkpoint, name, label) for name in unit.members]
    # Composed in float64, or rounding would make a task vector of two ways to store one weight.
    return compose_weight_norm(*(member.to(torch.float64) for member in members)) if unit.weight_normed else members[0]


def depth(group: str) -> tuple[int, int, int]:
    """Sorts groups, and layers such as ``decoder.0``, from the input to the output."""
    stack, *rest = group.split(".")
    number = int(rest[0]) if rest else -1
    return _ORDER.index(f"{stack}." if rest else stack), number, _PARTS.index(rest[1]) if len(rest) > 1 else 0


def layer_of(place: Place) -> str | None:
    """``encoder.N`` or ``decoder.N`` of what is inside of a layer, its norms included; else None."""
    return None if place.layer is None else f"{place.stack}.{place.layer}"
