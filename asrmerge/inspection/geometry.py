"""Norms, cosines and sign conflicts of task vectors, summed in float64 over a model that is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from asrmerge.inspection.result import Geometry

_CHUNK = 1 << 18  # entries that are held in float64 at a time


@dataclass(frozen=True, eq=False)
class Sums:
    """What norms, cosines and shares come from; sums of two disjoint sets of parameters add up. All float64, T experts.

    Attributes:
        entries: number of entries (scalar, as all without a shape here).
        reference: Σ θ₀².
        gram: Σ τₛτₜ [T, T].
        magnitude: Σ |τₜ| [T].
        opposite: number of entries in which τₛ and τₜ have opposite signs [T, T].
        opposite_magnitude: Σ |τₛ| + |τₜ| over those entries [T, T].
        contested: number of entries in which any two experts have opposite signs.
        contested_magnitude: Σ over those entries of all experts' |τ|.
        changed: above 0 for an expert with an entry other than the base's (without a base, the first expert's) [T], else 0.
    """

    entries: Tensor
    reference: Tensor
    gram: Tensor
    magnitude: Tensor
    opposite: Tensor
    opposite_magnitude: Tensor
    contested: Tensor
    contested_magnitude: Tensor
    changed: Tensor

    @classmethod
    def zero(cls, experts: int) -> Sums:
        """The sums over nothing."""
        shapes = {"gram": 2, "opposite": 2, "opposite_magnitude": 2, "magnitude": 1, "changed": 1}
        shape = {field.name: [experts] * shapes.get(field.name, 0) for field in fields(cls)}
        return cls(**{name: torch.zeros(size, dtype=torch.float64) for name, size in shape.items()})

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


def measure(base: Tensor | None, experts: Sequence[Tensor]) -> Sums:
    """The sums over one parameter; without a base, task vectors start from the experts' mean. Shapes: all the same."""
    flat = [expert.reshape(-1) for expert in experts]
    start = None if base is None else base.reshape(-1)
    sums = Sums.zero(len(experts))
    for first in range(0, flat[0].numel(), _CHUNK):
        piece = slice(first, first + _CHUNK)
        stacked = torch.stack([expert[piece].to(torch.float64) for expert in flat])
        sums = sums + _measure_piece(None if start is None else start[piece].to(torch.float64), stacked)
    return sums


def _measure_piece(base: Tensor | None, experts: Tensor) -> Sums:
    """Shapes: base [N], experts [T, N]."""
    moved = experts - (experts[0] if base is None else base)
    changed = (moved != 0).any(dim=1)
    reference = base
    if reference is None:
        # Around the first expert, so that identical experts are exactly at their mean.
        mean = moved.mean(dim=0)
        reference, moved = experts[0] + mean, moved - mean
    up, down = moved.clamp(min=0), (-moved).clamp(min=0)
    rises, falls = (up > 0).to(up.dtype), (down > 0).to(up.dtype)
    against = up @ falls.T + down @ rises.T  # [s, t]: Σ |τₛ| where τₜ has the other sign
    contested = (rises.amax(dim=0) * falls.amax(dim=0)).to(torch.bool)
    magnitude = up + down
    return Sums(
        entries=torch.tensor(float(experts.shape[1]), dtype=torch.float64),
        reference=reference @ reference,
        gram=moved @ moved.T,
        magnitude=magnitude.sum(dim=1),
        opposite=rises @ falls.T + falls @ rises.T,
        opposite_magnitude=against + against.T,
        contested=contested.sum().to(torch.float64),
        contested_magnitude=magnitude.sum(dim=0)[contested].sum(),
        changed=changed.to(torch.float64),
    )


def summarize(group: str, sums: Sums) -> Geometry:
    """The figures that follow from ``sums``."""
    gram = (sums.gram + sums.gram.T) / 2  # a matrix product may round its two halves differently
    norms = gram.diagonal().clamp(min=0).sqrt()
    reference = float(sums.reference.sqrt())
    count = norms.numel()
    pairs = [[(one, two) for two in range(count)] for one in range(count)]
    both = sums.magnitude[:, None] + sums.magnitude[None, :]
    return Geometry(
        group=group,
        parameters=int(sums.entries),
        reference_norm=reference,
        norms=tuple(norms.tolist()),
        ratios=tuple(norm / reference if reference > 0 else None for norm in norms.tolist()),
        cosines=tuple(tuple(_cosine(gram, norms, one, two) for one, two in row) for row in pairs),
        conflicts=tuple(tuple(_share(sums.opposite[pair], sums.entries) for pair in row) for row in pairs),
        conflict_magnitudes=tuple(tuple(_share(sums.opposite_magnitude[pair], both[pair]) for pair in row) for row in pairs),
        contested=_share(sums.contested, sums.entries),
        contested_magnitude=_share(sums.contested_magnitude, sums.magnitude.sum()),
    )


def _cosine(gram: Tensor, norms: Tensor, one: int, two: int) -> float | None:
    length = float(norms[one] * norms[two])
    if length == 0:
        return None
    return 1.0 if one == two else max(-1.0, min(1.0, float(gram[one, two]) / length))


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0
