"""Spherical interpolation between two experts: of tensors, rows or columns, without a threshold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, Parameters
from asrmerge.merging.methods._sphere import Layout, interpolation_point, read_vectors, slerp_coefficients


class NuSlerpParameters(Parameters):
    block: Layout = Field(
        default="tensor",
        description="What is interpolated as one vector: the tensor, each row (output unit) or each column (along the outputs).",
    )
    space: Literal["auto", "weights", "task_vectors"] = Field(
        default="auto",
        description="Interpolate the weights or the task vectors; auto: the task vectors if there is a base.",
    )


class NuSlerp:
    """Two experts' task vectors interpolated along the arc between them, by tensor, row or column.

    x₀ + sin((1−t)φ)/sin φ · x₁ + sin(tφ)/sin φ · x₂ per vector, with t = w₂/(w₁ + w₂) in the order of the experts' names; of
    the task vectors with x₀ = θ₀ where there is a base, else of the weights with x₀ = 0. There is no threshold: the interpolation
    is linear only where there is no arc, at angles 0 and π and for zero vectors.

    NuSLERP is a method of mergekit (Goddard et al., arXiv 2403.13257). Its ``nuslerp_flatten: true`` is ``block: tensor`` here;
    with false, ``nuslerp_row_wise: false`` is ``row`` and true is ``column``, the other way round than the option's name says.
    In a convolution, whose rows it cuts into vectors along the last index, a row here is all of an output unit. It also takes
    the angle from a float32 arc cosine and a zero vector for an orthogonal one, and blows up next to opposite vectors.

    Invariants: swapping both experts and weights changes nothing; one-hot weights return that expert; identical experts come
    back; between vectors of one norm r, the result has norm r.
    """

    name = "nuslerp"
    needs_base = False
    expert_count = 2
    parameters = NuSlerpParameters

    def merge(self, block: Block, parameters: NuSlerpParameters) -> Tensor:
        """Shapes: experts [2][*shape] → [*shape].

        Raises:
            ConfigError: not two experts, unusable weights, or no base where it is needed.
        """
        t = interpolation_point(self.name, block.weights)
        space = parameters.space
        if space == "auto":
            space = "weights" if block.base is None else "task_vectors"
        vectors = read_vectors(self.name, block, space, parameters.block)
        coefficients, _ = slerp_coefficients(vectors.gram(), t)
        return vectors.combine(coefficients)


method = NuSlerp()
