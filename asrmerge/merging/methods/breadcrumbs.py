"""Drop outliers and small entries, then a weighted sum."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._outliers import BandParameters, keep_bands
from asrmerge.merging.methods._row_chunks import ScaleParameters, sum_sparse


class BreadcrumbsParameters(ScaleParameters, BandParameters):
    pass


class Breadcrumbs:
    """Drops the largest and the small entries of the task vectors, and adds up the rest by weight.

    θ₀ + λ Σ wₜ·mₜ⊙τₜ, with mₜ = 1 for the density·n largest magnitudes of the tensor below the γ·n largest, else 0; both numbers
    rounded, the first at least 1 (Model Breadcrumbs: Davari and Belilovsky, arXiv 2312.06795). Density + γ + the share of small
    entries dropped is 1; mergekit's density and gamma are these. Where density + γ > 1, fewer outliers are dropped. Entries equal
    in magnitude to the largest or the smallest kept stay, too. Weights multiply the task vectors.

    mergekit rounds both numbers down, so that a small tensor can lose every entry. The authors' published code ranks each row on
    its own, the paper and this method each tensor.

    Invariants: density 1 is task arithmetic; the order of the experts does not matter; zero weights or zero scale return the
    base.
    """

    name = "breadcrumbs"
    needs_base = True
    weights_multiply = True
    parameters = BreadcrumbsParameters

    def merge(self, block: Block, parameters: BreadcrumbsParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        return sum_sparse(block, keep_bands(block, parameters), parameters.scale, self.name)


method = Breadcrumbs()
