"""Mean of the experts, pulled back to the base by how far they disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Parameters, add_scaled
from asrmerge.merging.methods._exact import exact_norm

_SMALLEST = torch.finfo(torch.float32).tiny  # of a length that can be divided by without overflow


class ModelStockParameters(Parameters):
    pass


class ModelStock:
    """Mean of the experts, pulled towards the base where their task vectors disagree.

    θ₀ + t Σ wₜτₜ, that is t·mean + (1 − t)·base, per tensor, with t = T·c/(1 + (T − 1)·c) clamped to [0, 1] and c the mean cosine
    between two task vectors (Jang, Yun & Han, arXiv 2403.19522). The paper's mean is plain. Here the weights are divided by
    their sum and used in the mean alone, not in t; an expert of weight 0 takes no part at all. A task vector of zeros has
    cosine 0 with any other; with one expert t = 1. mergekit does not clamp t, so that experts that disagree are left on the far
    side of the base, and it takes cosines of task vectors shorter than about 1e-3 too small.

    Invariants: the order of the experts does not matter; a one-hot weight returns that expert; identical experts come back;
    experts at right angles, or opposed, return the base; scaling all weights, or all task vectors, leaves t alone.
    """

    name = "model_stock"
    needs_base = True
    parameters = ModelStockParameters

    def merge(self, block: Block, parameters: ModelStockParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base, or the weights sum to zero.
        """
        base = block.need_base(self.name)
        total = math.fsum(block.weights)
        if total == 0:
            raise ConfigError("model_stock cannot average with weights that sum to 0: change a weight.")
        pairs = [(delta, weight / total) for delta, weight in zip(block.task_vectors(), block.weights, strict=True) if weight]
        deltas = [delta for delta, _ in pairs]
        ratio = _interpolation_ratio(deltas)
        return add_scaled(base.clone(), deltas, [ratio * weight for _, weight in pairs])


def _interpolation_ratio(deltas: Sequence[Tensor]) -> float:
    """t; shapes: [T][*shape]."""
    count = len(deltas)
    if count == 1:
        return 1.0
    cosine = _mean_cosine(deltas)
    return min(count * cosine / (1 + (count - 1) * cosine), 1.0) if cosine > 0 else 0.0


def _mean_cosine(deltas: Sequence[Tensor]) -> float:
    """Over all pairs, from ‖Σ uₜ‖² = Σ ‖uₜ‖² + 2 Σ_{s<t} uₛ·uₜ with unit vectors u: one pass rather than one per pair."""
    norms = [exact_norm(delta) for delta in deltas]
    directed = [(delta, 1 / norm) for delta, norm in zip(deltas, norms, strict=True) if norm > _SMALLEST]
    units = add_scaled(torch.zeros_like(deltas[0]), [delta for delta, _ in directed], [factor for _, factor in directed])
    return (exact_norm(units) ** 2 - len(directed)) / (len(deltas) * (len(deltas) - 1))


method = ModelStock()
