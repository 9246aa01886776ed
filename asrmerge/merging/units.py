"""Which tensors are merged as one parameter, and which are copied: the traps of speech checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asrmerge.checkpoints.names import DIRECTION, MAGNITUDE

LINEAR_ROLES = ("linear", "convolution", "head", "bias")


@dataclass(frozen=True)
class Unit:
    """One parameter: a tensor, or several that methods see as one.

    Attributes:
        copied: taken from the base (without one, the first expert) as it is.
        weight_normed: the members are the magnitude and the direction of a weight, merged as their product.
        affine: the members are the weight and, where there is one, the bias of a linear map, merged as the matrix [W | b].
    """

    name: str
    members: tuple[str, ...]
    copied: bool = False
    weight_normed: bool = False
    affine: bool = False

    def compose(self, members: Sequence[Tensor]) -> Tensor:
        """The float32 tensor that methods see, from the stored ones."""
        tensors = [member.to(torch.float32) for member in members]
        if self.weight_normed:
            return compose_weight_norm(*tensors)
        return compose_affine(tensors) if self.affine else tensors[0]

    def decompose(self, merged: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors to store, float32, from the merged one; ``like``: the base's stored ones."""
        if self.weight_normed:
            return decompose_weight_norm(merged, *(member.to(merged) for member in like))
        return decompose_affine(merged, like) if self.affine else (merged,)


def plan_units(dtypes: Mapping[str, torch.dtype], model_type: str) -> tuple[Unit, ...]:
    """The units of a model with these tensors, in the order of the tensors' names.

    Copied are integers and booleans (counters, indices), Whisper's sinusoidal encoder positions and rotary frequencies.
    """
    units: list[Unit] = []
    for name in sorted(dtypes):
        stem = name.removesuffix(DIRECTION)
        if stem != name and stem + MAGNITUDE in dtypes:
            continue  # came with its magnitude, which sorts before it
        stem = name.removesuffix(MAGNITUDE)
        if stem != name and stem + DIRECTION in dtypes:
            units.append(Unit(f"{stem}.weight", (name, stem + DIRECTION), weight_normed=True))
        else:
            units.append(Unit(name, (name,), copied=not dtypes[name].is_floating_point or _is_constant(name, model_type)))
    return tuple(units)


def is_variance(name: str) -> bool:
    """Whether a parameter is batch normalisation's running variance (Parakeet has it), which must stay positive."""
    return name.endswith(".running_var")


def unit_shapes(units: Sequence[Unit], shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The shape of every unit as methods see it, by name; ``shapes``: of the stored tensors."""
    return {unit.name: affine_shape(unit, shapes) if unit.affine else shapes[unit.members[-1]] for unit in units}


def affine_units(units: Sequence[Unit], shapes: Mapping[str, Sequence[int]]) -> tuple[Unit, ...]:
    """The linear maps among ``units``, [W | b] each: weights of two or three dimensions, with the bias of as many rows."""
    known = {unit.name for unit in units}
    found = []
    for unit in units:
        stem = unit.name.removesuffix(".weight")
        if stem == unit.name or unit.members != (unit.name,) or len(shapes[unit.name]) not in (2, 3):
            continue
        bias = f"{stem}.bias"
        joins = bias in known and tuple(shapes[bias]) == (shapes[unit.name][0],)
        found.append(Unit(unit.name, (unit.name, bias) if joins else (unit.name,), affine=True))
    return tuple(found)


def affine_shape(unit: Unit, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """[out, in × kernel], one column more with a bias, of a linear map's unit."""
    rows, *rest = shapes[unit.members[0]]
    return rows, math.prod(rest) + len(unit.members) - 1


def compose_affine(members: Sequence[Tensor]) -> Tensor:
    """[W | b]. Shapes: W [O, I] or [O, I, K], b [O] where there is one → [O, I·K] or [O, I·K + 1]."""
    weight, *bias = members
    return torch.cat([weight.flatten(1), *(one[:, None] for one in bias)], dim=1)


def decompose_affine(merged: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Weight and, where ``like`` has one, bias, from [W | b]."""
    weight, *bias = like
    return (merged[:, : merged.shape[1] - len(bias)].reshape(weight.shape), *(merged[:, -1] for _ in bias))


def compose_weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor:
    """g·v/‖v‖. Shapes: g [1, 1, K] (for dim=2, as wav2vec2 has it; other dims likewise), v [O, I, K] → [O, I, K].

    The norm goes over the dimensions along which g has size 1. Where v is zero, so is the result. Scaling v changes nothing,
    so v alone means nothing: what is merged is the product (Salimans & Kingma, arXiv 1602.07868).
    """
    norm = _norm(direction, magnitude.shape)
    return direction * (magnitude / torch.where(norm > 0, norm, 1.0))


def decompose_weight_norm(weight: Tensor, magnitude: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(g, v) with g·v/‖v‖ = ``weight`` and ‖v‖ as that of ``direction``, so that the base comes back as it was stored.

    Shapes: weight, direction [O, I, K], magnitude [1, 1, K] → g [1, 1, K], v [O, I, K]; of ``magnitude``, shape and signs count.
    Where the weight is zero, g is 0 and v stays ``direction``, because v = 0 has no direction and would give NaN.
    """
    norm, scale = _norm(weight, magnitude.shape), _norm(direction, magnitude.shape)
    sign = torch.where(magnitude < 0, -1.0, 1.0)
    stretched = weight * (sign * torch.where(scale > 0, scale, 1.0) / torch.where(norm > 0, norm, 1.0))
    return sign * norm.reshape(magnitude.shape), torch.where(norm > 0, stretched, direction)


def _norm(tensor: Tensor, magnitude_shape: Sequence[int]) -> Tensor:
    reduced = [index for index in range(tensor.ndim) if len(magnitude_shape) == 0 or magnitude_shape[index] == 1]
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=reduced, keepdim=True)
    return norm


def _is_constant(name: str, model_type: str) -> bool:
    if name.endswith(".inv_freq"):
        return True
    return model_type == "whisper" and name.endswith("encoder.embed_positions.weight")
