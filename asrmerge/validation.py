"""One sentence for what pydantic rejects: file, key, remedy."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from asrmerge.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """Part of a file that a user writes: unchangeable once read; unknown keys, NaN and Inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_given(cls, content: Any) -> Any:
        """A heading with nothing below it, or comments only, is ``None`` in YAML."""
        return {} if content is None else content


def validate(model_class: type[Model], content: Any, place: str) -> Model:
    """``content`` as a ``model_class``; ``place`` (a file, or a part of one) opens the message.

    Raises:
        ConfigError: one sentence that names the place, the key and what to do.
    """
    if not isinstance(content, dict):
        found = "empty" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{place} must hold keys and values ({', '.join(model_class.model_fields)}), but is {found}.")
    try:
        return model_class.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A misspelt key also leaves its right spelling missing: the misspelling is the thing to say.
        first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
        more = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
        raise ConfigError(f"{place}: {_describe(model_class, first, content)}{more}.") from error


def suggest(unknown: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(unknown, names, n=1)
    listing = f"known are {', '.join(names)}" if names else "none is known here"
    return f"did you mean '{nearest[0]}'? ({listing})" if nearest else listing


def _describe(model_class: type[BaseModel], problem: ErrorDetails, content: Any) -> str:
    location = _without_tags(problem["loc"], content)
    key = _dotted(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'; {suggest(str(location[-1]), _known_keys(model_class, location[:-1]))}"
    if problem["type"] == "missing":
        return f"the key '{key}' is missing; add it"
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    kind, should, rest = message.partition(" should ")
    if should and kind.isalpha():  # pydantic's name of what it is: Input, Tuple, String, …
        message = f"it should {rest.replace(' after validation', '').replace('valid tuple', 'list')}"
    return f"'{key}' is {problem['input']!r}, but {message}" if key else message


def _without_tags(location: tuple[int | str, ...], content: Any) -> tuple[int | str, ...]:
    """``location`` without the names that pydantic puts in for a mapping's keys and the alternatives of a union."""
    kept: list[int | str] = []
    for part in location:
        if part == "[key]":
            continue
        if isinstance(content, dict):
            content = content.get(part)
        elif isinstance(content, (list, tuple)) and isinstance(part, int):
            content = content[part] if part < len(content) else None
        else:
            continue
        kept.append(part)
    return tuple(kept)


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _known_keys(model_class: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the model that lies at ``location``; empty where the path cannot be followed."""
    current: type[BaseModel] = model_class
    in_mapping = False
    for part in location:
        if isinstance(part, int) or in_mapping:
            in_mapping = False
            continue  # an index or a mapping's key: the element type was taken with the container
        field = current.model_fields.get(part)
        inner = _model_in(field.annotation) if field is not None else None
        if field is None or inner is None:
            return []
        current, in_mapping = inner, typing.get_origin(field.annotation) is dict
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part)) is not None), None)
