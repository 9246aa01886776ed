"""The merge methods in words: what `asrmerge methods` prints."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from asrmerge.adapters.registry import find_adapter_methods
from asrmerge.errors import ConfigError
from asrmerge.learning.registry import find_learning_methods
from asrmerge.merging.block import Method, is_searchable, needed_statistics
from asrmerge.merging.registry import find_methods
from asrmerge.validation import suggest

_EXPERTS = "experts"
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def list_methods() -> str:
    """Every method with its summary, what it needs and its parameters' names."""
    models = find_methods()
    adapters = find_adapter_methods()
    learning = find_learning_methods()
    width = max(map(len, [*models, *adapters, *learning])) + 2
    lines = ["Whole models, and LoRA adapters over their base:"]
    for name, method in models.items():
        special = " and ".join(need for need in _needs(method) if need != _EXPERTS)
        needs = f"  (needs {special})" if special else ""
        lines += [f"  {name:{width}}{_summary(method)}{needs}", *_parameter_line(method, width)]
    lines += ["", "Learnt from each domain's audio:"]
    for name, learning_method in learning.items():
        needs = f"  (needs a base{', audio and texts' if learning_method.needs_texts else ' and audio'})"
        lines += [f"  {name:{width}}{_summary(learning_method)}{needs}", *_parameter_line(learning_method, width)]
    lines += ["", "LoRA adapters into one adapter or full weights:"]
    for name, adapter_method in adapters.items():
        lines += [f"  {name:{width}}{_summary(adapter_method)}", *_parameter_line(adapter_method, width)]
    lines += ["", "In every search (asrmerge run): the base, each expert, the uniform average and the greedy soup."]
    return "\n".join(lines)


def describe_method(name: str) -> str:
    """What one method does, by which formula and source, and its parameters.

    Raises:
        ConfigError: there is no such method.
    """
    learning = find_learning_methods()
    known: dict[str, Any] = {**find_adapter_methods(), **learning, **find_methods()}
    if name not in known:
        raise ConfigError(f"unknown merge method '{name}'; {suggest(name, known)}.")
    method = known[name]
    if name in find_methods():
        needs = " and ".join(_needs(method))
    elif name in learning:
        needs = f"a base, experts and audio of each one's domain{', with texts' if learning[name].needs_texts else ''}"
    else:
        needs = "LoRA adapters of one base"
    lines = [name, "", inspect.cleandoc(type(method).__doc__ or ""), "", f"Needs: {needs}."]
    if name in find_methods() and is_searchable(method):
        lines += ["A search (asrmerge run) can tune its weights: name it in search.methods."]
    lines += ["", "Parameters:"]
    fields = method.parameters.model_fields
    lines += [_describe(key, field) for key, field in fields.items()] or ["  none"]
    return "\n".join(lines)


def _summary(method: Any) -> str:
    return (inspect.getdoc(type(method)) or "").partition("\n")[0]


def _needs(method: Method) -> list[str]:
    count = getattr(method, "expert_count", None)
    experts = _EXPERTS if count is None else "exactly one expert" if count == 1 else f"exactly {count} experts"
    needed = needed_statistics(method)
    statistics = [f"each expert's statistics ({', '.join(needed)})"] if needed else []
    return [*(["a base"] if method.needs_base else []), experts, *statistics]


def _parameter_line(method: Any, width: int) -> Iterable[str]:
    parameters: type[BaseModel] = method.parameters
    if parameters.model_fields:
        shown = ", ".join(f"{name}={_shown(field.default)}" for name, field in parameters.model_fields.items())
        yield f"  {'':{width}}{shown}"


def _describe(name: str, field: FieldInfo) -> str:
    return f"  {name}: {_kind(field)}, default {_shown(field.default)}\n      {field.description or ''}".rstrip()


def _kind(field: FieldInfo) -> str:
    annotation = field.annotation
    bounds = [f"{_BOUNDS[key]} {getattr(item, key)}" for item in field.metadata for key in _BOUNDS if hasattr(item, key)]
    return f"{_type(annotation)} {' and '.join(bounds)}".rstrip()


def _type(annotation: Any) -> str:
    if isinstance(annotation, (str, int)):
        return str(annotation)  # a choice of a Literal
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    return " | ".join(map(_type, get_args(annotation))) or str(getattr(annotation, "__name__", annotation))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
