"""Spherical linear interpolation between two experts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block, Parameters
from asrmerge.merging.methods._sphere import Space, interpolation_point, read_vectors, slerp_coefficients

logger = logging.getLogger(__name__)


class SlerpParameters(Parameters):
    space: Space = Field(
        default="weights",
        description="Interpolate the weights, or the task vectors, which then need a base.",
    )
    threshold: float = Field(
        default=0.9995,
        ge=0.0,
        le=1.0,
        description="Tensors whose cosine is above this, or below minus this, are interpolated linearly.",
    )


class Slerp:
    """Two experts' tensors interpolated along the arc between them instead of the chord.

    sin((1−t)φ)/sin φ · x₁ + sin(tφ)/sin φ · x₂ per tensor, φ the angle between x₁ and x₂. The weights say where on the arc:
    t = w₂/(w₁ + w₂), in the order of the experts' names, so equal weights are the middle.

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985. xₜ = θₜ, or with ``space: task_vectors`` xₜ = θₜ − θ₀,
    added to θ₀ again. Beyond ``threshold`` the interpolation is linear. Full weights of fine-tunes of one base are always beyond
    it, so that there SLERP is the average; a warning says for how many tensors it is so, and the log (DEBUG) names them.
    Other implementations treat a zero tensor as orthogonal to the other, which gives 0.71 of that in the middle; here 0.5.

    Invariants: swapping both experts and weights changes nothing; one-hot weights return that expert; identical experts come
    back; between tensors of one norm r, the result has norm r where it is not linear.
    """

    name = "slerp"
    needs_base = False
    expert_count = 2
    parameters = SlerpParameters

    def prepare(self, blocks: Callable[[], Iterator[Block]], parameters: SlerpParameters) -> dict[str, Tensor]:
        """Every block's coefficients; surveyed first so that one warning can say how many of them are linear.

        Raises:
            ConfigError: as ``merge``.
        """
        found = {block.name: self._coefficients(block, parameters) for block in blocks()}
        linear = sorted(name for name, (_, is_linear) in found.items() if is_linear)
        if linear:
            logger.warning(
                "slerp: %d of %d tensors are interpolated linearly: their cosines are beyond %g, or there is no arc between them",
                len(linear),
                len(found),
                parameters.threshold,
            )
            logger.debug("slerp: interpolated linearly are %s", ", ".join(linear))
        return {name: coefficients for name, (coefficients, _) in found.items()}

    def merge(self, block: Block, parameters: SlerpParameters) -> Tensor:
        """Shapes: experts [2][*shape] → [*shape].

        Raises:
            ConfigError: not two experts, unusable weights, or no base where it is needed.
        """
        prepared = block.prepared
        coefficients = self._coefficients(block, parameters)[0] if prepared is None else prepared[block.name]
        return read_vectors(self.name, block, parameters.space).combine(coefficients)

    def _coefficients(self, block: Block, parameters: SlerpParameters) -> tuple[Tensor, bool]:
        t = interpolation_point(self.name, block.weights)
        vectors = read_vectors(self.name, block, parameters.space)
        coefficients, linear = slerp_coefficients(vectors.gram(), t, parameters.threshold)
        return coefficients, bool(linear.any())


method = Slerp()
