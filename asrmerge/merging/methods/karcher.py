"""Weighted Karcher mean of the experts' directions on the sphere."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Parameters
from asrmerge.merging.methods._sphere import (
    NEGLIGIBLE,
    Layout,
    Space,
    Vectors,
    angle,
    direction_cosines,
    normalize_weights,
    read_vectors,
)

logger = logging.getLogger(__name__)


Group = tuple[str, tuple[float, ...]]  # name and weights


class KarcherParameters(Parameters):
    block: Literal["tensor", "row", "group"] = Field(
        default="tensor",
        description="What is averaged as one vector: a tensor, each row (output unit) of it, or a layer group of tensors.",
    )
    space: Space = Field(
        default="weights",
        description="Average the weights, or the task vectors, which then need a base.",
    )
    maximum_iterations: int = Field(default=10, ge=1, le=1000, description="Steps towards the mean at most.")
    tolerance: float = Field(default=1e-5, gt=0.0, le=1.0, description="Stop at a step shorter than this, in radians.")

    @property
    def layout(self) -> Layout:
        """What one vector is inside of a tensor."""
        return "row" if self.block == "row" else "tensor"


class KarcherMean(NamedTuple):
    """The mean Σ cₜxₜ of vectors xₜ, row by row.

    Attributes:
        coefficients: cₜ, [rows, T].
        radius: the largest angle between the mean and a vector of positive weight, [rows].
        iterations: steps of the row that took most.
    """

    coefficients: Tensor
    radius: Tensor
    iterations: int


def karcher_mean(gram: Tensor, weights: Sequence[float], maximum_iterations: int = 10, tolerance: float = 1e-5) -> KarcherMean:
    """Karcher mean of the vectors' directions times the weighted mean of their norms, from their inner products alone.

    The mean depends on the angles through φ/sin φ = 1 + φ²/6 + …, so that what float64 cosines leave unknown of small angles
    does not show in it.

    Args:
        gram: inner products, float64, [rows, T, T].
        weights: non-negative; they sum to 1.
    """
    norms, cosines = direction_cosines(gram)
    given = torch.tensor(weights, dtype=gram.dtype)
    shares = given * (norms > 0)
    total = shares.sum(dim=-1, keepdim=True)
    shares = shares / torch.where(total > 0, total, 1.0)

    # The mean direction u = Σ aₜuₜ is held as a.
    length = _length(shares, cosines)
    heaviest = torch.nn.functional.one_hot(shares.argmax(dim=-1), len(weights)).to(gram.dtype)
    mean = torch.where(length > NEGLIGIBLE, shares / torch.where(length > NEGLIGIBLE, length, 1.0), heaviest)
    moving = torch.ones_like(length, dtype=torch.bool)
    iterations = 0
    while iterations < maximum_iterations:
        cosine = _apply(cosines, mean).clamp(-1, 1)
        phi = angle(cosine)
        # No shortest way leads from the mean to a vector opposite of it, so such a vector does not pull. Where directions cancel,
        # the coefficients are large, and so is what their rounding leaves unknown of the mean's own direction.
        opposite = phi >= math.pi - NEGLIGIBLE * mean.abs().sum(dim=-1, keepdim=True)
        pulls = torch.where(opposite, 0.0, shares / torch.sinc(phi / math.pi))
        step = pulls - (pulls * cosine).sum(dim=-1, keepdim=True) * mean
        distance = _length(step, cosines)
        moving = moving & (distance >= tolerance)
        if not bool(moving.any()):
            break
        moved = torch.cos(distance) * mean + torch.sinc(distance / math.pi) * step
        mean = torch.where(moving, moved / torch.where(moving, _length(moved, cosines), 1.0), mean)
        iterations += 1

    scale = (given * norms).sum(dim=-1, keepdim=True)
    coefficients = torch.where(norms > 0, scale * mean / torch.where(norms > 0, norms, 1.0), 0.0)
    # Without any direction there is only the plain mean: of zero vectors, or where a metric has no information at all.
    coefficients = torch.where(total > 0, coefficients, given)
    phi = angle(_apply(cosines, mean).clamp(-1, 1))
    radius = torch.where(shares > 0, phi, 0.0).amax(dim=-1)
    return KarcherMean(coefficients, radius, iterations)


def prepare_groups(name: str, pairs: Iterable[tuple[Block, Vectors]], parameters: KarcherParameters) -> dict[Group, Tensor]:
    """Coefficients [1, T] of each layer group, whose Gram matrix is the sum of its tensors'.

    Where weights differ inside of a group, as over the depth, its tensors of the same weights are a group of their own.

    Raises:
        ConfigError: unusable weights.
    """
    grams: dict[Group, Tensor] = {}
    for block, vectors in pairs:
        group, gram = _group(name, block), vectors.gram()
        grams[group] = grams[group] + gram if group in grams else gram
    return {group: _coefficients(name, group[0], gram, group[1], parameters) for group, gram in grams.items()}


def merge_vectors(name: str, block: Block, vectors: Vectors, parameters: KarcherParameters) -> Tensor:
    """The block's Karcher mean, with its group's coefficients where groups are averaged.

    Raises:
        ConfigError: unusable weights, or groups that were not prepared.
    """
    weights = normalize_weights(name, block.weights)
    if parameters.block != "group":
        return vectors.combine(_coefficients(name, block.name, vectors.gram(), weights, parameters))
    if block.prepared is None:
        raise ConfigError(f"{name} of layer groups needs the whole model first: call prepare, or set block to tensor or row.")
    return vectors.combine(block.prepared[_group(name, block)])


def _group(name: str, block: Block) -> Group:
    return block.place.group, tuple(normalize_weights(name, block.weights))


def _coefficients(name: str, place: str, gram: Tensor, weights: Sequence[float], parameters: KarcherParameters) -> Tensor:
    mean = karcher_mean(gram, weights, parameters.maximum_iterations, parameters.tolerance)
    wide = mean.radius > math.pi / 2
    if bool(wide.any()):
        logger.warning(
            "%s: in %s experts are up to %.2f rad from their mean, more than π/2 (%d of %d vectors): it may not be the only one",
            name,
            place,
            float(mean.radius.max()),
            int(wide.sum()),
            len(wide),
        )
    return mean.coefficients


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix * vector[..., None, :]).sum(dim=-1)


def _length(vector: Tensor, cosines: Tensor) -> Tensor:
    """‖Σ aₜuₜ‖. Shapes: [rows, T] → [rows, 1]."""
    return (vector * _apply(cosines, vector)).sum(dim=-1, keepdim=True).clamp(min=0).sqrt()


class Karcher:
    """Mean direction of the experts on the sphere, by least squared angles, times their mean norm.

    With xₜ = θₜ (or θₜ − θ₀), rₜ = ‖xₜ‖, uₜ = xₜ/rₜ and weights divided by their sum: (Σ wₜrₜ)·u, where u minimises Σ wₜφₜ²,
    φₜ the angle between u and uₜ. From the normalised weighted mean, u moves along the sphere by
    v = Σ wₜ·φₜ/sin φₜ·(uₜ − cos φₜ·u) until ‖v‖ is below the tolerance. A zero vector has no direction and counts in the norm
    only; where the start cancels to zero, the heaviest expert's direction is taken (of equals, the first by name).

    Karcher mean merging on the Fisher–Rao manifold by its spherical proxy, arXiv 2603.04972. The mean is unique where the vectors
    are within π/2 of it; beyond that a warning is logged. Other implementations allow equal weights only and take φ from a
    float32 arc cosine, which comes out as 0 for close fine-tunes, whose experts are then left out. On close fine-tunes the result
    is that of ``linear``, rescaled, to about φ²/8: always compare with ``linear`` too.

    Invariants: the order of the experts does not matter; a one-hot weight returns that expert; identical experts come back; with
    two, SLERP of the directions times the mean norm; ‖result‖ = Σ wₜrₜ; rotating or scaling the xₜ does so to the result.
    """

    name = "karcher"
    needs_base = False
    parameters = KarcherParameters

    def prepare(self, blocks: Callable[[], Iterator[Block]], parameters: KarcherParameters) -> dict[Group, Tensor] | None:
        """Coefficients of the layer groups, where groups are averaged.

        Raises:
            ConfigError: unusable weights, or no base where it is needed.
        """
        if parameters.block != "group":
            return None
        pairs = ((block, read_vectors(self.name, block, parameters.space)) for block in blocks())
        return prepare_groups(self.name, pairs, parameters)

    def merge(self, block: Block, parameters: KarcherParameters) -> Tensor:
        """Shapes: experts [T][*shape] → [*shape].

        Raises:
            ConfigError: unusable weights, no base where it is needed, or groups that were not prepared.
        """
        vectors = read_vectors(self.name, block, parameters.space, parameters.layout)
        return merge_vectors(self.name, block, vectors, parameters)


method = Karcher()
