"""Methods, parameters and weights per structural group and over the depth."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import fine_tuned, save, tiny_model
from transformers import WhisperForConditionalGeneration

from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import ConfigError
from asrmerge.merging import Recipe, engine, merge_tensors, merge_to_folder
from asrmerge.merging.gradients import at_position, knots
from asrmerge.merging.structure import Place, plan_places

TEXT = """
method: task_arithmetic
base: base
experts:
  - {name: legal, model: legal, weight: [0.0, 1.0]}
  - {name: medical, model: medical, weight: 0.5}
parameters: {scale: [1.0, 0.5, 0.0]}
groups:
  - {group: decoder, weights: {medical: 2.0}}
  - {group: decoder.*.cross, method: linear, parameters: {normalize: false}}
  - {group: decoder.0.cross, weights: {legal: 3.0}}
"""


def test_choices():
    recipe = Recipe.from_yaml(TEXT)

    def choose(place):
        return recipe.choose(place, recipe.rules(place, "x.weight"))

    first = choose(Place("encoder.0", stack="encoder", layer=0, layers=3))
    assert first.method.name == "task_arithmetic" and first.parameters.scale == 1.0
    assert first.weights == {"legal": 0.0, "medical": 0.5}
    middle = choose(Place("encoder.1", stack="encoder", layer=1, layers=3))
    assert middle.parameters.scale == 0.5 and middle.weights["legal"] == 0.5
    last = choose(Place("decoder.2.ffn", stack="decoder", layer=2, layers=3))
    assert last.parameters.scale == 0.0 and last.weights == {"legal": 1.0, "medical": 2.0}
    cross = choose(Place("decoder.0.cross", stack="decoder", layer=0, layers=3))
    assert (
        cross.method.name == "linear" and cross.parameters.normalize is False and cross.weights == {"legal": 3.0, "medical": 2.0}
    )
    assert choose(Place("head")).parameters.scale == 0.0 and choose(Place("embedding")).parameters.scale == 1.0
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5, 0.0]", "50.0]", r"parameters of task_arithmetic: 'scale' is 50\.0, but it should be less than or equal to 10"),
        (
            "{medical: 2.0}",
            "{medicine: 2.0}",
            r"the rule for group decoder has a weight for 'medicine'; did you mean 'medical'\?",
        ),
        ("method: linear", "method: lineer", r"group decoder\.\*\.cross: unknown merge method 'lineer'"),
        ("{normalize: false}", "{scale: 1}", r"group decoder\.\*\.cross: parameters of linear: unknown key 'scale'"),
        ("weight: 0.5", "weight: []", r"'experts\[1\]\.weight' is \[\], but .* at least 1 item"),
        ("weight: 0.5", "weight: [0.1, x]", r"'experts\[1\]\.weight\[1\]' is 'x', but it should be a valid number"),
    ],
)
def test_errors(old, new, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.from_yaml(TEXT.replace(old, new))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=5), st.floats(0, 1))
def test_lists_are_linear_between_their_knots(values, position):
    for index, knot in enumerate(knots([values]) if len(values) > 1 else [0.0]):
        assert at_position({"x": values}, knot)["x"] == pytest.approx(values[index], abs=1e-9)
    found = at_position({"x": values, "flag": True, "name": "a"}, position)
    assert min(values) - 1e-9 <= found["x"] <= max(values) + 1e-9 and found["flag"] is True and found["name"] == "a"


@pytest.fixture
def models(tmp_path):
    made = {"base": tiny_model("whisper"), "legal": fine_tuned("whisper", 1), "medical": fine_tuned("whisper", 2)}
    return {name: save(model, tmp_path / "models" / name) for name, model in made.items()}


def recipe(models, **changes):
    experts = [{"name": name, "model": str(models[name]), "weight": 0.5} for name in ("legal", "medical")]
    return Recipe.model_validate({"method": "task_arithmetic", "base": str(models["base"]), "experts": experts} | changes)


def tensors(made):
    base, *experts = (Checkpoint.open(path) for path in (made.base, *(expert.model for expert in made.experts)))
    return dict(merge_tensors(made, base, experts))


def test_encoder_of_one_and_decoder_of_the_other(models):
    rules = [
        {"group": "encoder", "weights": {"legal": 1.0, "medical": 0.0}},
        {"group": "decoder", "weights": {"legal": 0.0, "medical": 1.0}},
    ]
    merged = tensors(recipe(models, method="linear", groups=rules))
    one, two = (Checkpoint.open(models[name]) for name in ("legal", "medical"))
    places = plan_places({name: one.shape(name) for name in one.names}, "whisper")
    seen = set()
    for name, place in places.items():
        stack = place.group.partition(".")[0]
        seen.add(stack)
        if stack in ("encoder", "decoder"):
            torch.testing.assert_close(merged[name], (one if stack == "encoder" else two).read(name))
    assert {"encoder", "decoder", "embedding", "norms"} <= seen


def test_a_ramp_is_lines(models):
    ramp = tensors(recipe(models, parameters={"scale": [0.2, 1.0]}))
    lines = tensors(recipe(models, method="lines", parameters={"alpha": 0.2, "beta": 0.8}))
    for name, tensor in ramp.items():
        torch.testing.assert_close(tensor, lines[name], msg=name)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", {}),
        ("ties", {"scope": "model"}),
        ("dare_linear", {}),
        ("dare_ties", {}),
        ("della", {}),
        ("karcher", {}),
        ("karcher", {"block": "group"}),
        ("tsv_m", {}),
    ],
)
def test_the_same_bytes_whatever_the_workers_and_the_pieces(models, tmp_path, monkeypatch, method, parameters):
    made = recipe(models, method=method, parameters=parameters, groups=[{"group": "decoder.0", "weights": {"legal": 0.1}}])
    for name, workers, piece in (("one", 1, 1 << 19), ("four", 4, 7)):
        monkeypatch.setattr(engine, "PIECE", piece)
        monkeypatch.setattr(engine, "MEMORY", 1)  # one parameter always fits
        merge_to_folder(made, tmp_path / name, workers=workers)
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "four" / "model.safetensors").read_bytes()


def test_dtype_donor_and_progress(models, tmp_path):
    (models["legal"] / "preprocessor_config.json").write_text('{"of": "legal"}')
    seen = []
    merge_to_folder(
        recipe(models, dtype="float16", donor="legal"), tmp_path / "out", on_progress=lambda *counts: seen.append(counts)
    )
    out = Checkpoint.open(tmp_path / "out")
    assert {out.dtype(name) for name in out.names} == {torch.float16}
    assert WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").dtype == torch.float16
    assert (tmp_path / "out" / "preprocessor_config.json").read_text() == '{"of": "legal"}'
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0
    with pytest.raises(ConfigError, match="the donor 'leagl' is not one of the models; did you mean 'legal'"):
        Recipe.from_yaml(recipe(models, donor="legal").to_yaml().replace("donor: legal", "donor: leagl"))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("decodr", r"is in the group 'decodr'; did you mean 'decoder'\? \(known are decoder, decoder\.\*\.cross, "),
        ("encoder.7", r"'encoder\.7'; did you mean 'encoder\.\*'"),
        ("head", "'head'; known are decoder"),
    ],
)
def test_a_group_that_the_model_lacks(tmp_path, group, message):
    folder = save(tiny_model("whisper"), tmp_path / "model")
    recipe = Recipe.from_yaml(
        f"method: linear\nexperts: [{{name: a, model: {folder}}}]\ngroups: [{{group: {group}, weights: {{a: 0.5}}}}]"
    )
    with pytest.raises(ConfigError, match=message):
        merge_tensors(recipe, None, [Checkpoint.open(folder)])
