"""What the spectral methods share: which blocks are matrices, their singular triplets, and polar factors. All in float64.

Singular triplets and polar factors come from an eigendecomposition of the smaller Gram matrix, which on matrices such as
[1280, 5120] is about four times faster than a singular value decomposition. Squaring halves the digits: values near
``RESOLUTION`` keep a relative accuracy of about 1e-5, larger ones have more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.merging.block import Block
from asrmerge.merging.methods._row_chunks import ScaleParameters

# A task vector is the difference of float32 tensors about a hundred times its size: what is below this fraction of its largest
# singular value is rounding, whose singular vectors are noise.
RESOLUTION = 1e-5


class SpectralParameters(ScaleParameters):
    convolutions: Literal["average", "flatten"] = Field(
        default="average",
        description="Convolution kernels: average their task vectors, or treat them as matrices [out, in·width].",
    )


@dataclass(frozen=True, eq=False)
class TaskMatrices:
    """wₜτₜ of the experts with a weight other than zero, as float64 matrices that are made one at a time, when asked for."""

    block: Block
    base: Tensor
    used: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.used)

    def __iter__(self) -> Iterator[Tensor]:
        for index in self.used:
            yield self.task_vector(index).double().reshape(self.shape) * self.block.weights[index]

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in], or [out, in·width] of a kernel."""
        rows = self.base.shape[0]
        return rows, self.base.numel() // rows

    def task_vector(self, index: int) -> Tensor:
        """τₜ in the block's shape, float32."""
        return self.block.experts[index] - self.base if self.block.deltas is None else self.block.deltas[index]

    def all_zero(self) -> bool:
        """Whether no expert has changed the tensor, as where a part of the model was frozen: there is nothing to decompose."""
        return not any(bool(self.task_vector(index).any()) for index in self.used)

    def total(self) -> Tensor:
        """Σ wₜτₜ [out, in]."""
        total = torch.zeros(self.shape, dtype=torch.float64, device=self.base.device)
        for matrix in self:
            total += matrix
        return total

    def average(self) -> Tensor:
        """(1/T) Σ wₜτₜ in the block's shape, float32."""
        total = torch.zeros_like(self.base)
        for index in self.used:
            total.add_(self.task_vector(index), alpha=self.block.weights[index] / len(self))
        return total


class Spectrum(NamedTuple):
    """The singular values above the resolution, largest first [r], and the vectors of the first of them [m, k] and [n, k]."""

    left: Tensor
    values: Tensor
    right: Tensor


Combine = Callable[[TaskMatrices], Tensor]
"""The merged task matrix, float64, of the shape of each."""


def merge_spectrally(name: str, block: Block, parameters: SpectralParameters, combine: Combine) -> Tensor:
    """θ₀ + λ · what ``combine`` makes of a matrix's wₜτₜ, θ₀ + λ · their mean for any other block; θ₀ if all weights are zero.

    Matrices are the linear layers' weights and 2-D tensors of unknown place; kernels are too, where the parameters say so.

    Raises:
        ConfigError: there is no base.
    """
    base = block.need_base(name)
    tasks = TaskMatrices(block, base, tuple(index for index, weight in enumerate(block.weights) if weight != 0))
    if not tasks.used or base.numel() == 0:
        return base.clone()
    if not _is_matrix(block, parameters):
        return torch.add(base, tasks.average(), alpha=parameters.scale)
    if tasks.all_zero():
        return base.clone()
    merged = combine(tasks).reshape(base.shape)
    return torch.add(base.double(), merged, alpha=parameters.scale).float()


def spectral_parts(
    name: str, block: Block, parameters: SpectralParameters, decompose: Callable[[TaskMatrices], Sequence[Spectrum]]
) -> list[Tensor] | None:
    """λ times the orthogonalised task vector of every expert, float32, at weight 1; None of a block that is no matrix.

    Raises:
        ConfigError: there is no base.
    """
    base = block.need_base(name)
    if base.numel() == 0 or not _is_matrix(block, parameters):
        return None
    count = len(block.weights)
    tasks = TaskMatrices(replace(block, weights=[1.0] * count), base, tuple(range(count)))
    if tasks.all_zero():
        return list(block.task_vectors())
    spectra = decompose(tasks)
    return [part.mul_(parameters.scale).float().reshape(base.shape) for part in _orthogonal_parts(spectra)]


def singular_triplets(matrix: Tensor, count: int, floor: float = 0.0) -> Spectrum:
    """All singular values above ``floor`` and above ``RESOLUTION`` of the largest, with the vectors of the first ``count``.

    The signs of the vectors, and the basis where values are equal, are arbitrary: a result must not depend on them.
    Shapes: matrix [m, n], float64.
    """
    if matrix.shape[0] > matrix.shape[1]:
        flipped = singular_triplets(matrix.T, count, floor)
        return Spectrum(flipped.right, flipped.values, flipped.left)
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)  # ascending
    values = squares.clamp(min=0.0).sqrt().flip(0)
    values = values[values > max(floor, RESOLUTION * float(values[0]))]
    left = vectors.flip(1)[:, : min(count, len(values))]
    right = matrix.T @ left
    return Spectrum(left, values, right / torch.linalg.vector_norm(right, dim=0))


def polar_factor(matrix: Tensor) -> Tensor:
    """PQᵀ of PΣQᵀ, over the singular values above ``RESOLUTION`` of the largest. Shapes: [m, k], float64 → [m, k].

    With full rank it is the nearest matrix with orthonormal columns (rows). Without, the null directions stay null, where a
    plain singular value decomposition would pair arbitrary vectors. Newton–Schulz iterations would need one step per factor
    1.5 in the smallest singular value, and are no faster.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return polar_factor(matrix.T).T
    if matrix.numel() == 0:
        return matrix
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    kept = squares > RESOLUTION**2 * squares[-1]
    basis = vectors[:, kept]
    factor: Tensor = (basis / squares[kept].sqrt()) @ (basis.T @ matrix)
    return factor


def orthogonalised(spectra: Sequence[Spectrum]) -> Tensor:
    """L diag(values) Rᵀ, with L and R the polar factors of all left vectors side by side, and of all right ones.

    Shapes: left vectors [m, k], values [k] and right vectors [n, k] of each → [m, n].
    """
    return reduce(Tensor.add_, _orthogonal_parts(spectra))


def _orthogonal_parts(spectra: Sequence[Spectrum]) -> Iterator[Tensor]:
    """Each spectrum's own columns of L, its values and its columns of R multiplied, which add up to ``orthogonalised``."""
    sizes = [len(spectrum.values) for spectrum in spectra]
    lefts = torch.split(polar_factor(torch.cat([spectrum.left for spectrum in spectra], dim=1)), sizes, dim=1)
    rights = torch.split(polar_factor(torch.cat([spectrum.right for spectrum in spectra], dim=1)), sizes, dim=1)
    for left, spectrum, right in zip(lefts, spectra, rights, strict=True):
        yield (left * spectrum.values) @ right.T


def _is_matrix(block: Block, parameters: SpectralParameters) -> bool:
    dimensions = len(block.shape)
    if dimensions == 2:
        return block.place.role in ("linear", "other")
    return dimensions > 2 and parameters.convolutions == "flatten" and block.place.role in ("convolution", "other")
