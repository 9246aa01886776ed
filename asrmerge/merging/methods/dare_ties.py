"""Drop and rescale, then elect a sign and merge what agrees."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._random_masks import MASKS, RandomParameters, drop_uniformly, make_generators
from asrmerge.merging.methods._sign_election import ElectionParameters, elect_and_merge


class DareTiesParameters(ElectionParameters, RandomParameters):
    pass


class DareTies:
    """Drops entries of the task vectors at random, rescales the rest, elects a sign per entry, averages what agrees.

    θ₀ + λ·mean{ τ̂ₜ : sign(wₜτ̂ₜ) = sign(Σ wₜτ̂ₜ), τ̂ₜ ≠ 0 }, with τ̂ₜ = mₜ⊙τₜ/(1 − p), mₜ ~ Bernoulli(1 − p), density = 1 − p (DARE:
    Yu et al., arXiv 2311.03099; TIES: Yadav et al., arXiv 2306.01708). Weights multiply the task vectors before the election and
    weigh the mean; the masks depend on seed, tensor name and expert name alone; see dare_linear and ties.

    The mean goes over the entries that were kept, so of T identical experts it gives, in expectation, (1 − pᵀ)/(1 − p) times the
    task vector, not the task vector; ``normalize: false``, mergekit's default, with Σ wₜ = 1 gives it. mergekit restores the L1
    norm instead of dividing by 1 − p.

    Invariants: one expert, and with ``normalize: false`` and λ Σ wₜ = 1 identical ones, come back in expectation; density 1 is
    ties with density 1; the order of the experts does not matter; zero weights or zero scale return the base.
    """

    name = "dare_ties"
    needs_base = True
    weights_share = True
    weight_range = (0.0, 1.5)
    masks = MASKS
    parameters = DareTiesParameters

    def merge(self, block: Block, parameters: DareTiesParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        generators = make_generators(block, parameters.seed)
        sparsify = [drop_uniformly(parameters.density, generator) for generator in generators]
        return elect_and_merge(block, sparsify, parameters, self.name)


method = DareTies()
