"""The base plus scaled task vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from asrmerge.merging.block import Block, add_scaled
from asrmerge.merging.methods._row_chunks import ScaleParameters


class TaskArithmetic:
    """Base plus the weighted sum of the task vectors.

    θ₀ + λ Σ wₜτₜ, with τₜ = θₜ − θ₀. Weights may be negative: that unlearns (Ilharco et al., arXiv 2212.04089).

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; one expert with
    λw = 1 comes back; identical experts come back unchanged if and only if λ Σ wₜ = 1.
    """

    name = "task_arithmetic"
    needs_base = True
    weights_multiply = True
    elementwise = True
    parameters = ScaleParameters

    def merge(self, block: Block, parameters: ScaleParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        base = block.need_base(self.name)
        return add_scaled(base.clone(), block.task_vectors(), [parameters.scale * weight for weight in block.weights])

    def parts(self, block: Block, parameters: ScaleParameters) -> Sequence[Tensor] | None:
        """The task vectors where they need no scaling, which would take their memory again."""
        return block.task_vectors() if parameters.scale == 1.0 else None


method = TaskArithmetic()
