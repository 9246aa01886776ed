"""mergekit's methods and parameters in our terms, and its settings: numbers, lists over the layers, lists of conditions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from asrmerge.errors import ConfigError
from asrmerge.merging.gradients import at_position
from asrmerge.validation import suggest

Settings = Mapping[str, Any] | None


class Condition(NamedTuple):
    """A value for the tensors that have these parts in their names; without, for all others."""

    tensor: str | None
    value: Any


Conditions = tuple[Condition, ...]
"""The first that holds counts; the last one holds everywhere."""


class Fixed(NamedTuple):
    """The only value that our method has."""

    value: bool
    remedy: str


@dataclass(frozen=True)
class Translation:
    """What one of mergekit's methods is here, under the same name.

    Attributes:
        parameters: mergekit's name → our name and mergekit's default.
        models: who takes part: the models without the base, the base among them, or the base and one other.
        weighted: whether models have weights.
        fixed: parameters that we have one value of.
        constant: parameters of ours that mergekit has one value of.
    """

    parameters: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    models: Literal["experts", "with base", "base and one"] = "experts"
    needs_base: bool = True
    weighted: bool = True
    fixed: Mapping[str, Fixed] = field(default_factory=dict)
    constant: Mapping[str, Any] = field(default_factory=dict)


_SCALE = {"lambda": ("scale", 1.0)}
_DENSITY = {"density": ("density", 1.0), **_SCALE}
_SAMPLED = {"epsilon": ("epsilon", 0.15), **_DENSITY}
_BANDED = {"gamma": ("gamma", 0.01), **_DENSITY}
_RESCALED = {"rescale": Fixed(True, "leave it out, and multiply lambda by the density")}
_UNSCALED = {"rescale": Fixed(False, "leave it out, and raise lambda")}

METHODS: Mapping[str, Translation] = {
    "linear": Translation({"normalize": ("normalize", True)}, "with base", needs_base=False),
    "task_arithmetic": Translation(_SCALE),
    "ties": Translation({"normalize": ("normalize", True), **_DENSITY}, fixed=_UNSCALED, constant={"scope": "tensor"}),
    "dare_linear": Translation(_DENSITY, fixed=_RESCALED),
    "dare_ties": Translation({"normalize": ("normalize", False), **_DENSITY}, fixed=_RESCALED),
    "della": Translation({"normalize": ("normalize", True), **_SAMPLED}, fixed=_RESCALED),
    "della_linear": Translation(_SAMPLED, fixed=_RESCALED),
    "breadcrumbs": Translation(_BANDED, fixed=_UNSCALED),
    "breadcrumbs_ties": Translation({"normalize": ("normalize", False), **_BANDED}, fixed=_UNSCALED),
    "model_stock": Translation(
        weighted=False, fixed={"filter_wise": Fixed(False, "leave it out: there is one ratio per tensor here")}
    ),
    "sce": Translation({"select_topk": ("density", 1.0)}, weighted=False),
    "slerp": Translation({}, "base and one", weighted=False),
    "nuslerp": Translation(needs_base=False),
    "karcher": Translation(
        {"max_iter": ("maximum_iterations", 10), "tol": ("tolerance", 1e-5)}, "with base", needs_base=False, weighted=False
    ),
    "passthrough": Translation({"scale": ("scale", 1.0)}, needs_base=False, weighted=False),
}

PER_MODEL = {"density", "gamma", "epsilon", "scale"}  # which here are the method's

# Taken and, as in mergekit, without effect where the method has no use for them; int8_mask never changes a result.
KNOWN = {
    *("weight", "t", "int8_mask", "nuslerp_flatten", "nuslerp_row_wise"),
    *(name for method in METHODS.values() for name in (*method.parameters, *method.fixed)),
}


def check_known(settings: Settings, place: str) -> None:
    """Refuse what mergekit has no such parameter of.

    Raises:
        ConfigError: a name that is not known.
    """
    for name in settings or {}:
        if name not in KNOWN:
            raise ConfigError(f"{place}: unknown parameter '{name}'; {suggest(name, KNOWN)}.")


def resolve(name: str, scopes: Iterable[Settings], place: str, default: Any = None) -> Conditions:
    """The conditions for a parameter, those of the first scope first; the last one holds everywhere.

    Raises:
        ConfigError: a setting of another form, or none that holds everywhere and no default.
    """
    found: list[Condition] = []
    for scope in scopes:
        for condition in _read(name, (scope or {}).get(name), place):
            found.append(condition)
            if condition.tensor is None:
                return tuple(found)
    if default is None:
        raise ConfigError(
            f"{place}: the parameter '{name}' is missing or holds for some tensors only; add a value for the others."
        )
    return (*found, Condition(None, default))


def interpolate(conditions: Conditions, position: float | None) -> Conditions:
    """The conditions with the lists' values at ``position``; as they are without."""
    if position is None:
        return conditions
    return tuple(Condition(one.tensor, at_position({"": one.value}, position)[""]) for one in conditions)


def plain(name: str, conditions: Conditions, place: str, remedy: str) -> Any:
    """The value, where it is one for the whole model.

    Raises:
        ConfigError: there are several.
    """
    if len(conditions) > 1 or isinstance(conditions[0].value, list):
        raise ConfigError(f"{place}: the parameter '{name}' can have one value only; {remedy}.")
    return conditions[0].value


def _read(name: str, setting: Any, place: str) -> list[Condition]:
    if setting is None or setting == []:
        return []
    if isinstance(setting, list) and not any(isinstance(one, dict) for one in setting):
        setting = {"value": setting}  # over the layers
    found = []
    for one in setting if isinstance(setting, list) else [setting]:
        if not isinstance(one, dict):
            one = {"value": one}
        value, tensor = one.get("value"), one.get("filter")
        if "value" not in one or one.keys() - {"value", "filter"} or isinstance(value, dict):
            raise ConfigError(
                f"{place}: the parameter '{name}' has {one}; "
                "give a value, a list over the layers, or a list with 'filter' and 'value' in each entry."
            )
        read = [_number(name, item, place) for item in value] if isinstance(value, list) else _number(name, value, place)
        found.append(Condition(None if tensor in (None, "*") else str(tensor).strip("."), read))
    return found


def _number(name: str, value: Any, place: str) -> float:
    """A finite number, or true or false. YAML reads 1e-5, without a point, as a string."""
    try:
        number: float = float(value) if isinstance(value, str) else value
        finite = math.isfinite(number)
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        raise ConfigError(f"{place}: the parameter '{name}' is {value!r}; give a finite number, or true or false.")
    return number
