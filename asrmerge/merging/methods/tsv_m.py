"""Task singular vectors, orthogonalised."""

from __future__ import annotations

import torch
from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._spectral import (
    SpectralParameters,
    TaskMatrices,
    merge_spectrally,
    orthogonalised,
    singular_triplets,
)


class TsvM:
    """The strongest singular directions of every task, made orthogonal to each other's.

    Per matrix wₜτₜ = UₜSₜVₜᵀ, cut to its largest r = max(1, ⌊min(m, n)/T⌋) triplets; with U = [U₁ … U_T], V and S likewise,
    θ₀ + λ · polar(U) S polar(V)ᵀ, where polar(U) = PQᵀ of U = PΣQᵀ. Any other tensor: θ₀ + (λ/T) Σ wₜτₜ. T counts the experts
    whose weight is not zero; weights multiply task vectors. (TSV-Merge, Gargiulo et al., arXiv 2412.00081.)

    Other implementations keep nothing where T > min(m, n), and orthogonalise against the arbitrary vectors of null singular
    values too; here triplets below 1e-5 of a task's largest are left out, and polar factors leave null directions null.
    Polar factors come from eigenvectors of the Gram matrix in float64.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; one expert gives
    θ₀ + λwτ; rotating all task matrices rotates the result; task matrices of rank ≤ r with orthogonal row and column spaces
    give task arithmetic. Identical experts do not come back: they give θ₀ + λ times the mean weight times τ cut to r triplets.
    """

    name = "tsv_m"
    needs_base = True
    weights_multiply = True
    parameters = SpectralParameters

    def merge(self, block: Block, parameters: SpectralParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        return merge_spectrally(self.name, block, parameters, _combine)


def _combine(tasks: TaskMatrices) -> Tensor:
    if len(tasks) == 1:
        return tasks.total()
    count = max(1, min(tasks.shape) // len(tasks))
    spectra = [singular_triplets(matrix, count) for matrix in tasks]
    return orthogonalised(spectra, torch.cat([spectrum.values[:count] for spectrum in spectra]))


method = TsvM()
