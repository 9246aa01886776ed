"""Mean and standard deviation of what each unit of a map gives, and the correction that brings one to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asrmerge.errors import StatisticsError
from asrmerge.statistics.collectors import Modules
from asrmerge.statistics.modules import map_outputs
from asrmerge.statistics.settings import Kind
from asrmerge.statistics.sums import pick

_QUIET = 1e-5  # of the map's usual size: below, what varies is rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Of every unit of a map, over positions: float64 [units]."""

    mean: Tensor
    deviation: Tensor


class MomentCollector:
    """Adds up outputs and their squares, in float64: a variance is a small difference of large sums. See ``Collector``."""

    kind: Kind = "activations"
    units = "mean and standard deviation over positions of a map's outputs"

    def __init__(self, maps: Modules) -> None:
        self.watched: Modules = maps
        self.differentiated: Modules = {}
        self.lacking: dict[str, str] = {}
        self.sums: dict[str, Tensor] = {}

    def on_call(self, name: str, inputs: Tensor, outputs: Tensor, chosen: Tensor) -> None:
        """Adds the outputs of the chosen positions."""
        rows = pick(map_outputs(self.watched[name], outputs), chosen).double()
        total = self.sums.setdefault(name, rows.new_zeros(3, rows.shape[1]))
        total[0] += len(rows)
        total[1] += rows.sum(0)
        total[2] += (rows**2).sum(0)

    def on_gradients(self, parameters: Mapping[str, Tensor], outputs: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
        """Nothing: only outputs count."""

    def result(self, count: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """``X.mean`` and ``X.deviation`` of every map X, and the positions of each."""
        found: dict[str, Tensor] = {}
        for name, one in self.moments().items():
            found |= {f"{name}.mean": one.mean, f"{name}.deviation": one.deviation}
        return found, {name: float(total[0, 0]) for name, total in self.sums.items()}

    def moments(self) -> dict[str, Moments]:
        """Those of every map that was called.

        Raises:
            StatisticsError: outputs are NaN or infinite.
        """
        found = {}
        for name, (count, total, squares) in self.sums.items():
            mean = total / count.clamp(min=1)
            deviation = (squares / count.clamp(min=1) - mean**2).clamp(min=0).sqrt()
            if not bool(torch.isfinite(deviation).all() and torch.isfinite(mean).all()):
                raise StatisticsError(f"the outputs of {name} are NaN or infinite: check the model with asrmerge evaluate.")
            found[name] = Moments(mean.cpu(), deviation.cpu())
        return found


def interpolate(moments: Mapping[str, Moments], weights: Mapping[str, float]) -> Moments:
    """Σ wₜμₜ and Σ wₜσₜ over the domains, with weights that add up to 1: means of means and of standard deviations."""
    names = sorted(moments)
    return Moments(
        mean=torch.stack([weights[name] * moments[name].mean for name in names]).sum(0),
        deviation=torch.stack([weights[name] * moments[name].deviation for name in names]).sum(0),
    )


@dataclass(frozen=True, eq=False)
class Correction:
    """y → factor·y + shift for the outputs y of a map: float64 [units].

    Attributes:
        left_alone: units that hardly vary, whose factor is 1 and whose shift is 0.
        clamped: units whose factor would have been beyond the bounds.
    """

    factor: Tensor
    shift: Tensor
    left_alone: Tensor
    clamped: Tensor


def correct(merged: Moments, target: Moments, lower: float, upper: float, *, has_bias: bool) -> Correction:
    """y → (y − μ)·s + μ*, with s = σ*/σ between the bounds; without a bias y → s·y, so that only the deviation is right.

    Source: REPAIR (Jordan et al., arXiv 2211.08403). Units whose deviation is not above 10⁻⁵ of the map's (its root mean
    square) and of their own mean are left alone: a ratio of roundings says nothing.
    """
    usual = merged.deviation.square().mean().sqrt()
    left_alone = merged.deviation <= _QUIET * (usual + merged.mean.abs())
    ratio = target.deviation / torch.where(left_alone, 1.0, merged.deviation)
    factor = torch.where(left_alone, 1.0, ratio.clamp(lower, upper))
    clamped = ~left_alone & ((ratio < lower) | (ratio > upper))
    moves = has_bias & ~left_alone
    shift = torch.where(moves, target.mean - factor * merged.mean, 0.0)
    return Correction(factor, shift, left_alone, clamped)


def fuse(weight: Tensor, bias: Tensor | None, correction: Correction) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of the corrected map. Shapes: weight [units, …], bias [units]; as given, float32."""
    factor, shift = correction.factor.to(weight.device), correction.shift.to(weight.device)
    scaled = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
    moved = None if bias is None else (bias.double() * factor + shift).float()
    return scaled.float(), moved
