"""Structural groups: the parameters of a model, sorted by where they sit in its module tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

Part = nn.Module | nn.Parameter


def partition(model: nn.Module, claims: Iterable[tuple[str, Part | None]]) -> dict[str, list[str]]:
    """Group → names of its parameters; of the claims on a parameter, the first counts, so specific ones go first.

    Groups without parameters are left out. Names and order are those of ``model.named_parameters()``, where tied parameters occur
    once; groups come in the order of their first parameter.

    Args:
        claims: group and the module or parameter that it claims; ``None`` (a part that this model lacks) claims nothing.
    """
    owner: dict[int, str] = {}
    for group, part in claims:
        for parameter in _parameters(part):
            owner.setdefault(id(parameter), group)
    groups: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(owner[id(parameter)], []).append(name)
    return groups


def names_in(model: nn.Module, parts: Iterable[Part | None]) -> list[str]:
    """Names of the parameters of ``parts``, in the order of ``model.named_parameters()``."""
    wanted = {id(parameter) for part in parts for parameter in _parameters(part)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in wanted]


def norms_in(model: nn.Module) -> list[nn.Module]:
    """The normalisation layers of ``model``, by type."""
    # RMSNorm is missing from older releases of torch.
    kinds = (nn.LayerNorm, nn.GroupNorm, _NormBase, getattr(nn, "RMSNorm", nn.LayerNorm))
    return [module for module in model.modules() if isinstance(module, kinds)]


def _parameters(part: Part | None) -> Iterator[nn.Parameter]:
    if isinstance(part, nn.Parameter):
        yield part
    elif part is not None:
        yield from part.parameters()
