"""Trimming, sign election and random dropping, shared by the methods that work on entries."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from asrmerge.adapters.factors import FactorBlock


def trim(tensor: Tensor, density: float) -> Tensor:
    """The largest entries by absolute value, that share of them (at least one); the others are zero."""
    kept = max(1, round(density * tensor.numel()))
    if kept >= tensor.numel():
        return tensor
    largest = tensor.abs().flatten().topk(kept).indices
    trimmed = torch.zeros_like(tensor)
    trimmed.view(-1)[largest] = tensor.flatten()[largest]
    return trimmed


def elect_and_average(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Per entry the sign of Σ wₜxₜ, and Σ wₜxₜ / Σ|wₜ| over the wₜxₜ of that sign; zero where the sum is zero.

    Shapes: [T][*shape] → [*shape].
    """
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor, alpha=weight)
    sign = total.sign()
    chosen, shares = torch.zeros_like(total), torch.zeros_like(total)
    for tensor, weight in zip(tensors, weights, strict=True):
        agrees = (tensor * weight).sign() == sign
        agrees &= sign != 0
        chosen.add_(torch.where(agrees, tensor, 0.0), alpha=weight)
        shares.add_(agrees.to(total.dtype), alpha=abs(weight))
    return chosen / torch.where(shares > 0, shares, 1.0)


def drop(block: FactorBlock, index: int, density: float, seed: int) -> Tensor:
    """The delta of one adapter with entries kept at random with that probability and divided by it.

    Seeded by the layer and the adapter, so neither order nor company of the adapters changes what is dropped.
    """
    delta = block.factors[index].delta()
    adapter = block.adapter_names[index] if block.adapter_names else str(index)
    digest = hashlib.sha256(f"{seed}\n{block.name}\n{adapter}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    kept = torch.rand(delta.shape, generator=generator) < density
    return torch.where(kept, delta / density, 0.0)
