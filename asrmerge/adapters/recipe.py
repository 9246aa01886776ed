"""Recipes that merge the factors of LoRA adapters, into one adapter or into full weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from asrmerge.adapters.merging import merge_adapters
from asrmerge.adapters.reading import Adapter
from asrmerge.adapters.registry import find_adapter_methods, get_adapter_method
from asrmerge.adapters.writing import write_adapter, write_full
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.errors import ConfigError
from asrmerge.validation import Section, validate

Name = Annotated[str, Field(min_length=1)]


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


def read_adapter_recipe(path: Path) -> AdapterRecipe | None:
    """The recipe in ``path`` where its method merges LoRA factors; None where it merges whole models, or cannot be read.

    Raises:
        ConfigError: an unknown key, a wrong value, two adapters of one name, or full weights without a base.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the reader of other recipes says what is wrong
    if not isinstance(content, dict) or content.get("method") not in find_adapter_methods():
        return None
    recipe = validate(AdapterRecipe, content, str(path))
    method = get_adapter_method(recipe.method)
    validate(method.parameters, recipe.parameters, f"{path}: parameters of {recipe.method}")
    if recipe.output == "full" and recipe.base is None:
        raise ConfigError(f"{path}: full weights need the base that was adapted; add the key 'base', or set output to adapter.")
    if len({expert.name for expert in recipe.experts}) < len(recipe.experts):
        raise ConfigError(f"{path}: two adapters have the same name; give each its own.")
    return recipe


def merge_adapters_to_folder(recipe: AdapterRecipe, output: Path) -> None:
    """Merge into a folder that PEFT loads, or with ``output: full`` one that transformers loads.

    ``output`` stays as it was on any failure.

    Raises:
        ConfigError: weights that the method cannot take, a base that is needed, or an output that is one of the inputs.
        CheckpointError: an adapter is missing or corrupt, or ``output`` holds something else.
        IncompatibleError: adapters of different models.
    """
    base = Checkpoint.open(recipe.base) if recipe.base is not None else None
    merged = merge_adapters(
        {expert.name: Adapter.open(expert.model) for expert in recipe.experts},
        {expert.name: expert.weight for expert in recipe.experts},
        recipe.method,
        recipe.parameters,
        base,
    )
    if recipe.output == "adapter" or base is None:
        write_adapter(output, merged)
    else:
        write_full(output, merged, base)
