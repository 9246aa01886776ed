"""Task vectors scaled by depth."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, add_scaled
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.structure import Place
from asrmerge.merging.tuning import Tuned


class LinesParameters(ScaleParameters):
    alpha: Annotated[float, Tuned(0.0, 1.0)] = Field(
        default=0.2, ge=0.0, le=10.0, description="α, the factor in the first layer, and in what comes before it."
    )
    beta: float = Field(
        default=0.8, ge=-10.0, le=10.0, description="β, what is added to α by the last layer, and for what comes after it."
    )


class Lines:
    """Task arithmetic whose scale grows linearly with depth.

    θ₀ + s(l)·λ Σ wₜτₜ with s(l) = α + β·l/(L − 1) in layer l = 0 … L − 1: LiNeS (Wang et al., arXiv 2410.17146). The weights
    multiply the task vectors. The paper has one stack of layers; here encoder and decoder climb separately, each from α to
    α + β, and the layer of a stack of one counts as its last. Outside of the layers the head and the final norms count as last
    (α + β), and everything else (front end, positions, embeddings, the decoder's among them) as first (α). Whisper's output
    matrix is its embedding, and so counts as first; so does a norm inside of the front end.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; β = 0 is task arithmetic
    with λα; in the last layer, one expert with (α + β)λw = 1 comes back.
    """

    name = "lines"
    needs_base = True
    weights_multiply = True
    elementwise = True
    parameters = LinesParameters

    def merge(self, block: Block, parameters: LinesParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        base = block.need_base(self.name)
        scale = parameters.scale * (parameters.alpha + parameters.beta * _depth(block.place))
        return add_scaled(base.clone(), block.task_vectors(), [scale * weight for weight in block.weights])


def _depth(place: Place) -> float:
    if place.depth is not None:
        return place.depth
    return 1.0 if place.group in ("head", "norms") else 0.0


method = Lines()
