"""Recipes whose coefficients are learnt from audio, and the plain recipe that comes of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from asrmerge.errors import ConfigError
from asrmerge.files import hash_content
from asrmerge.learning.method import PLACES, WHOLE_MODEL, holds_out
from asrmerge.learning.registry import get_learning_method, learning_method_names
from asrmerge.merging.block import Parameters
from asrmerge.merging.recipe import Dtype, GroupRule, Name, Recipe, RecipeExpert
from asrmerge.validation import Section, suggest, validate


class LearningExpert(Section):
    """One fine-tune.

    Attributes:
        name: in the recipe, and of its domain.
        model: folder or hub id, also with a LoRA adapter.
        audio: corpus of its domain, ``[FORMAT:]PLACE[,option=value…]``: validation audio, never the test's.
        weight: where its coefficients start, in place of the method's own start; its share, where the method has no coefficients.
    """

    name: Name
    model: Name
    audio: Name
    weight: float | None = None


class LearningRecipe(Section):
    """Method, models and audio of one merge that is learnt. Relative paths count from the working directory."""

    method: Name
    base: Name
    experts: tuple[LearningExpert, ...] = Field(min_length=1)
    audio: dict[Name, Name] = Field(
        default_factory=dict, description="corpora of further domains, without an expert: general speech that is to be kept"
    )
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    held_out: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="share of each corpus, drawn by the seed, that decides what is kept; never learnt from",
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    language: str | None = Field(default=None, description="what is spoken, for multilingual Whisper")
    donor: Name | None = None
    dtype: Dtype | None = None
    cache: str = Field(default="~/.cache/asrmerge", description="folder for audio of data sets")

    @model_validator(mode="after")
    def _names_fit(self) -> LearningRecipe:
        names = [expert.name for expert in self.experts]
        for name in [*names, *self.audio]:
            if [*names, *self.audio].count(name) > 1:
                raise ValueError(f"the name {name} is given to two experts or domains; give each its own")
        if self.donor is not None and self.donor not in (*names, "base"):
            raise ValueError(f"the donor '{self.donor}' is not one of the models; {suggest(self.donor, [*names, 'base'])}")
        return self

    @classmethod
    def from_content(cls, content: Any, place: str = "recipe") -> LearningRecipe:
        """The recipe in what a YAML file holds, its method's parameters included; ``place`` opens the messages.

        Raises:
            ConfigError: an unknown key, method or parameter, or a wrong value; one sentence with place, key and remedy.
        """
        recipe = validate(cls, content, place)
        recipe.method_parameters(place)
        if "held_out" in recipe.model_fields_set and not recipe.holds_out:
            raise ConfigError(f"{place}: held_out: {recipe.method} learns from all of the audio; leave the key out.")
        return recipe

    @property
    def holds_out(self) -> bool:
        """Whether the method decides by a part of the audio that it does not learn from."""
        return holds_out(get_learning_method(self.method))

    def to_yaml(self) -> str:
        """The recipe as YAML; ``from_content`` of what it holds gives it back."""
        unused = set() if self.holds_out else {"held_out"}
        text: str = yaml.safe_dump(self.model_dump(mode="json", exclude_none=True, exclude=unused), sort_keys=False)
        return text

    def method_parameters(self, place: str = "recipe") -> Parameters:
        """The parameters as the method's own type, defaults filled in.

        Raises:
            ConfigError: an unknown method or parameter, or a value out of bounds.
        """
        try:
            method = get_learning_method(self.method)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        return validate(method.parameters, self.parameters, f"{place}: parameters of {self.method}")

    def hash(self) -> str:
        """SHA-256 of what the recipe says, defaults filled in; of models and audio, their names only, not their content."""
        return hash_content(self.model_dump(mode="json") | {"parameters": self.method_parameters().model_dump(mode="json")})

    def plain(self, coefficients: Mapping[str, Mapping[str, float]]) -> Recipe:
        """The recipe of task arithmetic that merges with these coefficients: what is to be merged, kept and read.

        Args:
            coefficients: group as recipes name it, ``*`` for the whole model → expert → coefficient. Where several groups hold a
                parameter, the longest name counts. An expert's own weight is the mean over the groups: it holds only where no
                expert has changed anything.
        """
        rules = sorted((group for group in coefficients if group != WHOLE_MODEL), key=lambda group: (group.count("."), group))
        means = {
            expert.name: round(sum(row[expert.name] for row in coefficients.values()) / len(coefficients), PLACES)
            for expert in self.experts
        }
        return Recipe(
            method="task_arithmetic",
            base=self.base,
            experts=tuple(RecipeExpert(name=one.name, model=one.model, weight=means[one.name]) for one in self.experts),
            groups=tuple(
                GroupRule(group=group, weights={one.name: coefficients[group][one.name] for one in self.experts})
                for group in rules
            ),
            donor=self.donor,
            dtype=self.dtype,
        )


def is_learning_recipe(content: Any) -> bool:
    """Whether what a recipe's file holds is learnt from audio: by its method, or by the keys that only such recipes have."""
    if not isinstance(content, dict):
        return False
    if content.get("method") in learning_method_names() or "held_out" in content:
        return True
    experts = content.get("experts")
    return isinstance(experts, list) and any(isinstance(expert, dict) and "audio" in expert for expert in experts)
