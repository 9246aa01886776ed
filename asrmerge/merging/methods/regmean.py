"""The linear maps whose outputs are nearest to the experts' on their own audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block
from asrmerge.merging.methods._covariances import Accuracy, Gram, Identity, IndefiniteError, Operator, frechet_mean
from asrmerge.merging.methods._curvature import add_origin, check_matrices, read_tensors, scale_step
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.methods._sphere import normalize_weights
from asrmerge.merging.tuning import Tuned


class RegMeanParameters(ScaleParameters):
    alpha: Annotated[float, Tuned(0.1, 0.98)] = Field(
        default=0.9, ge=0.0, le=1.0, description="α, what the Gram matrices keep beside their diagonal; 0 leaves the diagonal."
    )
    jitter: float = Field(
        default=1e-6, ge=0.0, le=1.0, description="Added to the diagonal of the summed Gram matrices, as a share of its mean."
    )


class RegMean:
    """The linear maps whose outputs are nearest to those of the experts, each on the inputs of its own audio.

    W = (Σ wₜWₜG̃ₜ)(Σ wₜG̃ₜ)⁻¹ per linear map, with G̃ = αG + (1 − α)·diag(G) and G = E[xxᵀ] over the expert's inputs x (Jin et al.,
    arXiv 2212.09849). At α = 1 it minimises Σ wₜE‖Wx − Wₜx‖². Weight and bias are merged as one, [W | b] with inputs [x, 1], and
    convolutions as the linear maps of their windows. λ moves it along the line from the base: θ₀ + λ(W − θ₀).

    What has no Gram matrix (norms, embeddings, grouped convolutions) gets the weighted mean, and so do inputs that no expert
    ever saw. The equation is solved by Cholesky, and for the difference from that mean, to which the jitter therefore pulls.
    Audio too short for all directions of x makes singular Gram matrices: α < 1 makes up for that, and at α = 1 the jitter, with
    which the directions that no audio had get the weighted mean. Where it is too small for that it grows tenfold;
    ``merge_provenance.json`` says where.

    Invariants: the order of the experts does not matter; zero scale returns the base; at λ = 1 a one-hot weight returns that
    expert, identical experts come back, with equal Gram matrices it is the weighted mean, and with α = 0 each entry is between
    those of the experts.
    """

    name = "regmean"
    needs_base = False
    affine = True
    weights_share = True
    weight_range = (0.0, 2.0)
    statistics = ("grams",)
    parameters = RegMeanParameters

    def merge(self, block: Block, parameters: RegMeanParameters) -> Tensor:
        """Shapes: experts [T][m, n] and their Gram matrices [T][n, n] → [m, n]; without those, any shape.

        Raises:
            ConfigError: a negative weight, weights that are all zero, unusable Gram matrices, or no base and a scale.
        """
        weights = normalize_weights(self.name, block.weights)
        origin, tensors = read_tensors(block)
        try:
            found = frechet_mean(tensors, _metrics(block, parameters), weights, accuracy=Accuracy(ridge=parameters.jitter))
        except IndefiniteError as error:
            raise ConfigError(f"the Gram matrices of {block.name} have {error}: compute the statistics again.") from error
        if found.ridge > parameters.jitter:
            block.record({"jitter": found.ridge})
        return scale_step(self.name, block, add_origin(origin, found.tensor), parameters.scale)


def _metrics(block: Block, parameters: RegMeanParameters) -> Sequence[Operator]:
    if block.grams is None:
        return [Identity()] * len(block.weights)
    check_matrices("Gram matrices", block.name, block.grams)
    return [Gram(gram, parameters.alpha) for gram in block.grams]


method = RegMean()
