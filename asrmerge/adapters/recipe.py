"""Recipes that merge the factors of LoRA adapters, into one adapter or into full weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from asrmerge.adapters.merging import merge_adapters
from asrmerge.adapters.reading import Adapter
from asrmerge.adapters.registry import find_adapter_methods, get_adapter_method
from asrmerge.adapters.writing import check_target, write_adapter, write_full
from asrmerge.errors import ConfigError
from asrmerge.merging.recipe import Name
from asrmerge.merging.references import open_model, split_revision
from asrmerge.validation import Section, validate


class AdapterExpert(Section):
    """One adapter: its name, its folder or hub id, its weight."""

    name: Name
    model: Name
    weight: float = 1.0


class AdapterRecipe(Section):
    """Method, adapters and weights of one merge of LoRA factors; keys are those of a merge of whole models."""

    method: Name
    base: Name | None = None
    experts: tuple[AdapterExpert, ...] = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    output: Literal["adapter", "full"] = "adapter"

    @classmethod
    def from_content(cls, content: Any, place: str) -> AdapterRecipe:
        """The recipe in what a YAML file holds; ``place`` opens the messages.

        Raises:
            ConfigError: an unknown key or method, a wrong value, two adapters of one name, or full weights without a base.
        """
        recipe = validate(cls, content, place)
        try:
            method = get_adapter_method(recipe.method)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        validate(method.parameters, recipe.parameters, f"{place}: parameters of {recipe.method}")
        if recipe.output == "full" and recipe.base is None:
            raise ConfigError(
                f"{place}: full weights need the base that was adapted; add the key 'base', or set output to adapter."
            )
        if len({expert.name for expert in recipe.experts}) < len(recipe.experts):
            raise ConfigError(f"{place}: two adapters have the same name; give each its own.")
        return recipe


def is_adapter_recipe(content: Any) -> bool:
    """Whether what a recipe's file holds is for LoRA factors: by its method, or by the key that only such recipes have."""
    return isinstance(content, dict) and ("output" in content or content.get("method") in list(find_adapter_methods()))


def merge_adapters_to_folder(recipe: AdapterRecipe, output: Path) -> None:
    """Merge into a folder that PEFT loads, or with ``output: full`` one that transformers loads.

    ``output`` stays as it was on any failure.

    Raises:
        ConfigError: weights that the method cannot take, a base that is needed, or an output that is one of the inputs.
        CheckpointError: an adapter is missing or corrupt, or ``output`` holds something else.
        IncompatibleError: adapters of different models.
    """
    base = open_model(recipe.base) if recipe.base is not None else None
    adapters = {expert.name: _open_adapter(expert.model) for expert in recipe.experts}
    full = base if recipe.output == "full" else None
    check_target(output, adapters, full)  # before the work
    weights = {expert.name: expert.weight for expert in recipe.experts}
    merged = merge_adapters(adapters, weights, recipe.method, recipe.parameters, base)
    if full is None:
        write_adapter(output, merged)
    else:
        write_full(output, merged, full)


def _open_adapter(source: str) -> Adapter:
    # A folder whose name holds @ goes before a revision, as for models.
    return Adapter.open(source) if Path(source).expanduser().is_dir() else Adapter.open(*split_revision(source))
