"""Merging adapters into one adapter, module by module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge.adapters.factors import FactorBlock, Factors, normalised
from asrmerge.adapters.materialise import adapted_weight, row_norms
from asrmerge.adapters.reading import Adapter
from asrmerge.adapters.registry import DEFAULT_METHOD, get_adapter_method
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.names import DIRECTION, MAGNITUDE, canonical_name, tied_names
from asrmerge.errors import ConfigError, IncompatibleError
from asrmerge.files import hash_content
from asrmerge.merging.block import Parameters
from asrmerge.validation import suggest, validate


@dataclass(frozen=True, eq=False)
class MergedAdapter:
    """A merged adapter in memory, and what it was made of. Adapters are sorted by name.

    Attributes:
        modules_factors: per adapted layer, scaling 1.
        magnitudes: DoRA's, per adapted layer; empty where no adapter has them.
        parameters_saved: the merged parameters that were trained in full.
        base: what gave the values that adapters lack, where it was given.
    """

    modules_factors: Mapping[str, Factors]
    magnitudes: Mapping[str, Tensor]
    parameters_saved: Mapping[str, Tensor]
    adapters: Mapping[str, Adapter]
    weights: Mapping[str, float]
    method: str
    parameters: Parameters
    base: Checkpoint | None

    @property
    def modules(self) -> tuple[str, ...]:
        """The adapted linear layers, sorted."""
        return tuple(sorted(self.modules_factors))

    @property
    def saved(self) -> tuple[str, ...]:
        """The base's parameters that are replaced, sorted."""
        return tuple(sorted(self.parameters_saved))

    def factors(self, module: str) -> Factors:
        """B and A."""
        return self.modules_factors[module]

    def magnitude(self, module: str) -> Tensor | None:
        """DoRA's magnitude [out]; None without."""
        return self.magnitudes.get(module)

    def read_saved(self, parameter: str) -> Tensor:
        """The merged parameter."""
        return self.parameters_saved[parameter]

    def hash(self) -> str:
        """SHA-256 of what it was made of."""
        made_of = [[name, self.weights[name], adapter.hash()] for name, adapter in self.adapters.items()]
        return hash_content([self.method, self.parameters.model_dump(mode="json"), made_of])

    def check_fits(self, base: Checkpoint) -> None:
        """Check that every adapter fits ``base``, unless it is the one that they were merged with.

        Raises:
            IncompatibleError: one doesn't.
        """
        if base is not self.base:
            for adapter in self.adapters.values():
                adapter.check_fits(base)


def merge_adapters(
    adapters: Mapping[str, Adapter],
    weights: Mapping[str, float] | None = None,
    method: str = DEFAULT_METHOD,
    parameters: Mapping[str, Any] | Parameters | None = None,
    base: Checkpoint | None = None,
) -> MergedAdapter:
    """One adapter from several; ranks and adapted layers may differ, and a layer missing from one counts as a zero delta.

    ``weights`` are 1 by default. DoRA's magnitudes, and parameters trained in full, are averaged with the weights divided by
    their sum; where an adapter lacks them, ``base`` gives what they are without it.

    Raises:
        ConfigError: no adapters, an unknown method or parameter, weights that don't fit, or a base that is needed.
        IncompatibleError: adapters of different models.
        CheckpointError: NaN or Inf in an adapter.
    """
    if not adapters:
        raise ConfigError("no adapters to merge: give at least one.")
    chosen = get_adapter_method(method)
    given = parameters.model_dump() if isinstance(parameters, Parameters) else dict(parameters or {})
    checked = validate(chosen.parameters, given, f"parameters of {method}")
    ordered = dict(sorted(adapters.items()))  # so that sums round alike whatever the order listed
    numbers = _check_weights(ordered, weights)
    _check_shapes(ordered)
    if base is None:
        _check_bases(ordered)
    else:
        for adapter in ordered.values():
            adapter.check_fits(base)
    merge = _Inputs(ordered, tuple(numbers.values()), base)
    modules = sorted({module for adapter in ordered.values() for module in adapter.modules})
    factors: dict[str, Factors] = {}
    magnitudes: dict[str, Tensor] = {}
    with torch.no_grad():
        for module in modules:
            block = merge.block(module)
            factors[module] = chosen.merge(block, checked)
            if any(adapter.uses_dora for adapter in ordered.values()):
                magnitudes[module] = merge.magnitude(block)
        parameters_saved = {name: merge.saved(name) for name in sorted({n for one in ordered.values() for n in one.saved})}
    return MergedAdapter(factors, magnitudes, parameters_saved, ordered, numbers, method, checked, base)


@dataclass(frozen=True, eq=False)
class _Inputs:
    adapters: Mapping[str, Adapter]
    weights: tuple[float, ...]
    base: Checkpoint | None

    def block(self, module: str) -> FactorBlock:
        rows, columns = next(one.shape(module) for one in self.adapters.values() if module in one.modules)
        absent = Factors(torch.zeros(rows, 0), torch.zeros(0, columns))
        factors = [one.factors(module) if module in one.modules else absent for one in self.adapters.values()]
        return FactorBlock(module, factors, self.weights, tuple(self.adapters))

    def magnitude(self, block: FactorBlock) -> Tensor:
        """Σ wₜmₜ; without DoRA an adapter's magnitude is what its rows happen to have, ‖W + B·A‖."""
        total = torch.zeros(block.shape[0])
        weights = normalised("the mean of DoRA's magnitudes", self.weights)
        for (name, adapter), factors, weight in zip(self.adapters.items(), block.factors, weights, strict=True):
            magnitude = adapter.magnitude(block.name) if block.name in adapter.modules else None
            if magnitude is None:
                weight_of_base = self._of_base(f"{block.name}.weight", f"{name} has no DoRA magnitude")
                magnitude = row_norms(adapted_weight(weight_of_base, factors, None))
            total.add_(magnitude, alpha=weight)
        return total

    def saved(self, parameter: str) -> Tensor:
        """Σ wₜθₜ; integers, such as counters, are those of the first adapter that has them."""
        first = next(one for one in self.adapters.values() if parameter in one.saved).read_saved(parameter)
        if not first.is_floating_point():
            return first
        if canonical_name(parameter).endswith((MAGNITUDE, DIRECTION)):
            raise ConfigError(f"{parameter} is half of a weight-normed weight and can't be averaged: merge full models instead.")
        total = torch.zeros_like(first)
        weights = normalised("the mean of parameters trained in full", self.weights)
        for (name, adapter), weight in zip(self.adapters.items(), weights, strict=True):
            if parameter in adapter.saved:
                total.add_(adapter.read_saved(parameter), alpha=weight)
            else:
                total.add_(self._of_base(canonical_name(parameter), f"{name} has no {parameter}").to(torch.float32), alpha=weight)
        return total

    def _of_base(self, parameter: str, reason: str) -> Tensor:
        if self.base is None:
            raise ConfigError(f"the adapter {reason}, which other adapters have: name the base, which has the value without it.")
        return self.base.read(tied_names(self.base.config).get(parameter, parameter))


def _check_weights(adapters: Mapping[str, Adapter], weights: Mapping[str, float] | None) -> dict[str, float]:
    given = weights if weights is not None else dict.fromkeys(adapters, 1.0)
    for name, weight in given.items():
        if name not in adapters:
            raise ConfigError(f"unknown adapter '{name}' in the weights; {suggest(name, adapters)}.")
        if not math.isfinite(weight):
            raise ConfigError(f"the weight of '{name}' is {weight}: give a finite number.")
    for name in adapters:
        if name not in given:
            raise ConfigError(f"the adapter '{name}' has no weight: give one, or leave the adapter out.")
    return {name: float(given[name]) for name in adapters}


def _check_shapes(adapters: Mapping[str, Adapter]) -> None:
    """Check that shapes agree where adapters change the same."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, adapter in adapters.items():
        found: dict[str, tuple[int, ...]] = {f"{module}.weight": adapter.shape(module) for module in adapter.modules}
        found |= {parameter: adapter.saved_shape(parameter) for parameter in adapter.saved}
        for parameter, shape in found.items():
            first, expected = shapes.setdefault(parameter, (name, shape))
            if expected != shape:
                raise IncompatibleError(
                    f"{parameter} has shape {list(expected)} in the adapter {first} and {list(shape)} in {name}: "
                    "merge adapters of one base only."
                )


def _check_bases(adapters: Mapping[str, Adapter]) -> None:
    """Check that the adapters name one base; by the end of its path, for folders get moved."""
    bases = {name: adapter.base for name, adapter in adapters.items() if adapter.base is not None}
    for name, base in bases.items():
        first, expected = next(iter(bases.items()))
        if Path(base).name != Path(expected).name:
            raise IncompatibleError(
                f"the adapter {first} was trained on {expected}, and {name} on {base}: merge adapters of one base only, or, if "
                "these are one model under two names, name the base, so that both can be compared with it."
            )
