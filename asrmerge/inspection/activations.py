"""Activations of a merged model beside those of its experts, from statistics that were collected of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import StatisticsError
from asrmerge.inspection.diagnosis import DomainActivations, LayerDiagnosis
from asrmerge.inspection.groups import depth, layer_of
from asrmerge.merging.statistics import statistics_file
from asrmerge.merging.structure import plan_places

_VARIANCE, _RANK = ".variance", ".effective_rank"
_QUIET = 0.25  # of the experts' variance: half of their standard deviation


@dataclass(frozen=True, eq=False)
class Activations:
    """Of one model on one domain's audio.

    Attributes:
        variances: of every linear map's and layer's outputs, by module, float64 [units].
        effective_ranks: of every layer's outputs, by module.
    """

    variances: Mapping[str, Tensor]
    effective_ranks: Mapping[str, float]


def read_activations(folder: Path) -> Activations:
    """Read ``folder/activations.safetensors``.

    Raises:
        CheckpointError: it is missing or corrupt.
        StatisticsError: a figure in it is NaN or Inf.
    """
    reader = SafetensorsReader(statistics_file(folder, "activations"))
    found = {name: reader.read(name).to(torch.float64) for name in reader.names() if name.endswith((_VARIANCE, _RANK))}
    for name, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise StatisticsError(f"{reader.path}: {name} is NaN or Inf, for activations are too large: check the model.")
    return Activations(
        variances={name.removesuffix(_VARIANCE): value for name, value in found.items() if name.endswith(_VARIANCE)},
        effective_ranks={name.removesuffix(_RANK): float(value) for name, value in found.items() if name.endswith(_RANK)},
    )


def compare_activations(
    merged: Mapping[str, Activations], experts: Mapping[str, Activations], model_type: str
) -> tuple[LayerDiagnosis, ...]:
    """Every layer that all have, in the order of the forward pass; without norms.

    Args:
        merged, experts: by domain, the same domains in both; of ``experts``, each domain's own.
        model_type: as in ``config.json``.
    """
    every = [*merged.values(), *experts.values()]
    layers = {name for name in every[0].effective_ranks if all(name in one.effective_ranks for one in every)}
    places = plan_places({name: () for name in layers}, model_type)
    named = {name: layer for name in layers if (layer := layer_of(places[name])) is not None}
    return tuple(
        _compare_layer(named[name], name, merged, experts) for name in sorted(named, key=lambda module: depth(named[module]))
    )


def _compare_layer(
    layer: str, module: str, merged: Mapping[str, Activations], experts: Mapping[str, Activations]
) -> LayerDiagnosis:
    domains = {
        name: DomainActivations(
            variance=float(one.variances[module].sum()),
            expert_variance=float(experts[name].variances[module].sum()),
            effective_rank=one.effective_ranks[module],
            expert_effective_rank=experts[name].effective_ranks[module],
        )
        for name, one in merged.items()
    }
    figures = list(domains.values())
    variance, expert_variance = sum(one.variance for one in figures), sum(one.expert_variance for one in figures)
    rank = sum(one.effective_rank for one in figures) / len(figures)
    expert_rank = sum(one.expert_effective_rank for one in figures) / len(figures)
    quiet = _quiet_units(module, [*merged.values()], [experts[name] for name in merged])
    units = sum(len(flags) for flags in quiet.values())
    shares = {name: float(flags.double().mean()) for name, flags in quiet.items()}
    quietest = max((name for name in shares if shares[name]), key=lambda name: shares[name], default=None)
    return LayerDiagnosis(
        layer=layer,
        variance_ratio=ratio(variance, expert_variance),
        effective_rank=rank,
        expert_effective_rank=expert_rank,
        rank_ratio=ratio(rank, expert_rank),
        quiet_units=sum(int(flags.sum()) for flags in quiet.values()) / units if units else 0.0,
        quietest_map=quietest,
        quietest_units=shares[quietest] if quietest is not None else 0.0,
        domains=domains,
    )


def _quiet_units(layer: str, merged: Sequence[Activations], experts: Sequence[Activations]) -> dict[str, Tensor]:
    """Of every map inside of ``layer``, by its name there: which units vary less than half as much as in the experts [units]."""
    every = [*merged, *experts]
    flags = {}
    for name in every[0].variances:
        if not name.startswith(f"{layer}.") or len({one.variances[name].shape for one in every if name in one.variances}) != 1:
            continue
        if all(name in one.variances for one in every):
            own, theirs = (torch.stack([one.variances[name] for one in side]).sum(0) for side in (merged, experts))
            flags[name.removeprefix(f"{layer}.")] = own < _QUIET * theirs
    return flags


def ratio(value: float, of: float) -> float | None:
    """None where there is nothing to compare with."""
    return value / of if of > 0 and math.isfinite(value / of) else None
