from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asrmerge.errors import ConfigError
from asrmerge.merging import Recipe

TEXT = """
method: task_arithmetic
base: models/base
experts:
  - {name: legal, model: models/legal, weight: 0.5}
  - {name: medical, model: org/medical}
parameters: {scale: 0.8}
"""


def test_reads_and_writes_yaml(tmp_path):
    recipe = Recipe.from_yaml(TEXT)
    assert recipe.experts[1].weight == 1.0 and recipe.parameters == {"scale": 0.8}
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert Recipe.read(tmp_path / "recipe.yaml") == recipe


@settings(max_examples=30, deadline=None)
@example(names=["next\x85line", "line\u2028separator"], weight=0.5, normalize=True)
@given(
    st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3, unique=True),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
def test_yaml_both_ways(names, weight, normalize):
    experts = [{"name": name, "model": name + "/model", "weight": weight} for name in names]
    recipe = Recipe(method="linear", experts=experts, parameters={"normalize": normalize})
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()).hash() == recipe.hash()


def test_hash_follows_the_meaning():
    recipe = Recipe.from_yaml(TEXT)
    assert recipe.hash() == Recipe.from_yaml(TEXT.replace("medical}", "medical, weight: 1}")).hash()
    default = Recipe.from_yaml(TEXT.replace("{scale: 0.8}", "{}"))
    assert default.hash() == Recipe.from_yaml(TEXT.replace("0.8", "1.0")).hash() != recipe.hash()
    assert recipe.hash() != Recipe.from_yaml(TEXT.replace("0.5", "0.6")).hash()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method:", "metod:", r"unknown key 'metod'; did you mean 'method'\?"),
        ("weight: 0.5", "wieght: 0.5", r"unknown key 'experts\[0\].wieght'; did you mean 'weight'\?"),
        ("task_arithmetic", "task_arithmetics", r"unknown merge method 'task_arithmetics'; did you mean 'task_arithmetic'\?"),
        ("scale: 0.8", "scael: 0.8", r"parameters of task_arithmetic: unknown key 'scael'; did you mean 'scale'\?"),
        ("scale: 0.8", "scale: 80", r"parameters of task_arithmetic: 'scale' is 80, but it should be less than or equal to 10"),
        ("scale: 0.8", "scale: .nan", r"'scale' is nan, but it should be"),
        ("weight: 0.5", "weight: .inf", r"'experts\[0\].weight' is inf, but it should be a finite number"),
        ("weight: 0.5", "weight: much", r"'experts\[0\].weight' is 'much', but it should be a valid number"),
        ("name: medical", "name: legal", r"the name legal is given to two experts; give each its own"),
        ("model: models/legal, ", "", r"the key 'experts\[0\].model' is missing; add it"),
        ("method: task_arithmetic", "method: [", "is not valid YAML .*: correct it there"),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path, old, new, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        Recipe.read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml cannot be read .*: give a recipe in YAML"):
        Recipe.read(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"recipe must hold keys and values \(method, base, .*but is empty"):
        Recipe.from_yaml("")
    with pytest.raises(ConfigError, match="'experts' is"):
        Recipe.from_yaml("method: linear\nexperts: []")
