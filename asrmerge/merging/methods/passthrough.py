"""One model's tensors as they are."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Parameters


class PassthroughParameters(Parameters):
    scale: float = Field(default=1.0, ge=-10.0, le=10.0, description="Multiplies the tensors; usual in rules for output layers.")


class Passthrough:
    """Layers of several models put together, without any averaging: a "frankenmerge".

    scale·θ₁. Which layers come from which model is said by the recipe's key ``layers``; what reaches the method is one model.
    Scaling every tensor of a layer is rarely meant: scale what is added to the residual stream, with rules for ``out_proj`` and
    ``fc2`` (Whisper) or ``out_proj`` and ``output_dense`` (wav2vec2); with 0 there, a repeated layer starts as the identity
    (LLaMA Pro: Wu et al., arXiv 2401.02415). The weight is not used.

    Invariants: scale 1 copies every tensor bit for bit; scale 0 gives zeros.
    """

    name = "passthrough"
    needs_base = False
    elementwise = True
    parameters = PassthroughParameters

    def merge(self, block: Block, parameters: PassthroughParameters) -> Tensor:
        """Shapes: experts [1][*shape] → [*shape].

        Raises:
            ConfigError: not exactly one expert.
        """
        if len(block.experts) != 1:
            raise ConfigError(
                f"passthrough takes one model, not {len(block.experts)}: use it for the whole recipe, with 'layers'."
            )
        return block.experts[0] * parameters.scale


method = Passthrough()
