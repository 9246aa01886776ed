from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from asrmerge.errors import ConfigError
from asrmerge.validation import suggest, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    weight: Annotated[float, Field(ge=0)] = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    method: str
    count: int = 1
    inner: Inner | None = None
    items: list[Inner] = Field(default_factory=list)
    table: dict[str, Inner] = Field(default_factory=dict)
    pair: tuple[int, int] = (0, 0)
    stacks: dict[Literal["encoder", "decoder"], int] = Field(default_factory=dict)

    @field_validator("count")
    @classmethod
    def _even(cls, count: int) -> int:
        if count == 13:
            raise ValueError("thirteen is unlucky; take fourteen.")
        return count


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run.yaml must hold keys and values (method, count, inner, items, table, pair, stacks), but is empty."),
        ([1], "run.yaml must hold keys and values (method, count, inner, items, table, pair, stacks), but is a list."),
        ({}, "run.yaml: the key 'method' is missing; add it."),
        (
            {"metod": "linear"},
            "run.yaml: unknown key 'metod'; did you mean 'method'? (known are count, inner, items, method, pair, stacks, table) "
            "(1 more after this one).",
        ),
        (
            {"method": "m", "zzzzz": 1},
            "run.yaml: unknown key 'zzzzz'; known are count, inner, items, method, pair, stacks, table.",
        ),
        (
            {"method": "m", "items": [{}, {"wieght": 1}]},
            "run.yaml: unknown key 'items[1].wieght'; did you mean 'weight'? (known are weight).",
        ),
        (
            {"method": "m", "inner": {"wieght": 1}},
            "run.yaml: unknown key 'inner.wieght'; did you mean 'weight'? (known are weight).",
        ),
        (
            {"method": "m", "inner": {"weight": -1}},
            "run.yaml: 'inner.weight' is -1, but it should be greater than or equal to 0.",
        ),
        (
            {"method": "m", "count": "many"},
            "run.yaml: 'count' is 'many', but it should be a valid integer, unable to parse string as an integer.",
        ),
        ({"method": "m", "count": 13}, "run.yaml: 'count' is 13, but thirteen is unlucky; take fourteen."),
        ({"method": "m", "pair": [1, 2, 3]}, "run.yaml: 'pair' is [1, 2, 3], but it should have at most 2 items, not 3."),
        ({"method": "m", "pair": {"a": 1}}, "run.yaml: 'pair' is {'a': 1}, but it should be a list."),
        ({"method": "m", "stacks": {"x": 1}}, "run.yaml: 'stacks.x' is 'x', but it should be 'encoder' or 'decoder'."),
    ],
)
def test_one_sentence(content, message):
    with pytest.raises(ConfigError) as caught:
        validate(Outer, content, "run.yaml")
    assert str(caught.value) == message


def test_paths_are_followed_through_mappings():
    with pytest.raises(ConfigError, match=r"unknown key 'table.x.wieght'; did you mean 'weight'\? \(known are weight\)"):
        validate(Outer, {"method": "m", "table": {"x": {"wieght": 1}}}, "run.yaml")


def test_valid_content_and_suggestions():
    assert validate(Outer, {"method": "m", "items": [{"weight": 2}]}, "p").items[0].weight == 2
    assert suggest("lineer", ["linear", "ties"]) == "did you mean 'linear'? (known are linear, ties)"
