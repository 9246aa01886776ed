"""What a search may choose, and how users say it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.errors import ConfigError
from asrmerge.merging.registry import find_methods
from asrmerge.merging.tuning import tuned
from asrmerge.search.candidate import fixed_candidates, scaled_sum
from asrmerge.search.space import Space, distributions
from asrmerge.search.space_settings import make_space

EXPERTS = ("legal", "medical")
SEARCHED = [name for name, method in find_methods().items() if name != "passthrough" and getattr(method, "expert_count", 2) == 2]


def only(methods: Any, **arguments: Any):
    return make_space(methods, EXPERTS, **arguments).methods[0]


@pytest.mark.parametrize("name", SEARCHED)
def test_every_method_has_a_space_of_its_own(name: str):
    space = only([name])
    assert space.dimensions, name
    for one in space.parameters:
        for place in (0.0, 0.37, 1.0):
            find_methods()[name].parameters.model_validate({one.name: one.at(place)})
    point = {one.name: one.at(0.4) if not one.choices else one.choices[0] for one in space.dimensions}
    candidate = space.candidate(point, "x")
    found = space.values(candidate)
    assert found is not None and found == pytest.approx(space.clip(point), abs=2e-5)
    assert space.holds(found) and set(distributions(space)) == {f"{name}.{one.name}" for one in space.dimensions}


def test_ranges_of_methods_are_finite_and_within_the_parameters_bounds():
    marks = [
        (method, name, mark)
        for method in find_methods().values()
        for name, field in method.parameters.model_fields.items()
        if (mark := tuned(field)) is not None
    ]
    assert len(marks) >= 12
    for method, name, mark in marks:
        assert math.isfinite(mark.low) and math.isfinite(mark.high) and mark.low < mark.high
        for value in (mark.low, mark.high):
            method.parameters.model_validate({name: value})


@given(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 0.9)))
def test_candidates_and_points_say_the_same(numbers):
    space = make_space(["task_arithmetic", "ties"], EXPERTS)
    arithmetic, ties = space.methods
    weights = dict(zip(EXPERTS, numbers, strict=False))
    candidate = arithmetic.candidate(weights, "x")
    assert arithmetic.values(candidate) == pytest.approx(arithmetic.clip(weights)) and ties.values(candidate) is None
    point = {**weights, "density": numbers[2]}
    shares = ties.candidate(point, "y")
    if sum(shares.parameters["scale"] * weight for weight in shares.weights.values()) > 0.01:
        assert ties.values(shares) == pytest.approx(ties.clip(point), abs=2e-3)
    assert arithmetic.values(shares) is None


def test_what_every_search_evaluates_lies_in_the_space_of_sums():
    space = only(["task_arithmetic"])
    places = {one.label: space.values(one) for one in fixed_candidates(EXPERTS, (0.7,))}
    assert places["base"] == {"legal": 0, "medical": 0} and places["λ = 0.7"] == {"legal": 0.7, "medical": 0.7}
    assert places["uniform average"] == {"legal": 0.5, "medical": 0.5} and places["expert legal"] == {"legal": 1, "medical": 0}
    iso_c = only(["iso_c"])
    assert iso_c.values(scaled_sum("x", {"legal": 0.5, "medical": 1.5}, method="iso_c")) == {"legal": 0.5, "medical": 1.5}
    assert iso_c.values(fixed_candidates(EXPERTS)[1]) is None


def test_users_say_ranges_choices_and_what_is_fixed():
    space = make_space(
        {
            "ties": {"density": [0.3, 0.6], "election": {"choices": ["sum", "count"]}, "scope": "tensor"},
            "ugm": {"base_scale": {"range": [10, 1000], "log": True}, "weights": {"medical": [0.5, 1.5]}},
            "task_arithmetic": {"weights": {"legal": 0.3}},
        },
        EXPERTS,
    )
    ties, ugm, arithmetic = space.methods
    assert {one.name for one in ties.dimensions} == {"legal", "medical", "density", "election"} and ties.fixed == {
        "scope": "tensor"
    }
    point = {"legal": 0.5, "medical": 0.5, "density": 0.4, "election": "count"}
    assert ties.candidate(point, "x").parameters == {"scope": "tensor", "density": 0.4, "election": "count", "scale": 0.5}
    scale = next(one for one in ugm.dimensions if one.name == "base_scale")
    assert scale.at(0.5) == pytest.approx(100) and scale.place(100) == pytest.approx(0.5)
    assert [(one.low, one.high) for one in ugm.weights] == [(0.0, 2.0), (0.5, 1.5)]
    assert arithmetic.candidate({"medical": 0.7}, "x").weights == {"legal": 0.3, "medical": 0.7}
    assert arithmetic.values(scaled_sum("x", {"legal": 0.3, "medical": 0.1})) == {"medical": 0.1}
    assert arithmetic.values(scaled_sum("x", {"legal": 0.4, "medical": 0.1})) is None


def test_groups_and_depth_have_weights_of_their_own():
    space = only(["task_arithmetic"], groups=["encoder", "decoder"], depth=True, known_groups=["encoder.0", "decoder.1.ffn"])
    names = [one.name for one in space.weights]
    assert len(names) == 2 * 3 * 2 and "medical@encoder@last" in names
    values = {name: round(0.05 * index, 3) for index, name in enumerate(names)}
    candidate = space.candidate(values, "x")
    assert candidate.weights["legal"] == (values["legal"], values["legal@last"])
    assert candidate.groups["decoder"]["medical"] == (values["medical@decoder"], values["medical@decoder@last"])
    assert space.values(candidate) == values
    assert set(space.values(scaled_sum("x", {"legal": 0.2, "medical": 0.2})).values()) == {0.2}
    recipe = candidate.recipe(base="b", models={"legal": "l", "medical": "m"})
    assert [rule.group for rule in recipe.groups] == ["encoder", "decoder"]
    assert type(candidate).from_json(candidate.to_json()) == candidate


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([], {}, "the search has no methods"),
        (["tise"], {}, "did you mean 'ties'"),
        (["passthrough"], {}, "puts layers together"),
        (["wise_ft"], {}, "merges exactly 1 experts, and there are 2"),
        ({"ties": {"densty": [0.1, 0.5]}}, {}, "did you mean 'density'"),
        ({"ties": {"density": [0.1, float("inf")]}}, {}, "two finite bounds"),
        ({"ties": {"density": [0.5, 0.1]}}, {}, "the lower first"),
        ({"ties": {"density": [0.1, 1.5]}}, {}, "cannot be 1.5"),
        ({"ties": {"density": "much"}}, {}, "cannot be much"),
        ({"ties": {"density": {"range": [0.1, 0.5], "lgo": True}}}, {}, "unknown key 'lgo'"),
        ({"ugm": {"base_scale": {"range": [0, 10], "log": True}}}, {}, "above 0"),
        ({"ties": {"election": {"choices": ["sum"]}}}, {}, "two values or more"),
        ({"task_arithmetic": {"scale": [0.1, 2.0]}}, {}, "says the same as the weights"),
        ({"task_arithmetic": {"weights": {"leagl": [0, 1]}}}, {}, "did you mean 'legal'"),
        ({"task_arithmetic": {"weights": "all"}}, {}, "a range of two"),
        (["ties"], {"depth": True}, "leave out 'groups' and 'depth'"),
        (["task_arithmetic"], {"groups": ["encodr"], "known_groups": ["encoder.0", "head"]}, "in the group 'encodr'"),
    ],
)
def test_spaces_that_are_none_are_refused(methods: Any, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_space(methods, EXPERTS, **options)


def test_a_space_knows_its_methods():
    space = make_space(["ties"], EXPERTS)
    assert isinstance(space, Space) and space.to_json()["ties"]["dimensions"]["density"] == [0.1, 0.9]
    with pytest.raises(ConfigError, match="no method 'tise'"):
        space.of("tise")
