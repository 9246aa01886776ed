"""Magnitude-based sampling, then elect a sign and merge what agrees."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._magnitude_sampling import RankedParameters, drop_by_rank
from asrmerge.merging.methods._random_masks import MASKS, make_generators
from asrmerge.merging.methods._sign_election import ElectionParameters, elect_and_merge


class DellaParameters(ElectionParameters, RankedParameters):
    pass


class Della:
    """Drops entries of the task vectors at random, small ones more often, rescales the rest, elects a sign, averages what agrees.

    θ₀ + λ·mean{ τ̂ₜ : sign(wₜτ̂ₜ) = sign(Σ wₜτ̂ₜ), τ̂ₜ ≠ 0 }, with τ̂ₜ = mₜ⊙τₜ/pₜ, mₜ ~ Bernoulli(pₜ), and
    pₜ = density − ε + 2ε·r/(n − 1) for the entry whose magnitude has rank r, from 0 for the smallest, among the n of its row
    (Deep et al., arXiv 2406.11617). Rows run along the last dimension; a vector is one row; in rows of one entry p = density.
    Weights multiply the task vectors before the election and weigh the mean; the masks depend on seed, tensor name and expert
    name alone; see della_linear and ties.

    The mean goes over the entries that were kept, so of T identical experts it gives, in expectation, (1 − (1 − p)ᵀ)/p times the
    task vector; ``normalize: false`` with Σ wₜ = 1 gives the task vector. mergekit restores the L1 norm instead of dividing by p,
    and stops on rows of one entry.

    Invariants: one expert, and with ``normalize: false`` and λ Σ wₜ = 1 identical ones, come back in expectation; density 1 is
    ties with density 1; the order of the experts does not matter; zero weights or zero scale return the base.
    """

    name = "della"
    needs_base = True
    weights_share = True
    weight_range = (0.0, 1.5)
    masks = MASKS
    parameters = DellaParameters

    def merge(self, block: Block, parameters: DellaParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        generators = make_generators(block, parameters.seed)
        sparsify = [drop_by_rank(parameters.density, parameters.epsilon, generator) for generator in generators]
        return elect_and_merge(block, sparsify, parameters, self.name)


method = Della()
