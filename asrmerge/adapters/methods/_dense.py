"""Methods of whole models applied to deltas in full, and from a delta back to factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asrmerge.adapters.factors import FactorBlock, Factors
from asrmerge.merging.block import Block


def as_task_vectors(block: FactorBlock, tensors: Sequence[Tensor], weights: Sequence[float]) -> Block:
    """Tensors, one per adapter and of one shape, as task vectors over a base of zeros, to which a method adds the merge."""
    return Block(block.name, torch.zeros_like(tensors[0]), tensors, weights, deltas=tensors, expert_names=block.adapter_names)


def full_deltas(block: FactorBlock) -> Block:
    """Every adapter's BₜAₜ [out, in] as a task vector over a base of zeros."""
    return as_task_vectors(block, [factors.delta() for factors in block.factors], block.weights)


def truncate(delta: Tensor, rank: int) -> Factors:
    """The best approximation of ``delta`` [out, in] of that rank (Eckart–Young), as balanced factors."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    return Factors(u[:, :rank] * root, root[:, None] * vh[:rank])
