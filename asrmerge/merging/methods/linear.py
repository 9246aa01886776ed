"""Weighted mean of the experts."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Parameters


class LinearParameters(Parameters):
    normalize: bool = Field(default=True, description="Divide the weights by their sum.")


class Linear:
    """Weighted mean of the experts.

    Σ wₜθₜ, by default with the weights divided by their sum. Model soups (Wortsman et al., arXiv 2203.05482); with wₜ = nₜ the
    FedAvg mean (McMahan et al., arXiv 1602.05629); between the base, given as an expert, and one fine-tune, WiSE-FT (Wortsman et
    al., arXiv 2109.01903).

    Invariants: the order of the experts does not matter; a one-hot weight returns that expert; identical experts come back
    unchanged where the weights sum to 1, as they do when normalised.
    """

    name = "linear"
    needs_base = False
    elementwise = True
    parameters = LinearParameters

    def merge(self, block: Block, parameters: LinearParameters) -> Tensor:
        """Shapes: experts [T][*shape] → [*shape].

        Raises:
            ConfigError: weights to be normalised sum to zero.
        """
        if not parameters.normalize:
            return block.weighted_sum(block.weights)
        total = math.fsum(block.weights)
        if total == 0:
            raise ConfigError("linear cannot normalise weights that sum to 0: change a weight, or set normalize to false.")
        return block.weighted_sum([weight / total for weight in block.weights])


method = Linear()
