"""Weighted mean with the length of the experts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, Parameters, add_scaled
from asrmerge.merging.methods._exact import exact_norm
from asrmerge.merging.methods._sphere import Space, normalize_weights

_CANCELLED = 1e-6  # a mean this much shorter than the experts is mostly rounding


class RescaledMeanParameters(Parameters):
    space: Space = Field(
        default="weights", description="Average and rescale the weights, or the task vectors, which then need a base."
    )


class RescaledMean:
    """Weighted mean, rescaled block by block to the mean length of the experts.

    m·(Σ wₜ‖xₜ‖)/‖m‖ with m = Σ wₜxₜ; the weights are divided by their sum. In the space ``weights`` xₜ = θₜ; in ``task_vectors``
    xₜ = τₜ, and the base is added to the result. It is the control for the Karcher mean (arXiv 2603.04972): both have that
    length, and on close fine-tunes nearly the same direction, so a Karcher mean must beat this to be worth its price. Where
    the experts cancel each other the mean has no direction, and is returned as it is.

    Invariants: the order of the experts does not matter; a one-hot weight returns that expert; identical experts come back;
    ‖result‖ (in ``task_vectors``, ‖result − θ₀‖) is Σ wₜ‖xₜ‖; scaling all weights changes nothing.
    """

    name = "rescaled_mean"
    needs_base = False
    parameters = RescaledMeanParameters

    def merge(self, block: Block, parameters: RescaledMeanParameters) -> Tensor:
        """Shapes: experts [T][*shape] → [*shape].

        Raises:
            ConfigError: a negative weight, weights that are all zero, or no base for the space ``task_vectors``.
        """
        weights = normalize_weights(self.name, block.weights)
        if parameters.space == "weights":
            return _rescale(block.weighted_sum(weights), block.experts, weights)
        base = block.need_base("rescaled_mean in the space task_vectors")
        deltas = block.task_vectors()
        mean = add_scaled(torch.zeros_like(base), deltas, weights)
        return _rescale(mean, deltas, weights).add_(base)


def _rescale(mean: Tensor, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``mean`` at the length Σ wₜ‖xₜ‖, in place."""
    length = math.fsum(weight * exact_norm(tensor) for tensor, weight in zip(tensors, weights, strict=True))
    own = exact_norm(mean)
    return mean.mul_(length / own) if own > _CANCELLED * length else mean


method = RescaledMean()
