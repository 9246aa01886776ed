"""What a search tries: a merge by its method and weights, and the candidates that are in every search."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from asrmerge.errors import AsrmergeError, ConfigError
from asrmerge.merging.block import Statistic, is_searchable, needed_statistics, shares_weights
from asrmerge.merging.recipe import GroupRule, Recipe, RecipeExpert
from asrmerge.merging.registry import find_methods, get_method

Kind = Literal["base", "uniform", "expert", "curve", "soup", "search"]
Weight = float | tuple[float, ...]  # several run over the depth, from the first layer to the last

SUM = "task_arithmetic"
DEFAULT_CURVE = (0.2, 0.4, 0.6, 0.8, 1.0)
DIGITS = 3  # of a coefficient: finer differences are lost in the noise of any validation set


class CandidateError(AsrmergeError):
    """One candidate cannot be evaluated, such as for NaN in its weights: its trial fails, the search goes on."""


@dataclass(frozen=True)
class Candidate:
    """One merge of the search's experts. ``weights`` and ``parameters`` are those of the recipe's ``method``.

    ``groups``: structural group → the weights that hold there in place of ``weights``, by expert.
    """

    label: str
    method: str
    weights: Mapping[str, Weight]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "search"
    groups: Mapping[str, Mapping[str, Weight]] = field(default_factory=dict)

    @property
    def tuned(self) -> bool:
        """Whether it is a merge whose coefficients were chosen by its errors, rather than something to compare with."""
        return self.kind in ("curve", "soup", "search")

    def coefficients(self) -> dict[str, float]:
        """What multiplies each expert's task vector.

        Raises:
            ConfigError: the method is not a sum of task vectors, or the coefficients differ within the model.
        """
        weights = self.model_weights()
        if weights is None:
            raise ConfigError(f"the weights of '{self.label}' differ within the model: it has no single coefficients.")
        if self.method == SUM:
            scale = float(self.parameters.get("scale", 1.0))
            return {name: scale * weight for name, weight in weights.items()}
        total = math.fsum(weights.values())
        if self.method == "linear" and self.parameters.get("normalize", True) and total != 0:
            return {name: weight / total for name, weight in weights.items()}
        raise ConfigError(f"'{self.label}' is merged by {self.method}, which is no sum of task vectors: it has no coefficients.")

    def model_weights(self) -> dict[str, float] | None:
        """The weights, where they are the same in the whole model; else None."""
        numbers = {name: weight for name, weight in self.weights.items() if not isinstance(weight, tuple)}
        return None if self.groups or len(numbers) < len(self.weights) else numbers

    def point(self, method: str) -> dict[str, float] | None:
        """What a search tunes of it as a merge by ``method``, by expert; None where it is none.

        Of a method whose weights multiply the task vectors, what multiplies each; of one whose weights are shares of a whole,
        shares and scale in one: scale × number of experts × share.
        """
        weights = self.model_weights()
        if weights is None:
            return None
        if self.kind == "base":
            return dict.fromkeys(self.weights, 0.0)
        if self.method == method and _shares(method):
            return _unshared(weights, float(self.parameters.get("scale", 1.0)))
        if self.method == method and method != SUM:
            scale = float(self.parameters.get("scale", 1.0))
            return {name: scale * weight for name, weight in weights.items()}
        try:
            return self.coefficients() if method == SUM else None
        except ConfigError:
            return None

    def key(self) -> tuple[Any, ...]:
        """The same for candidates that are the same sum of task vectors, whatever their method calls it."""
        try:
            coefficients = self.coefficients()
        except ConfigError:
            content = [{**self.weights}, {**self.parameters}, {group: {**own} for group, own in self.groups.items()}]
            return (self.method, json.dumps(content, sort_keys=True))
        return tuple(sorted((name, round(value, 6) + 0.0) for name, value in coefficients.items()))

    def recipe(self, *, base: str, models: Mapping[str, str], statistics: Mapping[str, str] | None = None) -> Recipe:
        """The recipe that merges it.

        Args:
            models: expert name → folder or hub id.
            statistics: expert name, or ``base`` → folder of its statistics; named in the recipe where the method needs them.
        """
        needed = needed_statistics(get_method(self.method))
        known = dict(statistics or {}) if needed else {}
        experts = tuple(
            RecipeExpert(name=name, model=models[name], weight=weight, statistics=known.get(name))
            for name, weight in self.weights.items()
        )
        of_base = known.get("base") if "fisher" in needed else None
        return Recipe(
            method=self.method,
            base=base,
            base_statistics=of_base,
            experts=experts,
            parameters=dict(self.parameters),
            groups=tuple(GroupRule(group=group, weights=dict(own)) for group, own in self.groups.items()),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``from_json`` gives it back."""
        return {
            "label": self.label,
            "kind": self.kind,
            "method": self.method,
            "weights": dict(self.weights),
            "parameters": dict(self.parameters),
            **({"groups": {group: dict(own) for group, own in self.groups.items()}} if self.groups else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Candidate:
        """What ``to_json`` gave, also after a way through JSON."""
        groups = {group: _weights(own) for group, own in content.get("groups", {}).items()}
        return cls(**{**content, "weights": _weights(content["weights"]), "groups": groups})


def _weights(content: Mapping[str, Any]) -> dict[str, Weight]:
    return {name: tuple(weight) if isinstance(weight, list) else weight for name, weight in content.items()}


def scaled_sum(label: str, coefficients: Mapping[str, float], kind: Kind = "search", method: str = SUM) -> Candidate:
    """base + Σ cₜτₜ, or what another method makes of these coefficients (see ``Candidate.point``)."""
    if not _shares(method):
        return Candidate(label, method, dict(coefficients), {}, kind)
    scale = math.fsum(coefficients.values()) / len(coefficients)
    shares = {name: round(value / scale, 6) if scale else 1.0 for name, value in coefficients.items()}
    return Candidate(label, method, shares, {"scale": scale}, kind)


def check_methods(methods: Sequence[str]) -> None:
    """Check that a search can tune the weights of these methods.

    Raises:
        ConfigError: an unknown method, or one whose weights a search cannot tune.
    """
    usable = [name for name, method in find_methods().items() if is_searchable(method)]
    if not methods:
        raise ConfigError(f"the search has no methods: give one or several of {', '.join(usable)}.")
    for name in methods:
        if not is_searchable(get_method(name)):
            raise ConfigError(
                f"the search tunes how much of each expert there is, which {name} does not say; choose among {', '.join(usable)}."
            )


def statistics_of(methods: Sequence[str]) -> tuple[Statistic, ...]:
    """What must be known of every expert for these methods."""
    return tuple(dict.fromkeys(kind for name in methods for kind in needed_statistics(get_method(name))))


def _shares(method: str) -> bool:
    return shares_weights(get_method(method))


def _unshared(weights: Mapping[str, float], scale: float) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {name: scale * len(weights) * weight / total for name, weight in weights.items()}


def fixed_candidates(
    experts: Sequence[str], curve: Sequence[float] = DEFAULT_CURVE, methods: Sequence[str] = (SUM,)
) -> tuple[Candidate, ...]:
    """The base, the uniform average, each expert alone, and the points of the λ curves that are none of these.

    There is a curve of base + λ Σ τₜ, and one with equal weights λ for each further method. The base comes first, because
    constraints are relative to it.
    """
    linear = {"normalize": True}
    share = {name: 1 / len(experts) for name in experts}
    candidates = [scaled_sum("base", dict.fromkeys(experts, 0.0), "base")]
    candidates.append(Candidate("uniform average", "linear", share, linear, "uniform"))
    candidates += [
        Candidate(f"expert {one}", "linear", {name: float(name == one) for name in experts}, linear, "expert") for one in experts
    ]
    seen = {candidate.key() for candidate in candidates}
    for scale in sorted(set(curve)):
        point = curve_point(experts, scale)
        if point.key() not in seen:
            seen.add(point.key())
            candidates.append(point)
    for method in methods:
        if method != SUM:
            for scale in sorted(set(curve) - {0.0}):
                candidates.append(scaled_sum(f"{method} λ = {scale:g}", dict.fromkeys(experts, float(scale)), "curve", method))
    return tuple(candidates)


def curve_point(experts: Sequence[str], scale: float) -> Candidate:
    """base + λ Σ τₜ for λ = ``scale``."""
    return scaled_sum(f"λ = {scale:g}", dict.fromkeys(experts, float(scale)), "curve")


def soup_of(members: Sequence[str], experts: Sequence[str]) -> Candidate:
    """The uniform average of some of the experts."""
    weights = {name: float(name in members) for name in experts}
    return Candidate(f"soup of {', '.join(members)}", "linear", weights, {"normalize": True}, "soup")
