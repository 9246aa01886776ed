"""Karcher mean of the experts in the metric of their mean Fisher information."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block
from asrmerge.merging.methods._sphere import Vectors, read_vectors
from asrmerge.merging.methods.karcher import Group, KarcherParameters, merge_vectors, prepare_groups


class FisherKarcherParameters(KarcherParameters):
    floor: float = Field(
        default=1e-6,
        ge=0.0,
        le=1.0,
        description="Least entry of the Fisher metric, as a share of its mean over the tensor.",
    )


class FisherKarcher:
    """Karcher mean where weights count by their Fisher information: angles and norms are those of F^½·x.

    F^−½ · Karcher(F^½x₁, …, F^½x_T) with the weights wₜ divided by their sum and one diagonal metric for all: F the plain mean of
    the experts' Fisher diagonals, at least ``floor`` times its mean over the tensor. As the mean is a linear combination of the
    xₜ, F enters through the inner products ⟨xₛ, F·xₜ⟩ alone. A tensor whose Fisher is all zero has no geometry: it gets the
    plain weighted mean, or in a layer group the coefficients that the rest of the group gives.

    Optional metric of arXiv 2603.04972; with it the sphere follows the Fisher–Rao geometry more closely.

    Invariants: with F equal in all entries it is ``karcher``; the order of the experts does not matter; a one-hot weight returns
    that expert; identical experts come back; ‖F^½·result‖ = Σ wₜ‖F^½xₜ‖.
    """

    name = "fisher_karcher"
    needs_base = False
    statistics = ("fisher",)
    parameters = FisherKarcherParameters

    def prepare(self, blocks: Callable[[], Iterator[Block]], parameters: FisherKarcherParameters) -> dict[Group, Tensor] | None:
        """Coefficients of the layer groups, where groups are averaged.

        Raises:
            ConfigError: unusable weights, no Fisher information, or no base where it is needed.
        """
        if parameters.block != "group":
            return None
        return prepare_groups(self.name, ((block, _vectors(block, parameters)) for block in blocks()), parameters)

    def merge(self, block: Block, parameters: FisherKarcherParameters) -> Tensor:
        """Shapes: experts and their Fisher diagonals [T][*shape] → [*shape].

        Raises:
            ConfigError: unusable weights, no Fisher information, no base where it is needed, or groups that were not prepared.
        """
        prepared = parameters.block == "group"  # the Fisher has done its part already
        vectors = read_vectors(self.name, block, parameters.space) if prepared else _vectors(block, parameters)
        return merge_vectors(self.name, block, vectors, parameters)


def _vectors(block: Block, parameters: FisherKarcherParameters) -> Vectors:
    if block.fishers is None:
        raise ConfigError(
            f"fisher_karcher needs the experts' Fisher information and has none of {block.name}: "
            "give its 'fisher' or 'statistics' with each expert in the recipe, or use karcher."
        )
    fishers = list(block.fishers)
    if any(fisher.numel() > 0 and float(fisher.min()) < 0 for fisher in fishers):
        raise ConfigError(f"the Fisher information of {block.name} has negative entries: compute it again.")
    mean = math.fsum(float(fisher.mean()) if fisher.numel() > 0 else 0.0 for fisher in fishers) / len(fishers)
    return read_vectors("fisher_karcher", block, parameters.space, parameters.layout, fishers, parameters.floor * mean)


method = FisherKarcher()
