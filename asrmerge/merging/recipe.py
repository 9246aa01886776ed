"""Recipes: which models are merged, by which method, with which weights; YAML both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from asrmerge.errors import ConfigError
from asrmerge.files import hash_content
from asrmerge.merging.block import Method, Parameters, needed_statistics
from asrmerge.merging.gradients import Gradient, at_position, knots
from asrmerge.merging.layers import LayerRange, Stack
from asrmerge.merging.registry import get_method
from asrmerge.merging.structure import Place, matches
from asrmerge.validation import Section, suggest, validate

Name = Annotated[str, Field(min_length=1)]
Dtype = Literal["float32", "float16", "bfloat16"]
PASSTHROUGH = "passthrough"


class RecipeExpert(Section):
    """One fine-tune.

    Attributes:
        name: in the recipe.
        model: folder or hub id.
        weight: in the merge.
        statistics: the folder that ``asrmerge stats`` wrote of it, where the method needs one.
        fisher: a file of its Fisher information, in place of the one in ``statistics``.
    """

    name: Name
    model: Name
    weight: Gradient = 1.0
    statistics: Name | None = None
    fisher: Name | None = None


class GroupRule(Section):
    """What is different in one structural group, such as ``encoder``, ``decoder.*.cross`` or ``encoder.3``, or by name.

    ``tensor`` restricts the rule to names that hold one or several whole parts, such as ``self_attn``, ``k_proj.weight`` or
    ``layers.3``: ``encoder`` is not found in ``encoder_attn``. Of a list, all must be there.
    """

    group: Name = "*"
    tensor: tuple[Name, ...] | None = None
    method: Name | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, Gradient] = Field(default_factory=dict)

    @field_validator("tensor", mode="before")
    @classmethod
    def _one_is_a_list(cls, tensor: Any) -> Any:
        return (tensor,) if isinstance(tensor, str) else tensor

    def __str__(self) -> str:
        parts = [] if self.tensor is None else [f"tensors with {' and '.join(self.tensor)} in their names"]
        return ", ".join([*([f"group {self.group}"] if self.group != "*" or not parts else []), *parts])

    def holds(self, place: Place, name: str) -> bool:
        """Whether the parameter of that name, at ``place``, is meant."""
        return matches(place.group, self.group) and all(has_part(name, part) for part in self.tensor or ())


@dataclass(frozen=True, eq=False)
class Choice:
    """Method, parameters and weights (by expert) of one parameter."""

    method: Method
    parameters: Parameters
    weights: Mapping[str, float]


class Recipe(Section):
    """Method, models and weights of one merge. Relative paths count from the working directory.

    Numbers among the parameters and weights may be lists: they run over the depth of the encoder and of the decoder, from the
    first layer to the last. Of several ``groups`` that hold a parameter, later ones go before earlier ones.

    ``layers`` lists, for the encoder, the decoder or both, the layers of the new model. With the method passthrough each range
    names the model that it is taken from, and what lies outside of layers goes with its stack: front end, embeddings and
    positions are the first range's, the last norm and the head the last range's, unless ``outside`` names one model for all of
    them; a stack that isn't listed is the base's (without one, the first expert's). With other methods the same layers are taken
    of every model.
    """

    method: Name
    base: Name | None = None
    base_statistics: Name | None = Field(default=None, description="folder of asrmerge stats with the base's own Fisher")
    experts: tuple[RecipeExpert, ...] = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    groups: tuple[GroupRule, ...] = ()
    layers: dict[Stack, Annotated[tuple[LayerRange, ...], Field(min_length=1)]] | None = None
    outside: Name | None = Field(default=None, description="whose tensors outside of layers passthrough takes")
    donor: Name | None = Field(
        default=None, description="whose tokenizer and configuration files are taken: base or an expert's name"
    )
    dtype: Dtype | None = Field(default=None, description="of the merged weights; the base's if not given")

    @field_validator("experts")
    @classmethod
    def _names_differ(cls, experts: tuple[RecipeExpert, ...]) -> tuple[RecipeExpert, ...]:
        names = [expert.name for expert in experts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]} is given to two experts; give each its own")
        return experts

    @model_validator(mode="after")
    def _names_are_known(self) -> Recipe:
        names = [expert.name for expert in self.experts]
        for rule in self.groups:
            for name in rule.weights:
                if name not in names:
                    raise ValueError(f"the rule for {rule} has a weight for '{name}'; {suggest(name, names)}")
        known = [*names, *(["base"] if self.base is not None else [])]
        sources = [("source", one.source) for listed in (self.layers or {}).values() for one in listed]
        for key, model in [("donor", self.donor), ("outside", self.outside), *sources]:
            if model is not None and model not in known:
                raise ValueError(f"the {key} '{model}' is not one of the models; {suggest(model, known)}")
        return self

    @model_validator(mode="after")
    def _layers_fit_the_method(self) -> Recipe:
        ranges = [one for listed in (self.layers or {}).values() for one in listed]
        given = [key for key in ("fisher", "statistics") for expert in self.experts if getattr(expert, key) is not None]
        if self.layers is not None and given:
            raise ValueError(f"the layers get new numbers, which statistics don't have; leave '{given[0]}' or 'layers' out")
        if self.method != PASSTHROUGH:
            if self.outside is not None or any(one.source is not None for one in ranges):
                raise ValueError(f"{self.method} merges the same layers of every model; leave 'source' and 'outside' out")
        elif len(self.experts) > 1 and (not ranges or any(one.source is None for one in ranges)):
            raise ValueError(
                "passthrough of several models needs 'layers', each range with the 'source' it is taken from; add it"
            )
        return self

    @classmethod
    def from_yaml(cls, text: str, place: str = "recipe") -> Recipe:
        """Read a recipe, its method's parameters included; ``place`` opens the messages.

        mergekit's YAML, known by its key ``merge_method``, is understood too.

        Raises:
            ConfigError: no YAML, an unknown key or method, or a wrong value; one sentence with place, key and remedy.
        """
        return cls.from_content(_parse(text, place), place)

    @classmethod
    def from_content(cls, content: Any, place: str = "recipe") -> Recipe:
        """The recipe in what a YAML file holds; as ``from_yaml``."""
        if isinstance(content, dict) and "merge_method" in content:
            from asrmerge.merging.mergekit_recipe import read_mergekit  # here, because it makes recipes

            return read_mergekit(content, place)
        recipe = validate(cls, content, place)
        recipe.check(place)
        return recipe

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            ConfigError: the file cannot be read, or as ``from_yaml``.
        """
        return cls.from_content(read_yaml(path), str(path))

    def to_yaml(self) -> str:
        """The recipe as YAML; ``from_yaml`` gives it back."""
        content = self._content()
        text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        if all(line.isprintable() for line in text.split("\n")):
            return text
        # Unescaped, characters that count as line breaks in YAML (U+0085, U+2028) would come back as spaces.
        return yaml.safe_dump(content, sort_keys=False)

    def check(self, place: str = "recipe") -> None:
        """Check methods and parameters, at every knot of those that run over the depth.

        Raises:
            ConfigError: an unknown method or parameter, a value out of bounds, or experts that the method has no use for.
        """
        for rule in (None, *self.groups):
            where = place if rule is None else f"{place}: {rule}"
            name = self.method if rule is None or rule.method is None else rule.method
            try:
                method = get_method(name)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
            self._check_experts(method, where)
            given = self._parameters(method.name, [] if rule is None else [rule])
            for knot in knots(given.values()):
                validate(method.parameters, at_position(given, knot), f"{where}: parameters of {method.name}")

    def method_parameters(self, place: str = "recipe") -> Parameters:
        """The parameters that hold for the whole model, as the method's own type, defaults filled in; of lists, the first value.

        Raises:
            ConfigError: as :meth:`check`.
        """
        self.check(place)
        method = get_method(self.method)
        return validate(method.parameters, at_position(self.parameters, 0.0), f"{place}: parameters of {self.method}")

    def rules(self, place: Place, name: str) -> tuple[GroupRule, ...]:
        """The rules that hold for the parameter of that name at ``place``."""
        return tuple(rule for rule in self.groups if rule.holds(place, name))

    def choose(self, place: Place, rules: Sequence[GroupRule]) -> Choice:
        """What holds for a parameter at ``place`` for which these rules hold."""
        name = next((rule.method for rule in reversed(rules) if rule.method is not None), self.method)
        method = get_method(name)
        parameters = at_position(self._parameters(name, rules), place.position)
        weights: dict[str, Gradient] = {expert.name: expert.weight for expert in self.experts}
        for rule in rules:
            weights |= rule.weights
        return Choice(
            method=method,
            parameters=validate(method.parameters, parameters, f"recipe: parameters of {name} in {place.group}"),
            weights={expert: float(value) for expert, value in at_position(weights, place.position).items()},
        )

    def hash(self) -> str:
        """SHA-256 of what the recipe says, defaults filled in; of the models, their names only, not their content."""
        defaults = self.method_parameters().model_dump(mode="json")
        lists = {name: value for name, value in self.parameters.items() if isinstance(value, (list, tuple))}
        return hash_content(self._content() | {"parameters": defaults | lists})

    def _check_experts(self, method: Method, place: str) -> None:
        wanted, given = getattr(method, "expert_count", None), len(self.experts)
        if wanted is not None and given != wanted:
            raise ConfigError(
                f"{place}: {method.name} merges exactly {wanted} of the 'experts', and there are {given}; change either."
            )
        needed = needed_statistics(method)
        for expert in self.experts:
            if any(expert.statistics is None and (kind != "fisher" or expert.fisher is None) for kind in needed):
                raise ConfigError(
                    f"{place}: {method.name} needs the {' and '.join(needed)} of each expert; add the key 'statistics' to "
                    f"{expert.name}, with the folder that asrmerge stats wrote."
                )

    def _parameters(self, method: str, rules: Sequence[GroupRule]) -> dict[str, Any]:
        """Parameters of the whole model, where it is the same method, and those of the rules that name no other."""
        merged = dict(self.parameters) if method == self.method else {}
        for rule in rules:
            if (rule.method or self.method) == method:
                merged |= rule.parameters
        return merged

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json", exclude_none=True)
        if not self.groups:
            del content["groups"]
        return content


def read_yaml(path: Path) -> Any:
    """What a recipe's file holds, not yet checked.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give a recipe in YAML.") from error
    return _parse(text, str(path))


def _parse(text: str, place: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{place} is not valid YAML ({' '.join(str(error).split())}): correct it there.") from error


def has_part(name: str, part: str) -> bool:
    """Whether ``part``, one or several whole parts of a tensor's name, is in ``name``."""
    return f".{part}." in f".{name}."
