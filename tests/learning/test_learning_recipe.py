"""Recipes of merges that are learnt: what is read, refused and written."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.errors import ConfigError
from asrmerge.learning.methods._grouping import share_groups
from asrmerge.learning.recipe import LearningRecipe, is_learning_recipe
from asrmerge.learning.registry import find_learning_methods, learning_method_names
from asrmerge.merging.recipe import Recipe
from asrmerge.merging.structure import matches

GROUPS = [
    "decoder", "decoder.0.cross", "decoder.0.ffn", "decoder.0.self", "decoder.1.self", "decoder.10.ffn", "embedding", "encoder",
    "encoder.1", "encoder.10", "frontend", "head", "norms", "positional",
]  # fmt: skip


def content(**changes: Any) -> dict[str, Any]:
    experts = [{"name": name, "model": f"models/{name}", "audio": f"{name}.jsonl"} for name in ("legal", "medical")]
    return {"method": "adamerging", "base": "models/base", "experts": experts, **changes}


def test_methods_are_called_as_their_files() -> None:
    names = ("adamerging", "learned_coefficients", "learned_soup", "regmean_plus_plus")
    assert tuple(find_learning_methods()) == learning_method_names() == names


def test_defaults_are_filled_in_and_yaml_gives_the_recipe_back() -> None:
    recipe = LearningRecipe.from_content(content(parameters={"steps": 7}, audio={"general": "general.jsonl"}))
    assert (recipe.seed, recipe.held_out, recipe.method_parameters().steps) == (0, 0.3, 7)
    assert LearningRecipe.from_content(yaml.safe_load(recipe.to_yaml())) == recipe


def test_the_hash_is_of_what_the_recipe_says() -> None:
    one = LearningRecipe.from_content(content())
    assert one.hash() == LearningRecipe.from_content(content(parameters={"steps": 100}, seed=0)).hash()
    assert len({one.hash(), *(LearningRecipe.from_content(content(seed=1)).hash() for _ in range(2))}) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"method": "learned_soup"}, True),
        ({"method": "other", "held_out": 0.1}, True),
        (content(method="adamergin"), True),
        ({"method": "linear", "experts": [{"name": "legal", "model": "legal"}]}, False),
        ({"merge_method": "linear", "models": []}, False),
        (None, False),
        ([1], False),
        ({"experts": "legal"}, False),
    ],
)
def test_such_recipes_are_told_from_others(given: Any, expected: bool) -> None:
    assert is_learning_recipe(given) is expected


def without_audio() -> list[dict[str, str]]:
    return [{"name": "legal", "model": "legal"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "adamergin"}, r"x: unknown method 'adamergin' of learning from audio; did you mean 'adamerging'\?"),
        ({"parameters": {"step": 3}}, r"x: parameters of adamerging: unknown key 'step'; did you mean 'steps'\?"),
        ({"parameters": {"lower": 1, "upper": 0}}, "lower is not below upper"),
        ({"parameters": {"learning_rate": 0}}, "'learning_rate' is 0, but it should be greater than 0"),
        ({"experts": without_audio()}, r"x: the key 'experts\[0\].audio' is missing; add it"),
        ({"experts": []}, "experts"),
        ({"held_out": 1}, "'held_out' is 1, but it should be less than 1"),
        ({"donor": "legl"}, r"the donor 'legl' is not one of the models; did you mean 'legal'\?"),
        ({"audio": {"legal": "other.jsonl"}}, "the name legal is given to two experts or domains"),
        ({"experts": content()["experts"][:1] * 2}, "the name legal is given to two experts or domains"),
        ({"base": None}, "base"),
        ({"scale": 1}, "unknown key 'scale'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LearningRecipe.from_content(content(**changes), "x")


@given(st.lists(st.sampled_from(GROUPS), unique=True, min_size=1), st.sampled_from(["model", "layer", "group"]))
def test_every_parameter_gets_the_coefficients_that_were_learnt_for_it(groups: list[str], per: Any) -> None:
    """Also where one group's name begins another's: of the rules that hold, the last one counts."""
    names, rows = share_groups(groups, per)
    coefficients = {name: {"legal": 0.1 * (index + 1), "medical": -0.2 * index} for index, name in enumerate(names)}
    recipe = LearningRecipe.from_content(content()).plain(coefficients)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    for group, row in zip(groups, rows.tolist(), strict=True):
        weights = {expert.name: expert.weight for expert in recipe.experts}
        for rule in recipe.groups:
            if matches(group, rule.group):
                weights |= rule.weights
        assert weights == pytest.approx(coefficients[names[row]], abs=1e-6)


def test_the_plain_recipe_takes_donor_and_dtype_along() -> None:
    recipe = LearningRecipe.from_content(content(donor="legal", dtype="bfloat16"))
    plain = recipe.plain({"*": {"legal": 0.25, "medical": 0.5}})
    assert (plain.method, plain.base, plain.donor, plain.dtype) == ("task_arithmetic", "models/base", "legal", "bfloat16")
    assert [(one.model, one.weight) for one in plain.experts] == [("models/legal", 0.25), ("models/medical", 0.5)]
    assert plain.groups == ()
