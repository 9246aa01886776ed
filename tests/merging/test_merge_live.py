from __future__ import annotations

import pytest
import torch
from tiny_models import fine_tuned, save, tiny_model
from torch import nn

from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging import LiveMerge, Recipe, get_method, live, merge_tensors

FAMILIES = ["ctc", "whisper"]
WEIGHTS = {"legal": 0.7, "medical": 0.4, "technical": -0.2}


@pytest.fixture(scope="module")
def models():
    return {family: {name: fine_tuned(family, 10 + i) for i, name in enumerate(WEIGHTS)} for family in FAMILIES}


def states(models):
    return {name: model.state_dict() for name, model in models.items()}


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_model(one, two):
    """Equal parameters; of the weight-normed convolution, equal weights, because its v keeps the base's length."""
    others = dict(two.named_parameters())
    for name, value in one.named_parameters():
        if not name.endswith("weight.original1"):
            torch.testing.assert_close(value, others[name])
    torch.testing.assert_close(*(model.wav2vec2.encoder.pos_conv_embed.conv.weight for model in (one, two)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("method", "parameters"),
    [("linear", {}), ("linear", {"normalize": False}), ("task_arithmetic", {}), ("task_arithmetic", {"scale": 0.6})],
)
def test_same_values_as_the_engine(models, tmp_path, family, method, parameters):
    folders = {name: save(model, tmp_path / name) for name, model in models[family].items()}
    folders["base"] = save(tiny_model(family), tmp_path / "base")
    experts = [{"name": name, "model": str(folders[name]), "weight": weight} for name, weight in WEIGHTS.items()]
    recipe = Recipe(method=method, base=str(folders["base"]), experts=experts, parameters=parameters)
    model = tiny_model(family)
    live_merge = LiveMerge(model, states(models[family]))
    live_merge.apply("task_arithmetic", {"legal": 3.0})  # a merge must not depend on the one before
    live_merge.apply(method, WEIGHTS, parameters)
    merged = dict(model.named_parameters())
    for name, value in merge_tensors(
        recipe, Checkpoint.open(folders["base"]), [Checkpoint.open(e.model) for e in recipe.experts]
    ):
        torch.testing.assert_close(merged[name].detach(), value, rtol=1e-6, atol=1e-6)
        if method == "task_arithmetic" and "pos_conv" not in name:
            assert torch.equal(merged[name].detach(), value)  # the same function on the same numbers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "iso_c", "tsv_m"])
def test_weights_of_groups_and_over_the_depth_are_the_engines(models, tmp_path, family, method):
    folders = {name: save(model, tmp_path / name) for name, model in models[family].items()}
    folders["base"] = save(tiny_model(family), tmp_path / "base")
    weights = {"legal": [0.2, 0.9], "medical": 0.4, "technical": 0.0}
    groups = {"encoder": {"technical": 0.8}, "encoder.*": {"legal": [1.0, 0.0], "medical": 0.0}}
    experts = [{"name": name, "model": str(folders[name]), "weight": weight} for name, weight in weights.items()]
    rules = [{"group": group, "weights": own} for group, own in groups.items()]
    recipe = Recipe(method=method, base=str(folders["base"]), experts=experts, groups=rules)
    model = tiny_model(family)
    live_merge = LiveMerge(model, states(models[family]))
    live_merge.apply(method, WEIGHTS)
    live_merge.apply(method, weights, groups=groups)
    merged = dict(model.named_parameters())
    opened = [Checkpoint.open(expert.model) for expert in recipe.experts]
    for name, value in merge_tensors(recipe, Checkpoint.open(folders["base"]), opened):
        if name in merged and "pos_conv" not in name:
            torch.testing.assert_close(merged[name].detach(), value, rtol=1e-5, atol=1e-5, msg=name)
    with pytest.raises(ConfigError, match=r"group 'decoders'"):
        live_merge.apply(method, weights, groups={"decoders": {"legal": 1.0}})
    with pytest.raises(ConfigError, match=r"'encoder' has a weight for 'leagl'"):
        live_merge.apply(method, weights, groups={"encoder": {"leagl": 1.0}})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["tsv_m", "boosted_tsv_m"])
def test_parts_that_are_kept_give_what_a_first_merge_gives(models, family, method, monkeypatch):
    """With other weights, parameters and experts in turn; and decomposed again only where they have to be."""
    chosen = get_method(method)
    decomposed = []
    monkeypatch.setattr(chosen, "parts", lambda *block: decomposed.append(block) or type(chosen).parts(chosen, *block))
    model, other = tiny_model(family), tiny_model(family)
    kept, fresh = LiveMerge(model, states(models[family])), LiveMerge(other, states(models[family]))
    two = {"legal": 0.5, "medical": 0.25, "technical": 0.0}
    steps = [
        (WEIGHTS, {}, True),
        ({"legal": 0.1, "medical": -0.4, "technical": 2.0}, {}, False),
        (two, {}, True),
        ({"legal": 0.6, "medical": 0.2}, {}, False),
        ({"legal": 0.6, "medical": 0.2}, {"scale": 0.5}, True),
        (dict.fromkeys(WEIGHTS, 0.0), {"scale": 0.5}, False),
    ]
    for weights, parameters, anew in steps:
        decomposed.clear()
        for other_method in ("iso_c", "task_arithmetic"):  # no parts, and parts that are there anyway: what is kept stays
            kept.apply(other_method, weights)
        kept.apply(method, weights, parameters)
        assert bool(decomposed) == anew
        with monkeypatch.context() as patched:
            patched.setattr(chosen, "parts", lambda *block: None)
            fresh._parts.clear()  # nothing kept: the method's own merge
            fresh.apply(method, weights, parameters)
        for (name, value), expected in zip(model.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_restore_to_the_bit(models, family, dtype):
    model = fine_tuned(family, 99).to(dtype)  # unlike at the start, g is not ‖v‖: splitting anew would round
    before = snapshot(model)
    live_merge = LiveMerge(model, states(models[family]))
    live_merge.apply("linear", WEIGHTS)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) > 10 and "model.encoder.embed_positions.weight" not in changed
    assert all(value.dtype == dtype for value in model.state_dict().values())
    live_merge.restore()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_sum_of_task_vectors_makes_no_negative_variance():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    base = snapshot(model)
    expert = {**base, "1.running_var": torch.tensor([0.25, 3.0]), "0.weight": base["0.weight"] + 1}
    LiveMerge(model, {"legal": expert}).apply("task_arithmetic", {"legal": 2.0})
    assert model.state_dict()["1.running_var"].tolist() == [0.25, 5.0]  # 1 + 2·(0.25 − 1) < 0
    torch.testing.assert_close(model.state_dict()["0.weight"], base["0.weight"] + 2)


def test_tied_weights_stay_tied_and_gradients_still_work(models):
    model = tiny_model("whisper")
    LiveMerge(model, states(models["whisper"])).apply("linear", {"legal": 1.0})
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert model.proj_out.weight.requires_grad and model.proj_out.weight.is_leaf
    torch.testing.assert_close(model.proj_out.weight, models["whisper"]["legal"].proj_out.weight)


def test_the_forward_pass_is_the_experts(models):
    model = tiny_model("ctc")
    LiveMerge(model, states(models["ctc"])).apply("linear", {"legal": 2.0})
    audio = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(audio).logits, models["ctc"]["legal"](audio).logits, rtol=1e-4, atol=1e-4)


def test_old_spelling_and_missing_tied_name(models):
    state = models["ctc"]["legal"].state_dict()
    prefix = "wav2vec2.encoder.pos_conv_embed.conv."
    for number, old in enumerate("gv"):
        state[f"{prefix}weight_{old}"] = state.pop(f"{prefix}parametrizations.weight.original{number}")
    model = tiny_model("ctc")
    LiveMerge(model, {"legal": state}).apply("linear", {"legal": 1})
    same_model(model, models["ctc"]["legal"])
    state = models["whisper"]["legal"].state_dict()
    del state["proj_out.weight"]
    LiveMerge(tiny_model("whisper"), {"legal": state})


def test_every_method_can_ask_for_experts(models, monkeypatch):
    class First:
        name, needs_base, parameters = "first", False, live.Parameters

        def merge(self, block, parameters):
            assert len(block.experts) == len(block.experts[:]) == len(block.weights) == 2
            return block.experts[0]

    monkeypatch.setattr(live, "get_method", lambda name: First())
    model = tiny_model("ctc")
    LiveMerge(model, states(models["ctc"])).apply("first", {"medical": 1, "legal": 1}, live.Parameters())
    same_model(model, models["ctc"]["legal"])


def test_errors(models):
    good = states(models["ctc"])
    made = LiveMerge(tiny_model("ctc"), good)
    with pytest.raises(
        ConfigError, match=r"unknown expert 'leagl' in the weights; did you mean 'legal'\? \(known are legal, med"
    ):
        made.apply("linear", {"leagl": 1.0})
    with pytest.raises(ConfigError, match="no weights to merge with"):
        made.apply("linear", {})
    with pytest.raises(ConfigError, match="the weight of 'legal' is nan: give a finite number"):
        made.apply("linear", {"legal": float("nan")})
    with pytest.raises(ConfigError, match=r"parameters of linear: unknown key 'normalise'; did you mean 'normalize'"):
        made.apply("linear", {"legal": 1.0}, {"normalise": True})
    with pytest.raises(ConfigError, match="at least one expert"):
        LiveMerge(tiny_model("ctc"), {})
    name = "lm_head.bias"
    for change, error, message in [
        ({name: None}, IncompatibleError, "lm_head.bias is in the model but not in the expert legal: merge"),
        ({"more": torch.zeros(1)}, IncompatibleError, "more is in the expert legal but not in the model"),
        ({name: torch.zeros(3)}, IncompatibleError, r"lm_head.bias has shape \[12\] in the model and \[3\] in the expert legal"),
        ({name: torch.full((12,), torch.inf)}, CheckpointError, "lm_head.bias in legal holds NaN or Inf: "),
    ]:
        state = {key: value for key, value in (good["legal"] | change).items() if value is not None}
        with pytest.raises(error, match=message):
            LiveMerge(tiny_model("ctc"), {"legal": state})
