"""Whether a tensor holds NaN or Inf."""

from __future__ import annotations

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor Inf; one fast pass in the usual case."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # A sum is faster than looking at every value, and finite only if all of them are; float16 overflows in float16.
    total = tensor.sum(dtype=torch.float32 if tensor.dtype != torch.float64 else None)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())
