"""Experts matched in the subspaces that matter to their tasks, by conjugate gradients."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, add_scaled
from asrmerge.merging.methods._covariances import Accuracy, Identity, Kronecker, Operator, frechet_mean, weighted_mean
from asrmerge.merging.methods._curvature import add_origin, check_matrices, read_tensors, scale_step
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.methods._sphere import normalize_weights

logger = logging.getLogger(__name__)


class MatsParameters(ScaleParameters):
    iterations: int = Field(default=100, ge=0, le=10_000, description="Of conjugate gradients, at most.")
    tolerance: float = Field(
        default=1e-6, ge=0.0, lt=1.0, description="Stop where the residual is this share of that at the start."
    )
    start: Literal["average", "task_arithmetic"] = Field(
        default="average",
        description="Where the iterations start: the weighted mean, or θ₀ + start_scale · Σ wₜτₜ, which needs a base.",
    )
    start_scale: float = Field(default=1.0, ge=-10.0, le=10.0, description="Of the start task_arithmetic.")
    ridge: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Added to the summed operators, as a share of their mean eigenvalue: a pull to the start.",
    )


class Mats:
    """Experts matched in the subspace of parameters that matters to each task, by conjugate gradients (MaTS).

    θ with Σ wₜBₜθAₜ = Σ wₜBₜθₜAₜ per linear map [W | b], Aₜ = E[xxᵀ] over its inputs [x, 1] and Bₜ = E[ggᵀ] over the gradients g
    of its outputs, so that Bₜ⊗Aₜ is the Kronecker-factored Fisher information (Tam et al., "Merging by Matching Models in Task
    Parameter Subspaces", arXiv 2312.04339). It minimises Σ wₜ(θ − θₜ)ᵀ(Bₜ⊗Aₜ)(θ − θₜ). λ moves it along the line from the base:
    θ₀ + λ(θ − θ₀).

    The iterations move first what the tasks are surest of, and directions without information never leave the start: stopping
    early regularises. The paper starts from the tuned model of task arithmetic, with 100 iterations. The residual is
    ‖Σ wₜBₜ(θ − θₜ)Aₜ‖ as a share of that at the start; start, iterations and residual of every linear map are in
    ``merge_provenance.json``. What has no statistics (norms, embeddings, grouped convolutions) gets the weighted mean, whatever
    the start. An iteration costs T·(m²n + mn²) multiplications in float64 for a map [m, n].

    Invariants: the order of the experts does not matter; zero scale returns the base. At λ = 1: from the start ``average`` a
    one-hot weight returns that expert and identical experts come back; with enough iterations it is the solution of the dense
    equation from any start; with Bₜ = I it is ``regmean`` at α = 1; with equal statistics it is the weighted mean.
    """

    name = "mats"
    needs_base = False
    affine = True
    weights_share = True
    weight_range = (0.0, 2.0)
    statistics = ("grams", "factors")
    parameters = MatsParameters

    def merge(self, block: Block, parameters: MatsParameters) -> Tensor:
        """Shapes: experts [T][m, n], Gram matrices [T][n, n], factors [T][m, m] → [m, n]; without statistics, any shape.

        Raises:
            ConfigError: a negative weight, weights that are all zero, unusable statistics, or no base where it is needed.
        """
        weights = normalize_weights(self.name, block.weights)
        origin, tensors = read_tensors(block)
        metrics = _metrics(block)
        if metrics is None:
            found = frechet_mean(tensors, [Identity()] * len(weights), weights)
        else:
            accuracy = Accuracy(parameters.ridge, parameters.iterations, parameters.tolerance)
            found = frechet_mean(tensors, metrics, weights, _start(block, parameters, tensors, weights), accuracy)
            residual = float(f"{found.residual:.3g}")
            logger.debug("mats: %s has the residual %g after %d iterations", block.name, residual, found.iterations)
            block.record({"start": parameters.start, "iterations": found.iterations, "residual": residual})
        return scale_step(self.name, block, add_origin(origin, found.tensor), parameters.scale)


def _metrics(block: Block) -> Sequence[Operator] | None:
    if block.grams is None or block.factors is None:
        return None
    check_matrices("Gram matrices", block.name, block.grams)
    check_matrices("output factors", block.name, block.factors)
    return [Kronecker(factor, gram) for gram, factor in zip(block.grams, block.factors, strict=True)]


def _start(block: Block, parameters: MatsParameters, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The start, less the base where the tensors are task vectors."""
    if parameters.start == "average":
        return weighted_mean(tensors, weights)
    base = block.need_base("mats with the start task_arithmetic")
    start = base.clone() if block.deltas is None else base.new_zeros(base.shape)
    return add_scaled(start, block.task_vectors(), [parameters.start_scale * weight for weight in block.weights])


method = Mats()
