"""mergekit's YAML as a recipe: the same models, methods and numbers, or one sentence that says what is not possible.

Different on purpose: a filter is found in tensors' names as whole parts only (``encoder`` is not in ``encoder_attn``), and one
that no tensor has is refused; lists over the layers end with the last layer's value for the final norm and the head; the methods
are ours, which their descriptions compare with mergekit's; everything is computed in float32, whatever ``dtype`` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from asrmerge.errors import ConfigError
from asrmerge.merging.mergekit_parameters import (
    METHODS,
    PER_MODEL,
    Condition,
    Conditions,
    Settings,
    Translation,
    check_known,
    interpolate,
    plain,
    resolve,
)
from asrmerge.merging.recipe import PASSTHROUGH, Dtype, Recipe
from asrmerge.merging.registry import get_method
from asrmerge.validation import Section, suggest, validate

_T = TypeVar("_T")
_Parameters = dict[str, Any] | None


def _reference(value: Any) -> Any:
    """``path@revision+lora`` from mergekit's long form, in which each part is a mapping."""
    if not isinstance(value, dict):
        return value
    if "path" in value:
        return f"{value['path']}@{value['revision']}" if value.get("revision") else str(value["path"])
    if "model" not in value or value.keys() - {"model", "lora"}:
        raise ValueError("a model is path@revision+lora or has the keys model and lora")
    return "+".join(_reference(value[key]) for key in ("model", "lora") if value.get(key))


_Model = Annotated[str, BeforeValidator(_reference), Field(min_length=1)]


class _Input(Section):
    model: _Model
    parameters: _Parameters = None


class _Source(_Input):
    layer_range: tuple[int, int]


class _Slice(Section):
    sources: tuple[_Source, ...] = Field(min_length=1)
    base_model: _Model | None = None
    residual_weight: float | None = None
    parameters: _Parameters = None


class _Module(Section):
    slices: tuple[_Slice, ...] | None = None
    models: tuple[_Input, ...] | None = None
    parameters: _Parameters = None


class _Tokenizer(Section):
    source: _Model = "union"
    tokens: dict[str, Any] | None = None
    pad_to_multiple_of: int | None = None


class _Configuration(_Module):
    merge_method: str
    base_model: _Model | None = None
    modules: dict[Literal["encoder", "decoder"], _Module] | None = None
    dtype: str | None = None  # that of the result only where there is no out_dtype
    out_dtype: Dtype | None = None
    tokenizer_source: _Model | None = None
    tokenizer: _Tokenizer | None = None
    chat_template: str | None = None
    random_seed: int | None = None  # an option of mergekit's command that many files hold
    name: str | None = None


@dataclass(frozen=True)
class _Region:
    """A part of the model with settings of its own; ``targets``: groups and parts of names, none for the whole model."""

    inputs: Sequence[_Input]
    outer: Sequence[Settings]
    targets: Sequence[tuple[str, tuple[str, ...]]] = ()
    position: float | None = None  # of the layer in its slice, where lists start anew with every slice

    def scopes(self, model: str) -> list[Settings]:
        """The settings for a model, the closest first."""
        return [*(one.parameters for one in self.inputs if one.model == model), *self.outer]


@dataclass(frozen=True)
class _Models:
    base: str | None
    experts: Sequence[str]  # references
    names: Mapping[str, str]  # reference → name in the recipe


def read_mergekit(content: Mapping[str, Any], place: str = "recipe") -> Recipe:
    """The recipe of a mergekit configuration, read from YAML; ``place`` opens the messages.

    Raises:
        ConfigError: a key, a method or a value that has no counterpart here; one sentence with the remedy.
    """
    config = validate(_Configuration, content, place)
    if config.merge_method not in METHODS:
        raise ConfigError(
            f"{place}: merge_method '{config.merge_method}' has no counterpart; {suggest(config.merge_method, METHODS)}."
        )
    method = METHODS[config.merge_method]
    modules = _modules(config, place)
    regions = [region for stack, module in modules.items() for region in _regions(stack, module, config)]
    for region in regions:
        for scope in (*(one.parameters for one in region.inputs), *region.outer):
            check_known(scope, place)
    models = _models(config, method, regions, place)
    recipe: dict[str, Any] = {
        "method": config.merge_method,
        "base": models.base,
        "parameters": dict(method.constant),
        "donor": _donor(config, models, place),
        "dtype": config.out_dtype or config.dtype,
    }
    if config.random_seed is not None and "seed" in get_method(config.merge_method).parameters.model_fields:
        recipe["parameters"]["seed"] = config.random_seed
    if layers := _layers(config, modules, models, place):
        recipe["layers"] = layers
    found = [_translate(config.merge_method, method, region, models, place) for region in regions]
    whole = found[0]
    values = {key: conditions[-1].value for key, conditions in whole.items()}
    recipe["parameters"] |= {name: value for (kind, name), value in values.items() if kind == "parameters"}
    recipe["experts"] = [
        {"name": name, "model": model, "weight": values.get(("weights", name), 1.0)}
        for model, name in ((model, models.names[model]) for model in models.experts)
    ]
    # Where one region differs, all of them need rules: those of the whole model, and of all norms, must not win over them.
    differing = [key for key in whole if any(settings[key] != whole[key] for settings in found)]
    recipe["groups"] = [*_rules([("*", ())], whole, conditional=True)]
    for region, settings in zip(regions, found, strict=True):
        recipe["groups"] += _rules(region.targets, {key: settings[key] for key in differing})
    made = validate(Recipe, {key: value for key, value in recipe.items() if value not in (None, [])}, place)
    try:
        made.check(place)
    except ConfigError as error:
        message = str(error)
        for theirs, (ours, _) in method.parameters.items():
            message = message.replace(f"'{ours}' is", f"'{theirs}' is")
        raise ConfigError(message) from None
    return made


def _modules(config: _Configuration, place: str) -> dict[str, _Module]:
    """What becomes of each stack; without ``modules``, what becomes of the model, under its first stack's name."""
    given = [key for key in ("models", "slices", "modules") if getattr(config, key)]
    if len(given) != 1:
        raise ConfigError(f"{place}: give exactly one of models, slices and modules, not {' and '.join(given) or 'none'}.")
    if config.modules is None:
        return {"encoder": _Module(slices=config.slices, models=config.models)}
    for stack, module in config.modules.items():
        if bool(module.slices) == bool(module.models):
            raise ConfigError(f"{place}: give exactly one of models and slices in modules.{stack}.")
    return {stack: module for stack, module in config.modules.items()}


def _regions(stack: str, module: _Module, config: _Configuration) -> Iterator[_Region]:
    outer = (module.parameters, config.parameters)
    targets = [("*", (stack,))] if config.modules is not None else []
    if not module.slices:
        yield _Region(module.models or (), outer, targets)
        return
    if len(module.slices) == 1:
        one = module.slices[0]
        yield _Region(one.sources, (one.parameters, *outer), targets)
        return
    first, last = module.slices[0], module.slices[-1]
    yield _Region(first.sources, (first.parameters, *outer), targets, 0.0)
    # mergekit takes what precedes the layers as the first slice says, and what follows them as the last one does.
    follows = [("norms", (stack,))] if config.modules is not None else [("norms", ()), ("head", ())]
    yield _Region(last.sources, (last.parameters, *outer), follows, 0.0)
    number = 0
    for one in module.slices:
        count = one.sources[0].layer_range[1] - one.sources[0].layer_range[0]
        for index in range(count):
            position = index / (count - 1) if count > 1 else 1.0
            yield _Region(one.sources, (one.parameters, *outer), [("*", (f"{stack}.layers.{number}",))], position)
            number += 1


def _models(config: _Configuration, method: Translation, regions: Sequence[_Region], place: str) -> _Models:
    base, listed = config.base_model, _unique([one.model for region in regions for one in region.inputs])
    for region in regions:
        if config.merge_method != PASSTHROUGH and {one.model for one in region.inputs} - {base} != {*listed} - {base}:
            raise ConfigError(f"{place}: all slices and modules must merge the same models; write one recipe for each.")
    if method.needs_base and base is None:
        raise ConfigError(f"{place}: {config.merge_method} needs a base; add the key 'base_model'.")
    if method.models == "experts" and config.merge_method != PASSTHROUGH:
        experts = [model for model in listed if model != base]
    else:
        experts = _unique([*listed, *([base] if base is not None and config.merge_method != PASSTHROUGH else [])])
    if not experts:
        raise ConfigError(f"{place}: there is nothing to merge besides the base; add the fine-tunes under 'models'.")
    if method.models == "base and one" and len(experts) != 2:
        raise ConfigError(
            f"{place}: {config.merge_method} merges the base_model and one other, not {len(experts)} models; give two."
        )
    names: dict[str, str] = {}
    for model in experts:
        stem = model.partition("+")[2] or model
        stem = stem.partition("@")[0].rstrip("/").rpartition("/")[2] or "model"
        taken = {*names.values(), *(["base"] if model != base else [])}
        numbered = (f"{stem}-{number}" for number in range(2, len(experts) + 3))
        names[model] = next(name for name in (stem, *numbered) if name not in taken)
    return _Models(base, experts, names)


def _donor(config: _Configuration, models: _Models, place: str) -> str | None:
    if config.chat_template is not None:
        raise ConfigError(f"{place}: chat_template means nothing to a speech recogniser; leave it out.")
    if config.tokenizer is not None and (config.tokenizer.tokens or config.tokenizer.pad_to_multiple_of):
        raise ConfigError(f"{place}: tokenizer can't change tokens here; leave 'tokens' and 'pad_to_multiple_of' out.")
    source = config.tokenizer.source if config.tokenizer is not None else config.tokenizer_source
    if source in (None, "union"):  # models whose vocabularies differ are refused, so the union is any one's
        return None
    if source == "base" or source == models.base:
        if models.base is None:
            raise ConfigError(f"{place}: the tokenizer is to be the base's; add the key 'base_model'.")
        return "base"
    if source not in models.names:
        raise ConfigError(
            f"{place}: the tokenizer's source '{source}' is not one of the models; {suggest(source, models.names)}."
        )
    return models.names[source]


def _layers(
    config: _Configuration, modules: Mapping[str, _Module], models: _Models, place: str
) -> dict[str, list[dict[str, Any]]]:
    passthrough = config.merge_method == PASSTHROUGH
    layers: dict[str, list[dict[str, Any]]] = {}
    for stack, module in modules.items():
        for one in module.slices or ():
            if one.residual_weight is not None or one.base_model not in (None, config.base_model):
                raise ConfigError(f"{place}: a slice has no residual_weight or base_model of its own here; leave them out.")
            ranges = {source.layer_range for source in one.sources}
            if passthrough and len(one.sources) != 1:
                raise ConfigError(
                    f"{place}: passthrough takes each slice from one model, not {len(one.sources)}; list them apart."
                )
            if len(ranges) > 1:
                shown = " and ".join(str(list(found)) for found in sorted(ranges))
                raise ConfigError(
                    f"{place}: a slice's sources must have one layer_range, not {shown}: different layers don't merge; "
                    "put the model together with passthrough first."
                )
            source = {"source": models.names[one.sources[0].model]} if passthrough else {}
            layers.setdefault(stack, []).append({**source, "layers": list(ranges.pop())})
        if passthrough and not module.slices:
            listed = module.models or ()
            if len(listed) != 1:
                raise ConfigError(f"{place}: passthrough takes one model, not {len(listed)}; say which layers with 'slices'.")
            if config.modules is not None:
                layers[stack] = [{"source": models.names[listed[0].model]}]
    return layers


def _translate(name: str, method: Translation, region: _Region, models: _Models, place: str) -> dict[tuple[str, str], Conditions]:
    """Our parameters (under ``parameters``) and weights (under ``weights``) in that region."""

    def setting(parameter: str, scopes: Sequence[Settings], default: Any = None) -> Conditions:
        return interpolate(resolve(parameter, scopes, place, default), region.position)

    found: dict[tuple[str, str], Conditions] = {}
    takers = _unique([one.model for one in region.inputs]) if name == PASSTHROUGH else models.experts
    for theirs, (ours, default) in method.parameters.items():
        scopes = [region.scopes(model) for model in takers] if theirs in PER_MODEL else [region.outer]
        values = _unique([setting(theirs, one, default) for one in scopes])
        if len(values) > 1:
            raise ConfigError(
                f"{place}: {name} has one {theirs} for all models here; give it once, under the global 'parameters'."
            )
        found["parameters", ours] = values[0]
    if method.weighted:
        for model in models.experts:
            if any(one.model == model for one in region.inputs):
                weight = setting("weight", region.scopes(model), 1.0)
            else:  # the base, which takes part though it is not listed
                weight = resolve("weight", region.outer, f"{place}: the base_model isn't listed, but {name} merges it, too")
            found["weights", models.names[model]] = interpolate(weight, region.position)
        if "normalize" not in method.parameters and name != "nuslerp":
            found |= _normalized(found, setting("normalize", region.outer, False), place)
    for theirs, fixed in method.fixed.items():
        value = plain(theirs, setting(theirs, region.outer, fixed.value), place, fixed.remedy)
        if bool(value) != fixed.value:
            raise ConfigError(f"{place}: {name} has no {theirs}: {str(value).lower()} here; {fixed.remedy}.")
    if found.get(("parameters", "density")) == (Condition(None, 1.0),) and ("parameters", "epsilon") in found:
        found["parameters", "epsilon"] = (Condition(None, 0.0),)  # where nothing is dropped, mergekit doesn't look at it
    if name == "slerp":
        found |= _slerp_weights(setting("t", region.outer), models, place)
    if name == "nuslerp":
        flatten, by_row = (
            plain(theirs, setting(theirs, region.outer, default), place, "give true or false")
            for theirs, default in (("nuslerp_flatten", True), ("nuslerp_row_wise", False))
        )
        # The names are the other way round in mergekit.
        found["parameters", "block"] = (Condition(None, "tensor" if flatten else "column" if by_row else "row"),)
    return found


def _normalized(
    found: Mapping[tuple[str, str], Conditions], normalize: Conditions, place: str
) -> dict[tuple[str, str], Conditions]:
    """Weights divided by their sum, which mergekit's sums of task vectors can do and ours can't."""
    if not plain("normalize", normalize, place, "give true or false"):
        return {}
    remedy = "write weights that are divided by their sum, and leave 'normalize' out"
    weights = {key: plain("weight", value, place, remedy) for key, value in found.items() if key[0] == "weights"}
    total = sum(weights.values())
    return {key: (Condition(None, value / total if abs(total) >= 1e-8 else value),) for key, value in weights.items()}


def _slerp_weights(t: Conditions, models: _Models, place: str) -> dict[tuple[str, str], Conditions]:
    """1 − t for the base and t for the other."""
    for number in (number for one in t for number in (one.value if isinstance(one.value, list) else [one.value])):
        if not 0 <= number <= 1:
            raise ConfigError(f"{place}: the parameter 't' is {number}; give numbers from 0 to 1.")

    def mirrored(value: Any) -> Any:
        return [1 - item for item in value] if isinstance(value, list) else 1 - value

    return {
        ("weights", models.names[model]): tuple(Condition(one.tensor, mirrored(one.value)) for one in t)
        if model == models.base
        else t
        for model in models.experts
    }


def _rules(
    targets: Sequence[tuple[str, tuple[str, ...]]], found: Mapping[tuple[str, str], Conditions], conditional: bool = False
) -> Iterator[dict[str, Any]]:
    """Group rules for these targets. Of mergekit's conditions the first that holds counts, of our rules the last.

    Args:
        conditional: leave out what holds everywhere.
    """
    for group, parts in targets:
        everywhere: dict[str, dict[str, Any]] = {}
        for (kind, name), conditions in found.items():
            everywhere.setdefault(kind, {})[name] = conditions[-1].value
        if everywhere and not conditional:
            yield {"group": group, **({"tensor": parts} if parts else {}), **everywhere}
        for (kind, name), conditions in found.items():
            for condition in reversed(conditions[:-1]):
                yield {"group": group, "tensor": (*parts, str(condition.tensor)), kind: {name: condition.value}}


def _unique(values: Sequence[_T]) -> list[_T]:
    found: list[_T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
