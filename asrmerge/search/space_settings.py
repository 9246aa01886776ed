"""The space of a search as users write it, and what is searched where they say nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Method, shares_weights
from asrmerge.merging.registry import find_methods, get_method
from asrmerge.merging.structure import matches
from asrmerge.merging.tuning import tuned
from asrmerge.search.space import IN_GROUP, LAST, Dimension, MethodSpace, Space
from asrmerge.validation import suggest

WEIGHTS = "weights"
_UNSEARCHABLE = "passthrough"
Methods = Sequence[str] | Mapping[str, Mapping[str, Any] | None]


def make_space(
    methods: Methods,
    experts: Sequence[str],
    *,
    groups: Sequence[str] = (),
    depth: bool = False,
    known_groups: Sequence[str] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Space:
    """The space that the user's words describe.

    Of each method, ``weights`` and parameters may be given: a number or word is fixed; ``[low, high]`` is a range;
    ``{range: [low, high], log: true}`` one in logarithmic steps; ``{choices: [a, b]}`` picks. ``weights`` may differ by expert.
    What is not given has the method's own range (see :class:`~asrmerge.merging.tuning.Tuned`), or stays at its default.

    Args:
        groups: structural groups in which every expert has a weight of its own.
        depth: whether every weight is two: in the first and in the last layer.
        known_groups: of the model, to check ``groups`` by.
        bounds: of every weight, in place of the methods' own.

    Raises:
        ConfigError: an unknown method, parameter, expert or group, or a range that is none.
    """
    if not methods:
        raise ConfigError(f"the search has no methods: give one or several of {', '.join(_usable(len(experts)))}.")
    for group in groups:
        if known_groups is not None and not any(matches(one, group) for one in known_groups):
            raise ConfigError(f"no parameter of this model is in the group '{group}'; {suggest(group, known_groups)}.")
    given = methods if isinstance(methods, Mapping) else dict.fromkeys(methods, None)
    spaces = [_method_space(name, own or {}, tuple(experts), tuple(groups), depth, bounds) for name, own in given.items()]
    return Space(tuple(spaces))


def _method_space(
    name: str,
    given: Mapping[str, Any],
    experts: tuple[str, ...],
    groups: tuple[str, ...],
    depth: bool,
    bounds: tuple[float, float] | None,
) -> MethodSpace:
    method = get_method(name)
    wanted = getattr(method, "expert_count", None)
    if name == _UNSEARCHABLE or (wanted is not None and wanted != len(experts)):
        why = (
            "puts layers together" if name == _UNSEARCHABLE else f"merges exactly {wanted} experts, and there are {len(experts)}"
        )
        raise ConfigError(f"a search cannot use {name}, which {why}; choose among {', '.join(_usable(len(experts)))}.")
    if (groups or depth) and not getattr(method, "weights_multiply", False):
        raise ConfigError(
            f"the weights of {name} are shares of the whole model: leave it out, or leave out 'groups' and 'depth'."
        )
    own_range: tuple[float, float] = getattr(method, "weight_range", (0.0, 1.0))
    free, fixed_weights = _weights(name, given.get(WEIGHTS), experts, bounds or own_range, wanted == 1)
    if fixed_weights and (groups or depth):
        raise ConfigError(f"{name}: with 'groups' or 'depth', every weight is searched; give no fixed ones.")
    free = [
        dimension
        for one in free
        for place in ("", *(f"{IN_GROUP}{group}" for group in groups))
        for dimension in _over_depth(one, place, depth)
    ]
    parameters, fixed = _parameters(method, {key: value for key, value in given.items() if key != WEIGHTS}, bool(free))
    defaults = {one.name: _default(method, one) for one in parameters}
    return MethodSpace(name, experts, tuple(free), tuple(parameters), fixed, fixed_weights, defaults, groups, depth)


def _over_depth(one: Dimension, place: str, depth: bool) -> list[Dimension]:
    names = [f"{one.name}{place}", f"{one.name}{place}{LAST}"] if depth else [f"{one.name}{place}"]
    return [Dimension(name, one.low, one.high) for name in names]


def _weights(
    method: str, given: Any, experts: tuple[str, ...], bounds: tuple[float, float], alone: bool
) -> tuple[list[Dimension], dict[str, float]]:
    if given is None and alone:
        return [], dict.fromkeys(experts, 1.0)
    by_expert = given if isinstance(given, Mapping) and not {"range", "choices"} & set(given) else dict.fromkeys(experts, given)
    for name in by_expert:
        if name not in experts:
            raise ConfigError(f"{method}: there is no expert '{name}' to weigh; {suggest(name, experts)}.")
    free, fixed = [], {}
    for expert in experts:
        wish = by_expert.get(expert)
        if isinstance(wish, (int, float)) and not isinstance(wish, bool):
            fixed[expert] = float(wish)
        else:
            free.append(_range(f"{method}: the weight of '{expert}'", expert, wish if wish is not None else list(bounds)))
    return free, fixed


def _parameters(method: Method, given: Mapping[str, Any], weighs: bool) -> tuple[list[Dimension], dict[str, Any]]:
    fields: Mapping[str, FieldInfo] = method.parameters.model_fields
    for name in given:
        if name not in fields:
            raise ConfigError(f"{method.name} has no parameter '{name}'; {suggest(name, [WEIGHTS, *fields])}.")
    free: list[Dimension] = []
    fixed: dict[str, Any] = {}
    for name, field in fields.items():
        place = f"{method.name}: '{name}'"
        if name not in given:
            mark = tuned(field)
            if mark is not None:
                free.append(Dimension(name, mark.low, mark.high, mark.log, field.annotation is int))
            continue
        if not isinstance(given[name], (list, tuple, Mapping)):
            _check(method, name, given[name], place)
            fixed[name] = given[name]
            continue
        found = _range(place, name, given[name], integer=field.annotation is int)
        if name == "scale" and weighs:
            raise ConfigError(f"{place} says the same as the weights, which are searched: fix one of them.")
        for value in found.choices or (found.at(0.0), found.at(1.0)):
            _check(method, name, value, place)
        free.append(found)
    if shares_weights(method) and "scale" in fixed:
        raise ConfigError(f"{method.name}: 'scale' is searched with the weights, whose mean it is: leave it out.")
    return free, fixed


def _range(place: str, name: str, given: Any, integer: bool = False) -> Dimension:
    log = False
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - {"range", "log", "choices"})
        if unknown:
            raise ConfigError(f"{place} has the unknown key '{unknown[0]}': give 'range' and 'log', or 'choices'.")
        if "choices" in given:
            choices = given["choices"]
            if not isinstance(choices, (list, tuple)) or len(choices) < 2:
                raise ConfigError(f"{place} has no choice: list two values or more.")
            return Dimension(name, choices=tuple(choices))
        given, log = given.get("range"), bool(given.get("log", False))
    numbers = given if isinstance(given, (list, tuple)) else []
    if len(numbers) != 2 or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in numbers):
        raise ConfigError(f"{place} must be a number, or a range of two such as [0.1, 0.9]; it is {given}.")
    low, high = map(float, numbers)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{place} must have two finite bounds, the lower first; it has {low:g} and {high:g}.")
    if log and low <= 0:
        raise ConfigError(f"{place} cannot have logarithmic steps from {low:g}: give a lower bound above 0.")
    return Dimension(name, low, high, log, integer)


def _check(method: Method, name: str, value: Any, place: str) -> None:
    try:
        method.parameters.model_validate({name: value})
    except ValidationError as error:
        raise ConfigError(f"{place} cannot be {value}: {error.errors()[0]['msg']}.") from error


def _default(method: Method, dimension: Dimension) -> Any:
    return dimension.clip(method.parameters.model_fields[dimension.name].default)


def _usable(experts: int) -> list[str]:
    return [
        name
        for name, method in find_methods().items()
        if name != _UNSEARCHABLE and getattr(method, "expert_count", experts) == experts
    ]
