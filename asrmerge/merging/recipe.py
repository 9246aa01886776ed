"""Recipes: which models are merged, by which method, with which weights; YAML both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from asrmerge.errors import ConfigError
from asrmerge.files import hash_content
from asrmerge.merging.block import Parameters
from asrmerge.merging.registry import get_method
from asrmerge.validation import validate

Name = Annotated[str, Field(min_length=1)]


class RecipeExpert(BaseModel):
    """One fine-tune: its name, its folder or hub id, its weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    model: Name
    weight: float = Field(default=1.0, allow_inf_nan=False)


class Recipe(BaseModel):
    """Method, models and weights of one merge. Relative paths count from the working directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Name
    base: Name | None = None
    experts: tuple[RecipeExpert, ...] = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("experts")
    @classmethod
    def _names_differ(cls, experts: tuple[RecipeExpert, ...]) -> tuple[RecipeExpert, ...]:
        names = [expert.name for expert in experts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]} is given to two experts; give each its own")
        return experts

    @classmethod
    def from_yaml(cls, text: str, place: str = "recipe") -> Recipe:
        """Read a recipe, its method's parameters included; ``place`` opens the messages.

        Raises:
            ConfigError: no YAML, an unknown key or method, or a wrong value; one sentence with place, key and remedy.
        """
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{place} is not valid YAML ({' '.join(str(error).split())}): correct it there.") from error
        recipe = validate(cls, content, place)
        recipe.method_parameters(place)
        return recipe

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            ConfigError: the file cannot be read, or as in ``from_yaml``.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): give a recipe in YAML.") from error
        return cls.from_yaml(text, str(path))

    def to_yaml(self) -> str:
        """The recipe as YAML; ``from_yaml`` gives it back."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        if all(line.isprintable() for line in text.split("\n")):
            return text
        # Unescaped, characters that count as line breaks in YAML (U+0085, U+2028) would come back as spaces.
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def method_parameters(self, place: str = "recipe") -> Parameters:
        """The parameters as the method's own type, defaults filled in.

        Raises:
            ConfigError: an unknown method or parameter, or a value out of bounds.
        """
        try:
            method = get_method(self.method)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        return validate(method.parameters, self.parameters, f"{place}: parameters of {self.method}")

    def hash(self) -> str:
        """SHA-256 of what the recipe says, defaults filled in; of the models, their names only, not their content."""
        content = self.model_dump(mode="json")
        return hash_content(content | {"parameters": self.method_parameters().model_dump(mode="json")})
