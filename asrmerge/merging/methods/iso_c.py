"""Isotropic merging in the common subspace."""

from __future__ import annotations

from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._spectral import SpectralParameters, TaskMatrices, merge_spectrally, singular_triplets


class IsoC:
    """The sum of the task vectors with all its singular values made equal.

    Per matrix Σ wₜτₜ = USVᵀ becomes θ₀ + λ · mean(S) · UVᵀ. Any other tensor: θ₀ + (λ/T) Σ wₜτₜ, where T counts the experts
    whose weight is not zero. Weights multiply task vectors. (Iso-C, Marczak et al., arXiv 2502.04959.)

    Other implementations fill the null directions of a low-rank sum with arbitrary vectors, which then get a full singular
    value; here U, S, V and the mean are of the numerical rank only (values above 1e-5 of the largest).

    Invariants: the order of the experts does not matter; zero weights, zero scale or a zero sum return the base; the singular
    values of the merged task matrix are equal and sum to those of Σ wₜτₜ; rotating all task matrices rotates the result.
    Identical experts do not come back, nor does one expert alone.
    """

    name = "iso_c"
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


def _combine(tasks: TaskMatrices) -> Tensor:
    left, values, right = singular_triplets(tasks.total(), min(tasks.shape))
    return left @ right.T * (values.sum() / max(1, len(values)))


method = IsoC()
