"""Drop and rescale, then a weighted sum."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._random_masks import MASKS, RandomParameters, drop_uniformly, make_generators
from asrmerge.merging.methods._row_chunks import ScaleParameters, sum_sparse


class DareLinearParameters(ScaleParameters, RandomParameters):
    pass


class DareLinear:
    """Drops entries of the task vectors at random, rescales the rest, and adds them up by weight.

    θ₀ + λ Σ wₜ·mₜ⊙τₜ/(1 − p), mₜ ~ Bernoulli(1 − p), with density = 1 − p (DARE: Yu et al., arXiv 2311.03099, where p goes up to
    0.9 and more). Weights multiply the task vectors. The masks depend on seed, tensor name and expert name alone.

    mergekit restores the L1 norm of what was dropped instead of dividing by 1 − p: on small tensors a large part of τ is then
    missing in the mean, and a tensor that loses all its entries gets nothing back.

    Invariants: the mean over the seeds is task arithmetic with the same weights, so that identical experts come back in
    expectation if λ Σ wₜ = 1; density 1 is task arithmetic; the order of the experts does not matter; zero weights or zero scale
    return the base.
    """

    name = "dare_linear"
    needs_base = True
    masks = MASKS
    weights_multiply = True
    parameters = DareLinearParameters

    def merge(self, block: Block, parameters: DareLinearParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        generators = make_generators(block, parameters.seed)
        sparsify = [drop_uniformly(parameters.density, generator) for generator in generators]
        return sum_sparse(block, sparsify, parameters.scale, self.name)


method = DareLinear()
