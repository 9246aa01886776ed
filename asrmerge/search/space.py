"""What a search may choose: methods, the weights of the experts, of groups and over the depth, and the methods' parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from asrmerge.errors import ConfigError
from asrmerge.merging.block import shares_weights
from asrmerge.merging.registry import get_method
from asrmerge.search.candidate import DIGITS, Candidate, Kind, Weight
from asrmerge.validation import suggest

Values = Mapping[str, Any]  # dimension → value

IN_GROUP = "@"  # medical@encoder: the weight of the expert in a group
LAST = "@last"  # medical@last: its weight in the last layer


@dataclass(frozen=True)
class Dimension:
    """One number to choose between two bounds, or one of several values.

    Attributes:
        name: unique inside its method: an expert's, ``EXPERT@GROUP``, ``EXPERT@last``, or a parameter's.
        log: whether small differences count more near the lower bound.
        integer: whole numbers only.
        choices: what to choose among, in place of bounds.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def clip(self, value: Any) -> Any:
        """The nearest value of the dimension; a choice that is none becomes the first."""
        if self.choices:
            return value if value in self.choices else self.choices[0]
        bounded = min(max(float(value), self.low), self.high)
        return round(bounded) if self.integer else bounded

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of its own."""
        return value in self.choices if self.choices else self.low <= float(value) <= self.high

    def place(self, value: Any) -> float:
        """Where between the bounds a number lies: 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (float(value) - self.low) / (self.high - self.low)

    def at(self, place: float) -> Any:
        """The number at a place between the bounds."""
        if self.log:
            return self.clip(self.low * (self.high / self.low) ** place)
        return self.clip(self.low + place * (self.high - self.low))

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """As Optuna has it."""
        if self.choices:
            return optuna.distributions.CategoricalDistribution(self.choices)
        if self.integer:
            return optuna.distributions.IntDistribution(round(self.low), round(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True)
class MethodSpace:
    """The merges of one method.

    Attributes:
        weights: dimensions of the experts' weights. Of a method whose weights are shares, they are coefficients as
            :func:`~asrmerge.search.candidate.scaled_sum` takes them.
        parameters: dimensions of its parameters.
        fixed: what the user has given: parameters, and weights by expert.
        defaults: the parameters' own defaults, of the dimensions.
        groups: whose weights are dimensions of their own.
        depth: whether every weight runs over the depth.
    """

    method: str
    experts: tuple[str, ...]
    weights: tuple[Dimension, ...]
    parameters: tuple[Dimension, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    fixed_weights: Mapping[str, float] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    depth: bool = False

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return (*self.weights, *self.parameters)

    @property
    def numeric(self) -> tuple[Dimension, ...]:
        """Those that are no choices."""
        return tuple(one for one in self.dimensions if not one.choices)

    def candidate(self, values: Values, label: str, kind: Kind = "search") -> Candidate:
        """The merge at a point, weights rounded."""
        weights = {**self.fixed_weights, **{one.name: round(float(values[one.name]), DIGITS) + 0.0 for one in self.weights}}
        parameters = {**self.fixed, **{one.name: values[one.name] for one in self.parameters}}
        if shares_weights(get_method(self.method)):
            scale = math.fsum(weights.values()) / len(weights)
            shares = {name: round(value / scale, 6) if scale else 1.0 for name, value in weights.items()}
            return Candidate(label, self.method, shares, {**parameters, "scale": scale}, kind)
        groups = {group: {name: self._weight(weights, name, group) for name in self.experts} for group in self.groups}
        return Candidate(
            label, self.method, {name: self._weight(weights, name) for name in self.experts}, parameters, kind, groups
        )

    def values(self, candidate: Candidate) -> dict[str, Any] | None:
        """Where a candidate lies; None where it is no merge of this space."""
        weights = self._weights_of(candidate)
        if weights is None or any(abs(weights[name] - value) > 1e-6 for name, value in self.fixed_weights.items()):
            return None
        found = {one.name: weights[one.name] for one in self.weights}
        if candidate.kind == "base":
            return {**found, **self.defaults}
        given = {name: value for name, value in candidate.parameters.items() if name not in ("scale", "normalize")}
        own = candidate.method == self.method
        if own and any(given.get(name, self.fixed[name]) != self.fixed[name] for name in self.fixed if name != "scale"):
            return None
        return {**found, **{one.name: given.get(one.name, self.defaults[one.name]) for one in self.parameters}}

    def equal(self, scale: float) -> dict[str, Any]:
        """All weights ``scale`` or what is nearest to it, parameters at their defaults."""
        return {**{one.name: one.clip(scale) for one in self.weights}, **self.defaults}

    def clip(self, values: Values) -> dict[str, Any]:
        """The nearest point of the space, weights rounded."""
        weights = {one.name: one.clip(round(one.clip(values[one.name]), DIGITS)) for one in self.weights}
        return {**weights, **{one.name: one.clip(values[one.name]) for one in self.parameters}}

    def holds(self, values: Values) -> bool:
        """Whether a point lies in the space."""
        return all(one.holds(values[one.name]) for one in self.dimensions)

    def places(self, values: Values) -> tuple[float, ...]:
        """Where a point lies in the unit cube of the numbers."""
        return tuple(one.place(values[one.name]) for one in self.numeric)

    def _weight(self, weights: Mapping[str, float], expert: str, group: str | None = None) -> Weight:
        name = expert if group is None else f"{expert}{IN_GROUP}{group}"
        return (weights[name], weights[f"{name}{LAST}"]) if self.depth else weights[name]

    def _weights_of(self, candidate: Candidate) -> dict[str, float] | None:
        """By dimension; of the same weights everywhere, those of every group and layer."""
        if candidate.model_weights() is None and not self._varies_alike(candidate):
            return None
        return weights_by_dimension(candidate, self.method, self._names())

    def _varies_alike(self, candidate: Candidate) -> bool:
        """Whether its weights differ within the model where those of this space do."""
        parts = (candidate.weights, *candidate.groups.values())
        alike = all(isinstance(weight, tuple) == self.depth for own in parts for weight in own.values())
        return alike and tuple(candidate.groups) == self.groups

    def _names(self) -> list[str]:
        return [*self.fixed_weights, *(one.name for one in self.weights)]


@dataclass(frozen=True)
class Space:
    """The methods that are searched, in the order of the user."""

    methods: tuple[MethodSpace, ...]

    def of(self, method: str) -> MethodSpace:
        """That of one method.

        Raises:
            ConfigError: it is not searched.
        """
        found = {one.method: one for one in self.methods}
        if method not in found:
            raise ConfigError(f"the search has no method '{method}'; {suggest(method, found)}.")
        return found[method]

    def to_json(self) -> dict[str, Any]:
        """As plain values, by which two spaces are told apart."""
        return {
            one.method: {
                "dimensions": {
                    part.name: list(part.choices) if part.choices else [part.low, part.high, *(["log"] if part.log else [])]
                    for part in one.dimensions
                },
                "fixed": {**one.fixed, **one.fixed_weights},
                "groups": list(one.groups),
                "depth": one.depth,
            }
            for one in self.methods
        }


def weights_by_dimension(candidate: Candidate, method: str, names: Iterable[str]) -> dict[str, float] | None:
    """What these dimensions of the experts' weights are in a candidate; None where it is no merge by the method."""
    known, own = get_method(method), candidate.method == method
    has_point = bool(getattr(known, "weights_multiply", False)) or shares_weights(known)
    whole = candidate.point(method) if has_point else candidate.model_weights() if own else None
    if whole is None and not own:
        return None
    found = {}
    for name in names:
        expert, _, group = name.removesuffix(LAST).partition(IN_GROUP)
        weight = whole[expert] if whole is not None else (candidate.groups[group] if group else candidate.weights)[expert]
        found[name] = weight[-1 if name.endswith(LAST) else 0] if isinstance(weight, tuple) else weight
    return found


def distributions(space: MethodSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's view of a method's dimensions, by METHOD.DIMENSION."""
    return {f"{space.method}.{one.name}": one.distribution() for one in space.dimensions}
