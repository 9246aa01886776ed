"""Figures of large tensors that torch gets wrong or slowly on a CPU."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def exact_norm(tensor: Tensor) -> float:
    """‖x‖ over all entries, summed in float64."""
    # In float32 the norm of a large tensor is off by 1e-3; in float64 it copies the tensor, so that is done piece by piece.
    pieces = tensor.flatten().chunk(1 + tensor.numel() // 2**20)
    return math.hypot(*(float(torch.linalg.vector_norm(piece, dtype=torch.float64)) for piece in pieces))


def share_of(density: float, entries: int) -> int:
    """density · entries, rounded down, at least 1."""
    return max(1, math.floor(entries * density + 1e-6))  # 0.29 · 100 is 28.999…, and 29 is meant


def nth_largest(tensor: Tensor, count: int) -> float:
    """The ``count``-th largest entry, exactly; 1 is the largest."""
    position = tensor.numel() - count
    return float(np.partition(tensor.flatten().numpy(force=True), position)[position])  # torch.kthvalue is slower, holds indices
