"""Task singular vectors with raised singular values."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
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
from asrmerge.merging.tuning import Tuned


class BoostedTsvMParameters(SpectralParameters):
    boost: Annotated[float, Tuned(0.0, 0.5)] = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="Share β of the cumulative energy: later singular values are raised to the one there. 1 raises none, 0 all.",
    )
    energy: Literal["values", "squares"] = Field(
        default="values", description="What the energy adds up: the singular values, or their squares."
    )


class BoostedTsvM:
    """Orthogonalised task singular vectors, with the weak singular values raised against rank collapse.

    As tsv_m, but before the cut every singular value of wₜτₜ becomes max(σᵢ, σ_c), where c is the first index with
    σ₁ + … + σ_c ≥ β Σσ, over the task's whole spectrum. So β = 1 raises none and is tsv_m, and β = 0 raises all to σ₁. Weights
    multiply task vectors. (Carvalho et al., arXiv 2603.05354, with β = 0.3 for Whisper domains. The raising is that of
    Skorobogat et al., arXiv 2506.16506, whose cumulative sum is of σ; ``energy: squares`` takes σ² instead.)

    Null singular values (below 1e-5 of the largest) are not raised, because their vectors are arbitrary. Polar factors are
    exact, from eigenvectors of the Gram matrix in float64, where the paper takes five Newton–Schulz steps.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; β = 1 is tsv_m; rotating
    all task matrices rotates the result. Identical experts do not come back, and one expert only at β = 1.
    """

    name = "boosted_tsv_m"
    needs_base = True
    weights_multiply = True
    weight_range = (0.0, 2.0)
    parameters = BoostedTsvMParameters

    def merge(self, block: Block, parameters: BoostedTsvMParameters) -> Tensor:
        """Shapes: base [*shape], experts [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base.
        """
        return merge_spectrally(self.name, block, parameters, lambda tasks: orthogonalised(_decompose(tasks, parameters)))

    def parts(self, block: Block, parameters: BoostedTsvMParameters) -> list[Tensor] | None:
        """As of tsv_m, with the raised values, which a weight scales too.

        Raises:
            ConfigError: there is no base.
        """
        return spectral_parts(self.name, block, parameters, lambda tasks: _decompose(tasks, parameters))


def _decompose(tasks: TaskMatrices, parameters: BoostedTsvMParameters) -> list[Spectrum]:
    count = max(1, min(tasks.shape) // len(tasks))
    spectra = [singular_triplets(matrix, count) for matrix in tasks]
    return [spectrum._replace(values=_raise(spectrum.values, parameters)[:count]) for spectrum in spectra]


def _raise(values: Tensor, parameters: BoostedTsvMParameters) -> Tensor:
    if len(values) == 0:
        return values
    energy = (values.square() if parameters.energy == "squares" else values).cumsum(0)
    index = int(torch.searchsorted(energy, parameters.boost * energy[-1]))  # the first that reaches it
    return values.clamp(min=float(values[index]))


method = BoostedTsvM()
