"""Trim, elect a sign, merge what agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._sign_election import ElectionParameters, elect_and_merge
from asrmerge.merging.methods._trimming import count_kept, find_magnitudes, trim
from asrmerge.merging.tuning import Tuned


class TiesParameters(ElectionParameters):
    density: Annotated[float, Tuned(0.1, 0.9)] = Field(
        default=0.2, gt=0.0, le=1.0, description="k, share of each task vector's entries kept, the largest"
    )
    scope: Literal["model", "tensor"] = Field(default="model", description="the largest of the whole model or of each tensor")


class Ties:
    """Keeps each task vector's largest entries, elects a sign per entry, averages the entries that agree.

    θ₀ + λ·mean{ τ̂ₜ : sign(wₜτ̂ₜ) = γ, τ̂ₜ ≠ 0 }, with τ̂ₜ = τₜ where |τₜ| is among the top k, else 0, and γ = sign(Σ wₜτ̂ₜ) entry by
    entry (Yadav et al., arXiv 2306.01708). The threshold is the exact magnitude of rank round(k·n), at least rank 1, and every
    entry equal to it is kept, so that with equal magnitudes, as float16 gives, a few more than k·n stay. Weights multiply the
    task vectors before the election and weigh the mean, which divides by Σ |wₜ| of the agreeing entries; ``normalize: false``
    leaves the division out. The paper has equal weights. Where Σ wₜτ̂ₜ = 0, γ is the sign that more of the tensor's entries
    elected.

    The paper's code keeps one entry too many and fails at k = 1. mergekit knows the scope ``tensor`` only, rounds k·n down, takes
    γ = + where the sum is 0, and divides by Σ wₜ, which makes a negative weight add what it should subtract.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; one expert, or identical
    experts, with positive weights come back at k = 1, λ = 1; changing every τₜ's sign changes the merge's sign.
    """

    name = "ties"
    needs_base = True
    weights_share = True
    weight_range = (0.0, 1.5)
    parameters = TiesParameters

    def prepare(self, blocks: Callable[[], Iterator[Block]], parameters: TiesParameters) -> list[float] | None:
        """Every expert's threshold over the whole model, in the order of the blocks' experts; None where none is needed."""
        if parameters.scope == "tensor" or parameters.density == 1.0:
            return None
        return _find_thresholds(blocks, parameters.density)

    def merge(self, block: Block, parameters: TiesParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape]. A block that was not prepared counts as the whole model.

        Raises:
            ConfigError: there is no base.
        """
        thresholds: Sequence[float]
        if parameters.density == 1.0:
            thresholds = [0.0] * len(block.weights)
        elif parameters.scope == "model" and block.prepared is not None:
            thresholds = block.prepared
        else:
            thresholds = _find_thresholds(lambda: iter([block]), parameters.density)
        return elect_and_merge(block, [partial(trim, threshold=threshold) for threshold in thresholds], parameters, self.name)


def _find_thresholds(blocks: Callable[[], Iterator[Block]], density: float) -> list[float]:
    return [magnitudes[0] for magnitudes in find_magnitudes(blocks, lambda entries: [count_kept(density, entries)])]


method = Ties()
