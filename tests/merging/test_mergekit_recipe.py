"""mergekit's YAML as its users write it."""

from __future__ import annotations

import pytest

from asrmerge.errors import ConfigError
from asrmerge.merging import Recipe

TIES = """
models:
  - model: org/base  # no parameters necessary for base model
  - model: org/legal
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]  # weight gradient
  - model: org/medical
    parameters:
      density: 0.5
      weight:
        - filter: feed_forward
          value: 0.5
        - value: 0
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""

SLERP = """
slices:
  - sources:
      - model: org/one
        layer_range: [0, 3]
      - model: org/two
        layer_range: [0, 3]
merge_method: slerp
base_model: org/one
parameters:
  t:
    - filter: attention
      value: [0, 0.5, 1]
    - filter: feed_forward
      value: [1, 0.5, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: bfloat16
"""


def experts(recipe):
    return {expert.name: (expert.model, expert.weight) for expert in recipe.experts}


def test_ties_as_in_mergekits_readme(tmp_path):
    (tmp_path / "config.yaml").write_text(TIES)
    recipe = Recipe.read(tmp_path / "config.yaml")
    assert recipe.method == "ties" and recipe.base == "org/base" and recipe.dtype == "float16"
    assert experts(recipe) == {"legal": ("org/legal", (0, 0.3, 0.7, 1)), "medical": ("org/medical", 0)}
    assert recipe.parameters == {"scope": "tensor", "normalize": True, "density": 0.5, "scale": 1.0}
    [rule] = recipe.groups
    assert rule.tensor == ("feed_forward",) and rule.weights == {"medical": 0.5}
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe  # what is written beside the merged weights


def test_slerp_with_filters_and_lists():
    recipe = Recipe.from_yaml(SLERP)
    assert experts(recipe) == {"one": ("org/one", 0.5), "two": ("org/two", 0.5)} and recipe.base == "org/one"
    assert recipe.layers["encoder"][0].layers == (0, 3)
    found = [(rule.tensor, rule.weights) for rule in recipe.groups]
    assert (("attention",), {"two": (0, 0.5, 1)}) in found and (("attention",), {"one": (1, 0.5, 0)}) in found
    assert found.index((("feed_forward",), {"two": (1, 0.5, 0)})) < found.index((("attention",), {"two": (0, 0.5, 1)}))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {"normalize": True}),
        ("task_arithmetic", {"scale": 1.0}),
        ("ties", {"normalize": True, "density": 1.0, "scale": 1.0, "scope": "tensor"}),
        ("dare_linear", {"density": 1.0, "scale": 1.0}),
        ("dare_ties", {"normalize": False, "density": 1.0, "scale": 1.0}),
        ("della", {"normalize": True, "density": 1.0, "epsilon": 0.0, "scale": 1.0}),
        ("della_linear", {"density": 1.0, "epsilon": 0.0, "scale": 1.0}),
        ("breadcrumbs", {"density": 1.0, "gamma": 0.01, "scale": 1.0}),
        ("breadcrumbs_ties", {"normalize": False, "density": 1.0, "gamma": 0.01, "scale": 1.0}),
        ("model_stock", {}),
        ("sce", {"density": 1.0}),
        ("nuslerp", {"block": "tensor"}),
        ("karcher", {"maximum_iterations": 10, "tolerance": 1e-5}),
    ],
)
def test_defaults_are_mergekits(method, parameters):
    text = f"merge_method: {method}\nbase_model: org/base\nmodels: [{{model: org/base}}, {{model: org/a}}, {{model: org/b}}]"
    recipe = Recipe.from_yaml(text)
    assert recipe.parameters == parameters
    assert [*experts(recipe)] == (["base", "a", "b"] if method in ("linear", "karcher") else ["a", "b"])
    defaults = pytest.importorskip("mergekit.merge_methods").get(method).spec.parameters
    theirs = {one.name: one.default for one in defaults}
    for name in ("normalize", "density", "gamma"):
        if name in parameters and method != "sce":
            assert parameters[name] == theirs[name]


def test_names_options_and_references():
    text = """
merge_method: dare_ties
base_model: {model: {path: org/base, revision: v1}}
models:
  - {model: org/a@main+user/adapter@v2, parameters: {weight: 1}}
  - {model: other/base, parameters: {weight: 0.5}}
  - {model: third/base/, parameters: {weight: 1e-1}}
parameters: {density: 0.5, lambda: 0.7, rescale: true}
tokenizer: {source: other/base}
dtype: float32
out_dtype: bfloat16
random_seed: 7
"""
    recipe = Recipe.from_yaml(text)
    assert experts(recipe) == {
        "adapter": ("org/a@main+user/adapter@v2", 1),
        "base-2": ("other/base", 0.5),
        "base-3": ("third/base/", 0.1),
    }
    assert recipe.base == "org/base@v1" and recipe.donor == "base-2" and recipe.dtype == "bfloat16"
    assert recipe.parameters == {"normalize": False, "density": 0.5, "scale": 0.7, "seed": 7}
    assert Recipe.from_yaml(text.replace("source: other/base", "source: base")).donor == "base"
    assert Recipe.from_yaml(text.replace("source: other/base", "source: union")).donor is None


def test_normalised_sums():
    text = """
merge_method: task_arithmetic
base_model: base
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
parameters: {normalize: true}
"""
    assert [weight for _, weight in experts(Recipe.from_yaml(text)).values()] == [0.25, 0.75]
    with pytest.raises(ConfigError, match="'weight' can have one value only; write weights that are divided by their sum"):
        Recipe.from_yaml(text.replace("3", "[1, 3]"))


def test_nuslerps_options_are_the_other_way_round():
    text = "merge_method: nuslerp\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{nuslerp_flatten: false, {}}}"
    assert Recipe.from_yaml(text.format("nuslerp_row_wise: false")).parameters == {"block": "row"}
    assert Recipe.from_yaml(text.format("nuslerp_row_wise: true")).parameters == {"block": "column"}


BASIC = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASIC.replace("ties", "nearswap"), "merge_method 'nearswap' has no counterpart; .*known are breadcrumbs"),
        (BASIC.replace("base_model: base\n", ""), "ties needs a base; add the key 'base_model'"),
        (BASIC + "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]", "exactly one of models, slices and modules"),
        ("merge_method: linear", "exactly one of models, slices and modules, not none"),
        (BASIC + "chat_template: auto", "chat_template means nothing to a speech recogniser; leave it out"),
        (BASIC + "tokenizer: {source: base, tokens: {x: {source: a}}}", "leave 'tokens' and 'pad_to_multiple_of' out"),
        (BASIC + "tokenizer_source: c", "the tokenizer's source 'c' is not one of the models; known are a, b"),
        (BASIC + "merge_methods: x", "unknown key 'merge_methods'; did you mean 'merge_method'"),
        (BASIC + "parameters: {densty: 0.5}", "unknown parameter 'densty'; did you mean 'density'"),
        (BASIC + "parameters: {density: 2}", "parameters of ties: 'density' is 2"),
        (BASIC + "parameters: {rescale: true}", "ties has no rescale: true here; leave it out, and raise lambda"),
        (
            BASIC.replace("ties", "dare_ties") + "parameters: {rescale: false}",
            "dare_ties has no rescale: false here; leave it out, and multiply lambda by the density",
        ),
        (BASIC.replace("ties", "model_stock") + "parameters: {filter_wise: true}", "model_stock has no filter_wise: true"),
        (
            BASIC.replace("{model: a}", "{model: a, parameters: {density: 0.3}}"),
            "ties has one density for all models here; give it once, under the global 'parameters'",
        ),
        (BASIC + "parameters: {density: [{filter: x}]}", "the parameter 'density' has {'filter': 'x'}; give a value"),
        (BASIC.replace("ties", "slerp"), "slerp merges the base_model and one other, not 3 models"),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]", "the parameter 't' is missing"),
        (
            "merge_method: linear\nbase_model: c\nmodels: [{model: a}, {model: b}]",
            "the base_model isn't listed, but linear merges it, too: the parameter 'weight' is missing",
        ),
        ("merge_method: ties\nbase_model: a\nmodels: [{model: a}]", "nothing to merge besides the base"),
        ("merge_method: passthrough\nmodels: [{model: a}, {model: b}]", "passthrough takes one model, not 2; say which layers"),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [2, 4]}]}]",
            r"a slice's sources must have one layer_range, not \[0, 2\] and \[2, 4\]: .* put the model together with passthrough",
        ),
        (
            "merge_method: linear\nslices: [{residual_weight: 1, sources: [{model: a, layer_range: [0, 2]}]}]",
            "a slice has no residual_weight or base_model of its own here; leave them out",
        ),
        (
            "merge_method: linear\nmodules: {encoder: {models: [{model: a}]}, decoder: {models: [{model: b}]}}",
            "all slices and modules must merge the same models; write one recipe for each",
        ),
        ("merge_method: linear\nmodules: {text: {models: [{model: a}]}}", "should be 'encoder' or 'decoder'"),
        ("merge_method: linear\nmodels: [{model: {path: a, override_architecture: X}}]\ndtype: int8", "'dtype' is 'int8'"),
        ("merge_method: linear\nmodels: [{model: {model: a, override_architecture: X}}]", "has the keys model and lora"),
        (BASIC + "parameters: {density: .nan}", "the parameter 'density' is nan; give a finite number, or true or false"),
        (BASIC + "parameters: {lambda: [1, -.inf]}", "the parameter 'lambda' is -inf; give a finite number"),
        (BASIC + "parameters: {weight: [{filter: x, value: .inf}, {value: 1}]}", "the parameter 'weight' is inf; give a finite"),
        (BASIC + "parameters: {weight: much}", "the parameter 'weight' is 'much'; give a finite number"),
        (BASIC + "parameters: {weight: [[1]]}", r"the parameter 'weight' is \[1\]; give a finite number"),
        (BASIC + f"parameters: {{weight: 1{'0' * 400}}}", "the parameter 'weight' is 10*; give a finite number"),
        (
            BASIC.replace("ties", "task_arithmetic") + "parameters: {normalize: 'yes'}",
            "the parameter 'normalize' is 'yes'; give a finite number, or true or false",
        ),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: half}", "the parameter 't' is 'half'; give"),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: [0, 2]}",
            "'t' is 2; give numbers from 0 to 1",
        ),
        (BASIC + "parameters: {lambda: 20}", "parameters of ties: 'lambda' is 20, but it should be less than or equal to 10"),
        (BASIC.replace("ties", "sce") + "parameters: {select_topk: 0}", "'select_topk' is 0, but it should be greater than 0"),
        ("merge_method: karcher\nmodels: [{model: a}]\nparameters: {max_iter: 0}", "'max_iter' is 0, but it should be"),
        (BASIC + "dtype: float64\nout_dtype: float64", "'out_dtype' is 'float64', but it should be 'float32'"),
        (BASIC + "random_seed: .nan", "'random_seed' is nan, but it should be a finite number"),
        (
            "merge_method: passthrough\nslices: [{residual_weight: .nan, sources: [{model: a, layer_range: [0, 2]}]}]",
            r"'slices\[0\].residual_weight' is nan, but it should be a finite number",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_in_one_sentence(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        Recipe.read(tmp_path / "config.yaml")
    assert str(caught.value).startswith(str(tmp_path / "config.yaml")) and "\n" not in str(caught.value)
