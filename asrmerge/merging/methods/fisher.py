"""Mean of the experts, entry by entry, weighed by their Fisher information."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block
from asrmerge.merging.methods._covariances import Diagonal, frechet_mean
from asrmerge.merging.methods._curvature import add_origin, read_fishers, read_tensors, scale_step
from asrmerge.merging.methods._exact import exact_norm
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.methods._sphere import normalize_weights
from asrmerge.merging.tuning import Tuned


class FisherParameters(ScaleParameters):
    normalize: bool = Field(default=False, description="Divide each expert's weight by ‖Fₜ‖₂ over the whole model.")
    floor: Annotated[float, Tuned(1e-8, 1e-1, log=True)] = Field(
        default=1e-6, ge=0.0, le=1e6, description="Least entry of the Fisher information."
    )
    floor_on: Literal["every", "target"] = Field(
        default="every", description="Whose entries are raised to the floor: every expert's, or those of the heaviest alone."
    )


class Fisher:
    """Mean of the experts, entry by entry, weighed by their Fisher information.

    Σ wₜFₜθₜ / Σ wₜFₜ with Fₜ the diagonal of the expert's Fisher information, at least ``floor``: where one expert is sure of an
    entry and others are not, it decides (Matena & Raffel, arXiv 2111.09832). It minimises Σ wₜ(θ − θₜ)ᵀFₜ(θ − θₜ), so it is the
    Fréchet mean for Fisher–Rao distances to the second order, Fₜ held fixed (arXiv 2604.27155). λ moves it along the line from
    the base: θ₀ + λ(mean − θ₀). Any Fisher file will do, that of an optimiser's second moment too (variant ``adam``; L2M,
    arXiv 2107.04695).

    With ``normalize`` the weights are divided by ‖Fₜ‖₂ over the whole model, or all that a rule with this method holds for, so
    that experts of a steep loss count no more than others. The authors' code raises to the floor the target's entries only, the
    model that matters most; with ``floor_on: target`` that is the expert of the largest weight (of equals, the first by name).
    Entries without any information, which only a floor of 0 leaves, are the weighted mean.

    Invariants: the order of the experts does not matter; scaling all weights changes nothing; zero scale returns the base; at
    λ = 1 a one-hot weight returns that expert, identical experts come back, with equal Fisher it is the weighted mean, and each
    entry is between those of the experts.
    """

    name = "fisher"
    needs_base = False
    elementwise = True
    weights_share = True
    weight_range = (0.0, 2.0)
    statistics = ("fisher",)
    parameters = FisherParameters

    def prepare(self, blocks: Callable[[], Iterator[Block]], parameters: FisherParameters) -> list[float] | None:
        """‖Fₜ‖₂ of every expert over all blocks, in their order; None where it is not asked for.

        Raises:
            ConfigError: no Fisher information, or nothing but zeros.
        """
        return _find_norms(blocks, self.name) if parameters.normalize else None

    def merge(self, block: Block, parameters: FisherParameters) -> Tensor:
        """Shapes: experts and their Fisher diagonals [T][*shape] → [*shape]. A block that was not prepared counts as the model.

        Raises:
            ConfigError: a negative weight, weights that are all zero, no Fisher information or an unusable one, or no base and
                a scale.
        """
        weights = normalize_weights(self.name, block.weights)
        fishers = read_fishers(self.name, block)
        norms: Sequence[float] = [1.0] * len(fishers)
        if parameters.normalize:
            norms = _find_norms(lambda: iter([block]), self.name) if block.prepared is None else block.prepared
        floors = [parameters.floor] * len(fishers)
        if parameters.floor_on == "target":
            target = weights.index(max(weights))
            floors = [parameters.floor if index == target else 0.0 for index in range(len(fishers))]
        metrics = [Diagonal(fisher, floor).times(1 / norm) for fisher, floor, norm in zip(fishers, floors, norms, strict=True)]
        origin, tensors = read_tensors(block)
        merged = add_origin(origin, frechet_mean(tensors, metrics, weights).tensor)
        return scale_step(self.name, block, merged, parameters.scale)


def _find_norms(blocks: Callable[[], Iterator[Block]], method: str) -> list[float]:
    norms: list[list[float]] = []
    names: Sequence[str] = ()
    for block in blocks():
        norms.append([exact_norm(fisher) for fisher in read_fishers(method, block)])
        names = block.expert_names
    totals = [math.hypot(*parts) for parts in zip(*norms, strict=True)]
    if 0 in totals:
        whose = names[totals.index(0)] if names else "an expert"
        raise ConfigError(
            f"{method} cannot normalise by the Fisher information of {whose}, which is zero everywhere: compute it again, or set "
            "normalize to false."
        )
    return totals


method = Fisher()
