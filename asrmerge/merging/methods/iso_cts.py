"""Isotropic merging in common and task-specific subspaces."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._spectral import (
    RESOLUTION,
    SpectralParameters,
    TaskMatrices,
    merge_spectrally,
    orthogonalised,
    singular_triplets,
)
from asrmerge.merging.tuning import Tuned


class IsoCtsParameters(SpectralParameters):
    common: Annotated[float, Tuned(0.5, 1.0)] = Field(
        default=0.8, ge=0.0, le=1.0, description="Share of the singular directions taken from the sum of the task vectors."
    )


class IsoCts:
    """The strongest directions of the summed task vectors and some of each task's own, all with equal singular values.

    Per matrix of rank at most r = min(m, n), with common share f, in these steps:
      1. s = round((r − ⌊f·r⌋)/T) directions for each task, at most ⌊r/T⌋; the k = r − T·s others are common.
      2. Σ wₜτₜ = USVᵀ; its first k triplets are the common ones.
      3. Of each task, the first s triplets of wₜτₜ − UₖUₖᵀ·wₜτₜ: what its columns have outside of the common subspace.
      4. All left vectors side by side, and all right ones, are replaced by their polar factors L and R.
      5. θ₀ + λ · σ̄ · LRᵀ with σ̄ the mean of all singular values taken in steps 2 and 3.
    Any other tensor: θ₀ + (λ/T) Σ wₜτₜ. T counts the experts whose weight is not zero; weights multiply task vectors.
    (Iso-CTS, Marczak et al., arXiv 2502.04959.)

    Other implementations break with a negative k where T·s > r, and fill null directions with arbitrary vectors; here triplets
    below 1e-5 of a matrix's size are left out, and the mean is over those taken. Polar factors come from eigenvectors of the
    Gram matrix in float64.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; f = 1 or T = 1 is iso_c;
    the singular values of the merged task matrix are equal where the vectors of step 4 are independent; rotating all task
    matrices rotates the result. Identical experts do not come back.
    """

    name = "iso_cts"
    needs_base = True
    weights_multiply = True
    weight_range = (0.0, 2.0)
    parameters = IsoCtsParameters

    def merge(self, block: Block, parameters: IsoCtsParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        return merge_spectrally(self.name, block, parameters, lambda tasks: _combine(tasks, parameters.common))


def _combine(tasks: TaskMatrices, fraction: float) -> Tensor:
    rank = min(tasks.shape)
    own = min(round((rank - int(fraction * rank)) / len(tasks)), rank // len(tasks))
    common = rank - own * len(tasks)
    spectra = [singular_triplets(tasks.total(), common)]
    if own > 0:
        shared = spectra[0].left
        for matrix in tasks:
            # A task inside of the common subspace leaves nothing but rounding, so the floor is relative to the whole task.
            floor = RESOLUTION * float(torch.linalg.matrix_norm(matrix))
            spectra.append(singular_triplets(matrix - shared @ (shared.T @ matrix), own, floor))
    taken = [spectrum.values[: spectrum.left.shape[1]] for spectrum in spectra]
    mean = float(sum(values.sum() for values in taken)) / max(1, sum(map(len, taken)))
    flat = [torch.full_like(values, mean) for values in taken]
    return orthogonalised([spectrum._replace(values=values) for spectrum, values in zip(spectra, flat, strict=True)])


method = IsoCts()
