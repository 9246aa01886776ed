"""From a merged delta in full back to factors."""

from __future__ import annotations

import torch
from torch import Tensor

from asrmerge.adapters.factors import Factors


def truncate(delta: Tensor, rank: int) -> Factors:
    """The best approximation of ``delta`` [out, in] of that rank (Eckart–Young), as balanced factors."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    return Factors(u[:, :rank] * root, root[:, None] * vh[:rank])
