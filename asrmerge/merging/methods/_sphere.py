"""Vectors on a sphere: what SLERP and the Karcher means share.

Both need angles and norms only, and both results are linear combinations of the models' vectors. So one pass over the tensors
makes the Gram matrix of inner products, the geometry is done on that small matrix, and a second pass makes the combination.
Both passes go through the tensors in small float64 pieces, and nothing of a tensor's size is made but the result. Two vectors
10⁻³ rad apart differ by 5·10⁻⁷ in their cosine: float32 loses that, float64 keeps it to ten digits of the squared angle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal

import torch
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block

Space = Literal["weights", "task_vectors"]
Layout = Literal["tensor", "row", "column"]

PIECE_ON_CPU = 1 << 15  # a piece stays in a core's cache
PIECE_ELSEWHERE = 1 << 24
LEAST_RUN = 1024  # columns of a piece, where there are so many

# Below this sine, and this length of a mean of unit vectors, float32 inputs hold no direction but their rounding.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class Vectors:
    """The models' vectors xₜ of one block, cut into rows of their own geometry.

    Attributes:
        shape: of the block.
        layout: what one vector is: the ``tensor``, a ``row`` (index 0, the rest flattened) or a ``column`` (along index 0).
            Tensors of fewer than two dimensions are one vector.
        tensors: one per model, of that shape.
        addition: what is added to each of them to make xₜ, times ``sign``.
        origin: what is added to the combination of the xₜ.
        fishers: the diagonal of the metric is their mean; without, the metric is the identity.
        least: entries of the metric below this are raised to it.
    """

    shape: torch.Size
    layout: Layout
    tensors: Sequence[Tensor]
    addition: Tensor | None = None
    sign: float = 1.0
    origin: Tensor | None = None
    fishers: Sequence[Tensor] | None = None
    least: float = 0.0

    def gram(self) -> Tensor:
        """Inner products ⟨xₛ, xₜ⟩ of every row, in the metric, in float64.

        Shapes: [rows, T, T], on the CPU.
        """
        views = [self._view(tensor) for tensor in self.tensors]
        fishers = [self._view(fisher) for fisher in self.fishers or ()]
        rows, count = views[0].shape[0], len(views)
        pairs = list(combinations_with_replacement(range(count), 2))
        products = torch.zeros(rows, len(pairs), dtype=torch.float64, device=views[0].device)
        for piece in _pieces(views[0]):
            vectors = list(self._read(piece, views))
            scaled = vectors
            if fishers:
                metric = _mean([fisher[piece] for fisher in fishers]).clamp_(min=self.least)
                scaled = [vector * metric for vector in vectors]
            products[piece[0]] += _inner_products(scaled, vectors, pairs)
        gram = torch.empty(rows, count, count, dtype=torch.float64)
        for (one, other), product in zip(pairs, products.cpu().unbind(dim=1), strict=True):
            gram[:, one, other] = gram[:, other, one] = product
        return gram

    def combine(self, coefficients: Tensor) -> Tensor:
        """Σ cₜxₜ with coefficients of every row, plus the origin.

        Shapes: coefficients [rows, T] → the block's, float32, rounded once.
        """
        views = [self._view(tensor) for tensor in self.tensors]
        merged = torch.empty(self.shape, dtype=torch.float32, device=views[0].device)
        target = self._view(merged)
        origin = None if self.origin is None else self._view(self.origin)
        factors = coefficients.to(merged.device)
        alone = factors[0].tolist() if len(factors) == 1 else None  # multiplying by one number is faster
        for piece in _pieces(target):
            total = torch.zeros_like(target[piece], dtype=torch.float64) if origin is None else origin[piece].double()
            for index, vector in enumerate(self._read(piece, views)):
                if alone is not None:
                    total.add_(vector, alpha=alone[index])
                else:
                    total.addcmul_(vector, factors[piece[0], index, None])
            target[piece] = total
        return merged

    def _read(self, piece: tuple[slice, slice], views: Sequence[Tensor]) -> Iterator[Tensor]:
        addition = None if self.addition is None else self._view(self.addition)[piece]
        for view in views:
            part = view[piece].double()
            yield part if addition is None else part.add_(addition, alpha=self.sign)

    def _view(self, tensor: Tensor) -> Tensor:
        if self.layout == "tensor" or tensor.dim() < 2:
            return tensor.reshape(1, -1)
        rows = tensor.flatten(1)
        return rows if self.layout == "row" else rows.T


def read_vectors(
    method: str,
    block: Block,
    space: Space,
    layout: Layout = "tensor",
    fishers: Sequence[Tensor] | None = None,
    least: float = 0.0,
) -> Vectors:
    """The experts' vectors in that space, from their task vectors where those are held.

    Raises:
        ConfigError: task vectors are asked for and there is no base; ``method`` is named.
    """
    base, deltas = block.base, block.deltas
    if space == "task_vectors" and base is None:
        raise ConfigError(f"{method} of task vectors needs a base: name it in the recipe, or set space to weights.")
    origin = base if space == "task_vectors" else None
    if deltas is not None and base is not None:
        addition = None if space == "task_vectors" else base
        return Vectors(block.shape, layout, deltas, addition, 1.0, origin, fishers, least)
    return Vectors(block.shape, layout, list(block.experts), origin, -1.0, origin, fishers, least)


def normalize_weights(method: str, weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum.

    Raises:
        ConfigError: a negative weight, or only zeros.
    """
    total = math.fsum(weights)
    if min(weights) < 0 or total == 0:
        raise ConfigError(f"{method} averages with weights of 0 or more, not all 0: change them.")
    return [weight / total for weight in weights]


def interpolation_point(method: str, weights: Sequence[float]) -> float:
    """t = w₂/(w₁ + w₂) of the two experts.

    Raises:
        ConfigError: not two experts, or as in ``normalize_weights``.
    """
    if len(weights) != 2:
        raise ConfigError(f"{method} merges exactly two experts and has {len(weights)}: give two, or use karcher for more.")
    return normalize_weights(method, weights)[1]


def direction_cosines(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of the vectors and cosines between them; 0 where one has no direction.

    Shapes: [..., T, T] → [..., T] and [..., T, T].
    """
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    cosines = (gram * inverse[..., :, None] * inverse[..., None, :]).clamp(-1, 1)
    cosines.diagonal(dim1=-2, dim2=-1).copy_(norms > 0)  # 1 to the last bit
    return norms, cosines


def angle(cosine: Tensor) -> Tensor:
    """2·atan2(‖u − v‖, ‖u + v‖) of unit vectors, from their cosine in float64: no digits are lost near 0 and π."""
    return 2 * torch.atan2((1 - cosine).sqrt(), (1 + cosine).sqrt())


def slerp_coefficients(gram: Tensor, t: float, threshold: float = 1.0) -> tuple[Tensor, Tensor]:
    """sin((1−t)φ)/sin φ and sin(tφ)/sin φ, or 1−t and t where it is better to interpolate linearly.

    That is where |cos φ| > ``threshold``, where φ is 0 or π, and where one of the vectors is zero and has no direction.
    Shapes: gram [rows, 2, 2] → coefficients [rows, 2], and whether they are linear [rows].
    """
    norms, cosines = direction_cosines(gram)
    cosine = cosines[..., 0, 1]
    phi = angle(cosine)
    sine = torch.sin(phi)
    linear = (cosine.abs() > threshold) | (sine < NEGLIGIBLE) | (norms == 0).any(dim=-1)
    divisor = torch.where(linear, 1.0, sine)
    first = torch.where(linear, 1 - t, torch.sin((1 - t) * phi) / divisor)
    second = torch.where(linear, t, torch.sin(t * phi) / divisor)
    return torch.stack([first, second], dim=-1), linear


def _inner_products(ones: Sequence[Tensor], others: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> Tensor:
    """⟨ones[i], others[j]⟩ of those pairs, row by row. Shapes: [T][rows, length] twice → [rows, pairs]."""
    if len(ones[0]) > 1:
        return torch.stack([(ones[i] * others[j]).sum(dim=1) for i, j in pairs], dim=1)
    ones, others = ([vector[0] for vector in vectors] for vectors in (ones, others))
    return torch.stack([torch.dot(ones[i], others[j]) for i, j in pairs])[None]  # makes no products in between


def _mean(parts: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(parts[0], dtype=torch.float64)
    for part in parts:
        total += part
    return total / len(parts)


def _pieces(view: Tensor) -> Iterator[tuple[slice, slice]]:
    rows, columns = view.shape
    if view.numel() == 0:
        return
    size = PIECE_ON_CPU if view.device.type == "cpu" else PIECE_ELSEWHERE
    width = min(columns, max(LEAST_RUN, size // rows))
    height = min(rows, max(1, size // width))
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield slice(row, min(row + height, rows)), slice(column, min(column + width, columns))
