"""Drop outliers and small entries, then elect a sign and merge what agrees."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._outliers import BandParameters, keep_bands
from asrmerge.merging.methods._sign_election import ElectionParameters, elect_and_merge


class BreadcrumbsTiesParameters(ElectionParameters, BandParameters):
    pass


class BreadcrumbsTies:
    """Drops the largest and the small entries of the task vectors, elects a sign per entry, averages what agrees.

    θ₀ + λ·mean{ τ̂ₜ : sign(wₜτ̂ₜ) = sign(Σ wₜτ̂ₜ), τ̂ₜ ≠ 0 }, with τ̂ₜ = τₜ for the density·n largest magnitudes of the tensor
    below the γ·n largest, else 0 (Model Breadcrumbs: Davari and Belilovsky, arXiv 2312.06795; TIES: Yadav et al., arXiv
    2306.01708). Weights multiply the task vectors before the election and weigh the mean; see breadcrumbs for the bounds and ties
    for the election.

    mergekit sums the agreeing entries by default (here ``normalize: false``), rounds the numbers of entries down, and elects +
    where the sum is 0.

    Invariants: identical experts with positive weights come back at density 1, λ = 1; the order of the experts does not matter;
    zero weights or zero scale return the base.
    """

    name = "breadcrumbs_ties"
    needs_base = True
    weights_share = True
    weight_range = (0.0, 1.5)
    parameters = BreadcrumbsTiesParameters

    def merge(self, block: Block, parameters: BreadcrumbsTiesParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        return elect_and_merge(block, keep_bands(block, parameters), parameters, self.name)


method = BreadcrumbsTies()
