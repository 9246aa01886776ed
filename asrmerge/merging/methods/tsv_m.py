"""Task singular vectors, orthogonalised."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._spectral import (
    SpectralParameters,
    Spectrum,
    TaskMatrices,
    merge_spectrally,
    orthogonalised,
    singular_triplets,
    spectral_parts,
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
    weight_range = (0.0, 2.0)
    parameters = SpectralParameters

    def merge(self, block: Block, parameters: SpectralParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        return merge_spectrally(self.name, block, parameters, _combine)

    def parts(self, block: Block, parameters: SpectralParameters) -> list[Tensor] | None:
        """λ·polar(U)ₜSₜpolar(V)ₜᵀ of each expert: a weight scales Sₜ, and turns Uₜ if negative, which turns its polar factor.

        Raises:
            ConfigError: there is no base.
        """
        return None if len(block.weights) == 1 else spectral_parts(self.name, block, parameters, _decompose)


def _combine(tasks: TaskMatrices) -> Tensor:
    return tasks.total() if len(tasks) == 1 else orthogonalised(_decompose(tasks))


def _decompose(tasks: TaskMatrices) -> list[Spectrum]:
    count = max(1, min(tasks.shape) // len(tasks))
    spectra = [singular_triplets(matrix, count) for matrix in tasks]
    return [spectrum._replace(values=spectrum.values[:count]) for spectrum in spectra]


method = TsvM()
