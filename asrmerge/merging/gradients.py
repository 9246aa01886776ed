"""Numbers that run over the depth of a model: one number, or a list from the first layer to the last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

_List = Annotated[tuple[float, ...], Field(min_length=1)]
Gradient = Annotated[
    Annotated[float, Tag("number")] | Annotated[_List, Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, (list, tuple)) else "number"),
]


def at_position(values: Mapping[str, Any], position: float) -> dict[str, Any]:
    """``values`` with every list of numbers replaced by its value at ``position`` from 0 to 1, linear between its knots."""
    return {name: _interpolate(value, position) if _is_gradient(value) else value for name, value in values.items()}


def knots(values: Iterable[Any]) -> list[float]:
    """The positions at which a list among ``values`` has a number of its own; at least 0."""
    positions = {0.0}
    for value in values:
        if _is_gradient(value) and len(value) > 1:
            positions |= {index / (len(value) - 1) for index in range(len(value))}
    return sorted(positions)


def _is_gradient(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value)
    )


def _interpolate(values: Sequence[float], position: float) -> float:
    if len(values) == 1:
        return values[0]
    scaled = position * (len(values) - 1)
    lower = min(int(scaled), len(values) - 2)
    share = scaled - lower
    return values[lower + 1] if share == 1 else values[lower] + share * (values[lower + 1] - values[lower])
