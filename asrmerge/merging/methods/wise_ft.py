"""Interpolation between the base and one fine-tune."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Parameters
from asrmerge.merging.tuning import Tuned


class WiseFtParameters(Parameters):
    alpha: Annotated[float, Tuned(0.0, 1.0)] = Field(
        default=0.5, ge=0.0, le=1.0, description="α, share of the expert: 0 is the base, 1 the expert."
    )


class WiseFt:
    """Straight line between the base and one expert.

    θ₀ + α(θ₁ − θ₀): WiSE-FT (Wortsman et al., arXiv 2109.01903). There is one coefficient, α, so the expert's weight must be 1:
    multiplied with α it would be a second name for the same thing, and ignored it would mislead.

    Invariants: α = 0 returns the base and α = 1 the expert, to the bit; an expert equal to the base comes back; the result lies
    between the two in every entry.
    """

    name = "wise_ft"
    needs_base = True
    expert_count = 1
    elementwise = True
    parameters = WiseFtParameters

    def merge(self, block: Block, parameters: WiseFtParameters) -> Tensor:
        """Shapes: base [*shape], experts [1][*shape] → [*shape].

        Raises:
            ConfigError: there is no base, not exactly one expert, or a weight other than 1.
        """
        base = block.need_base(self.name)
        if len(block.experts) != 1:
            raise ConfigError(f"wise_ft takes exactly one expert, not {len(block.experts)}: use task_arithmetic for several.")
        if block.weights[0] != 1:
            raise ConfigError(f"wise_ft takes no weight other than 1, not {block.weights[0]:g}: set its parameter alpha instead.")
        return torch.lerp(base, block.experts[0], parameters.alpha)  # exact at both ends


method = WiseFt()
