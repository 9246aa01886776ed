"""Magnitude-based sampling, then a weighted sum."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._magnitude_sampling import RankedParameters, drop_by_rank
from asrmerge.merging.methods._random_masks import MASKS, make_generators
from asrmerge.merging.methods._row_chunks import ScaleParameters, sum_sparse


class DellaLinearParameters(ScaleParameters, RankedParameters):
    pass


class DellaLinear:
    """Drops entries of the task vectors at random, small ones more often, rescales the rest, and adds them up by weight.

    θ₀ + λ Σ wₜ·mₜ⊙τₜ/pₜ, mₜ ~ Bernoulli(pₜ), with pₜ = density − ε + 2ε·r/(n − 1) for the entry whose magnitude has rank r, from
    0 for the smallest, among the n of its row (DELLA's MagPrune: Deep et al., arXiv 2406.11617, there without the election). Rows
    run along the last dimension; a vector is one row; in rows of one entry p = density. Weights multiply the task vectors. The
    masks depend on seed, tensor name and expert name alone.

    mergekit restores the L1 norm instead of dividing each entry by its own probability, which leaves small entries too small, and
    stops on rows of one entry, where its rank is 0/0.

    Invariants: the mean over the seeds is task arithmetic with the same weights, so that identical experts come back in
    expectation if λ Σ wₜ = 1; density 1 is task arithmetic; the order of the experts does not matter; zero weights or zero scale
    return the base.
    """

    name = "della_linear"
    needs_base = True
    masks = MASKS
    weights_multiply = True
    parameters = DellaLinearParameters

    def merge(self, block: Block, parameters: DellaLinearParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        generators = make_generators(block, parameters.seed)
        sparsify = [drop_by_rank(parameters.density, parameters.epsilon, generator) for generator in generators]
        return sum_sparse(block, sparsify, parameters.scale, self.name)


method = DellaLinear()
