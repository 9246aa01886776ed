"""What the methods with statistics share: the vectors they average, and checks of what the statistics hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block


def read_tensors(block: Block) -> tuple[Tensor | None, Sequence[Tensor]]:
    """The experts' tensors and None, or where they are held, their task vectors and the base that is to be added again."""
    if block.base is not None and block.deltas is not None:
        return block.base, block.deltas
    return None, block.experts


def add_origin(origin: Tensor | None, merged: Tensor) -> Tensor:
    """The merged tensor, from that of what ``read_tensors`` gave; in place."""
    return merged if origin is None else merged.add_(origin)


def scale_step(method: str, block: Block, merged: Tensor, scale: float) -> Tensor:
    """θ₀ + λ(merged − θ₀); with λ = 1 there need be no base.

    Raises:
        ConfigError: there is no base.
    """
    if scale == 1:
        return merged
    base = block.need_base(f"{method} with a scale other than 1")
    return torch.lerp(base, merged, scale)


def read_fishers(method: str, block: Block) -> Sequence[Tensor]:
    """The experts' Fisher diagonals.

    Raises:
        ConfigError: there are none, or they have entries below zero, NaN or Inf.
    """
    if block.fishers is None:
        raise ConfigError(
            f"{method} needs the experts' Fisher information and has none of {block.name}: "
            "give its 'fisher' or 'statistics' with each expert in the recipe."
        )
    for fisher in block.fishers:
        check_fisher(block.name, fisher)
    return block.fishers


def check_fisher(name: str, fisher: Tensor) -> None:
    """Raises:
    ConfigError: entries below zero, NaN or Inf.
    """
    if fisher.numel() == 0:
        return
    least, most = (float(bound) for bound in fisher.aminmax())
    if not (least >= 0 and most < float("inf")):  # of NaN, neither holds
        raise ConfigError(f"the Fisher information of {name} has negative entries, NaN or Inf: compute it again.")


def check_matrices(what: str, name: str, matrices: Sequence[Tensor]) -> None:
    """Raises:
    ConfigError: Gram matrices or factors with NaN or Inf, or with a diagonal below zero.
    """
    for matrix in matrices:
        if not (bool(torch.isfinite(matrix).all()) and bool((matrix.diagonal() >= 0).all())):
            raise ConfigError(f"the {what} of {name} hold NaN, Inf or mean squares below zero: compute the statistics again.")
