"""Fisher merging, UGM, RegMean and MaTS of whole folders, with statistics files, by the engine and on a live model."""

from __future__ import annotations

import json
import logging

import averages
import curvature
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CTC_TOKENS, fine_tuned, save, tiny_model
from tiny_statistics import MAGNITUDE, add_statistics, is_linear, load

from asrmerge.checkpoints import Checkpoint
from asrmerge.merging import LiveMerge, Recipe, engine, merge_tensors, merge_to_folder
from asrmerge.merging.plan import plan_merge
from asrmerge.merging.statistics import open_base_statistics, open_statistics

WEIGHTS = {"legal": 0.7, "medical": 0.4, "technical": 1.2}
UTTERANCES = {"legal": 3, "medical": 20, "technical": 7}
CHOICES = [
    ("fisher", {}),
    ("fisher", {"normalize": True, "floor_on": "target"}),
    ("ugm", {"base_scale": 2.0, "prior": 0.1, "scale": 0.8}),
    ("ugm", {"counts": False}),
    ("regmean", {"alpha": 0.8}),
    ("regmean", {"alpha": 1.0, "jitter": 0.01, "scale": 0.6}),
    ("mats", {"iterations": 1000, "tolerance": 1e-12, "start": "task_arithmetic", "start_scale": 0.3}),
]
by_choice = pytest.mark.parametrize(("method", "parameters"), CHOICES, ids=lambda value: value if isinstance(value, str) else "")


@pytest.fixture(scope="module", params=["ctc", "whisper"])
def models(request, tmp_path_factory):
    """The family, and a folder with the base and three fine-tunes, each with its statistics in it."""
    root = tmp_path_factory.mktemp(request.param)
    add_statistics(save(tiny_model(request.param), root / "base"), 0, 100)
    for seed, (name, utterances) in enumerate(UTTERANCES.items(), start=1):
        add_statistics(save(fine_tuned(request.param, seed), root / name), seed, utterances)
    return request.param, root


def recipe(root, method, parameters=None, **changes):
    experts = [{"name": name, "model": str(root / name), "statistics": str(root / name), "weight": weight}
               for name, weight in WEIGHTS.items()]  # fmt: skip
    content = {"method": method, "base": str(root / "base"), "experts": experts, "parameters": parameters or {}}
    return Recipe.model_validate(content | changes)


def states(root):
    """The base's tensors and those of every expert, weight-normed pairs as their product."""
    loaded = [load_file(root / name / "model.safetensors") for name in ("base", *WEIGHTS)]
    return [averages.effective({name: tensor.numpy() for name, tensor in state.items()}) for state in loaded]


def expected_of(root, method, parameters):
    base, *experts = states(root)
    weights = list(WEIGHTS.values())
    if method in ("fisher", "ugm"):
        return _diagonal(root, method, parameters, base, experts, weights)
    merged = {name: averages.linear([expert[name] for expert in experts], weights) for name in base}
    grams, factors = ([load(root / name, kind) for name in WEIGHTS] for kind in ("grams", "factors"))
    for name in base:
        if not is_linear(name, base[name].shape):
            continue
        module, bias = name.removesuffix(".weight"), name.removesuffix("weight") + "bias"
        joined = [
            np.concatenate(
                [expert[name].reshape(len(expert[name]), -1), *([expert[bias][:, None]] if bias in base else [])], axis=1
            )
            for expert in experts
        ]
        width = joined[0].shape[1]
        own = [gram[module].numpy()[:width, :width] for gram in grams]
        if method == "regmean":
            found = curvature.regmean(joined, weights, own, parameters["alpha"], parameters.get("jitter", 1e-6))
        else:
            found = curvature.mats(joined, weights, own, [factor[module].numpy() for factor in factors])
        if bias in base:
            merged[bias], found = found[:, -1], found[:, :-1]
        merged[name] = found.reshape(base[name].shape)
    scale = parameters.get("scale", 1.0)
    return {name: base[name] + scale * (np.float64(merged[name]) - base[name]) for name in base}


def _diagonal(root, method, parameters, base, experts, weights):
    merged = {}
    fishers, known = [load(root / name, "fisher") for name in WEIGHTS], load(root / "base", "fisher")
    # Copied tensors are merged by no method, and have no part in the norms.
    merge = [name for name in base if not name.endswith("encoder.embed_positions.weight")]
    norms = [np.sqrt(sum(float((fisher[name].double() ** 2).sum()) for name in merge)) for fisher in fishers]
    for name in merge:
        own, each = [fisher[name].numpy() for fisher in fishers], [expert[name] for expert in experts]
        if method == "fisher":
            floors = [1e-6 if weight == max(weights) else 0.0 for weight in weights]
            merged[name] = curvature.fisher(each, weights, own, floors, norms if parameters else None)
        else:
            counts = list(UTTERANCES.values()) if parameters.get("counts", True) else [1] * 3
            curve = parameters.get("base_scale", 1.0) * known[name].double().numpy() + parameters.get("prior", 1e-6)
            merged[name] = curvature.ugm(base[name], each, weights, own, counts, curve, parameters.get("scale", 1.0))
    return merged


def same(merged, expected):
    for name, value in expected.items():
        if not name.endswith("encoder.embed_positions.weight"):
            np.testing.assert_allclose(merged[name], value, rtol=1e-5, atol=2e-5, err_msg=name)


@by_choice
def test_a_folder_is_merged_as_the_reference_says(models, tmp_path, method, parameters):
    _, root = models
    made = recipe(root, method, parameters, base_statistics=str(root / "base"))
    merge_to_folder(made, tmp_path / "out", workers=2)
    merged = {name: tensor.numpy() for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()}
    same(averages.effective(merged), expected_of(root, method, parameters))


@pytest.mark.parametrize("method", ["fisher", "ugm", "regmean", "mats"])
def test_bytes_do_not_hang_on_workers_pieces_or_order(models, tmp_path, monkeypatch, method):
    _, root = models
    parameters = {"iterations": 7} if method == "mats" else {}
    merge_to_folder(recipe(root, method, parameters), tmp_path / "one", workers=1)
    monkeypatch.setattr(engine, "PIECE", 16)
    made = recipe(root, method, parameters)
    merge_to_folder(made.model_copy(update={"experts": made.experts[::-1]}), tmp_path / "three", workers=3)
    one, three = (tmp_path / folder / "model.safetensors" for folder in ("one", "three"))
    assert one.read_bytes() == three.read_bytes()
    records = [
        json.loads((tmp_path / folder / "merge_provenance.json").read_text()).get("records") for folder in ("one", "three")
    ]
    assert records[0] == records[1] and list(records[0] or {}) == list(records[1] or {})


def test_provenance_says_how_far_mats_came(models, tmp_path):
    _, root = models
    merge_to_folder(recipe(root, "mats", {"iterations": 7}), tmp_path / "out")
    records = json.loads((tmp_path / "out" / "merge_provenance.json").read_text())["records"]
    checkpoint = Checkpoint.open(root / "base")
    assert list(records) == sorted(name for name in checkpoint.names if is_linear(name, checkpoint.shape(name)))
    for record in records.values():
        assert record["start"] == "average" and 1 <= record["iterations"] <= 7 and 0 <= record["residual"] < 0.5
    merge_to_folder(recipe(root, "regmean"), tmp_path / "other")
    assert "records" not in json.loads((tmp_path / "other" / "merge_provenance.json").read_text())


@by_choice
def test_a_live_merge_is_the_engines(models, method, parameters):
    family, root = models
    made = recipe(root, method, parameters, base_statistics=str(root / "base"))
    base, experts = Checkpoint.open(root / "base"), [Checkpoint.open(root / name) for name in WEIGHTS]
    plan = plan_merge(made, base, experts)
    units = [planned.unit for planned in plan.units if not planned.unit.copied]
    kinds = {"fisher": ("fisher",), "ugm": ("fisher",), "regmean": ("grams",), "mats": ("grams", "factors")}[method]
    opened = dict(zip(WEIGHTS, open_statistics(made.experts, experts, kinds, units), strict=True))
    own = open_base_statistics(str(root / "base"), base, units) if "fisher" in kinds else None
    model = tiny_model(family)
    loaded = {name: load_file(root / name / "model.safetensors") for name in WEIGHTS}
    live = LiveMerge(model, loaded, opened, own)
    live.apply(method, {"legal": 3.0}, parameters)  # a merge must not depend on the one before
    live.apply(method, WEIGHTS, parameters)
    merged = dict(model.named_parameters())
    for name, value in merge_tensors(made, base, experts):
        torch.testing.assert_close(merged[name].detach(), value, rtol=2e-6, atol=5e-6, msg=name)


@pytest.mark.parametrize("method", ["fisher", "ugm", "regmean", "mats"])
def test_rows_of_a_head_go_with_their_tokens(tmp_path, method):
    """An expert with its tokens in another order, and its statistics with them, is the same expert."""
    order = torch.randperm(len(CTC_TOKENS), generator=torch.Generator().manual_seed(5))
    folders = {}
    for seed, name in enumerate(("base", "legal", "medical")):
        folders[name] = add_statistics(save(fine_tuned("ctc", seed), tmp_path / name), seed, 5)
    model = fine_tuned("ctc", 2)
    with torch.no_grad():
        for tensor in (model.lm_head.weight, model.lm_head.bias):
            tensor.copy_(tensor[order].clone())
    tokens = [CTC_TOKENS[row] for row in order]
    model.config.pad_token_id = tokens.index("<pad>")
    folders["turned"] = save(model, tmp_path / "turned")
    (tmp_path / "turned" / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    for kind in ("fisher", "grams", "factors"):
        found = load(folders["medical"], kind)
        if kind == "fisher":
            found |= {name: found[name][order].clone() for name in ("lm_head.weight", "lm_head.bias")}
        if kind == "factors":
            found["lm_head"] = found["lm_head"][order][:, order].clone()
        save_file(found, folders["turned"] / f"{kind}.safetensors")

    def merge(names):
        experts = [{"name": label, "model": str(folders[name]), "statistics": str(folders[name]), "weight": weight}
                   for label, name, weight in zip("ab", names, (1.0, 0.6), strict=True)]  # fmt: skip
        parameters = {"counts": False} if method == "ugm" else {}
        made = Recipe.model_validate(
            {"method": method, "base": str(folders["base"]), "experts": experts, "parameters": parameters}
        )
        checkpoints = [Checkpoint.open(folders[name]) for name in names]
        return dict(merge_tensors(made, Checkpoint.open(folders["base"]), checkpoints))

    plain, turned = merge(("legal", "medical")), merge(("legal", "turned"))
    for name, value in plain.items():
        torch.testing.assert_close(turned[name], value, rtol=1e-6, atol=1e-6, msg=name)
    moved = plain["lm_head.weight"] - Checkpoint.open(folders["base"]).read("lm_head.weight")
    assert float(moved.abs().max()) > 0.01


def test_tied_weights_stay_tied_and_models_load(models, tmp_path):
    family, root = models
    for method in ("fisher", "regmean"):
        merge_to_folder(recipe(root, method), tmp_path / method)
        model = type(tiny_model(family)).from_pretrained(tmp_path / method)
        if family == "whisper":
            assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
        assert not any(name.endswith("proj_out.weight") for name in load_file(tmp_path / method / "model.safetensors"))


def test_a_rule_may_name_another_method(models, tmp_path):
    """RegMean where there are linear maps of one part, the average elsewhere; statistics are needed all the same."""
    _, root = models
    merge_to_folder(recipe(root, "linear", groups=[{"group": "encoder", "method": "regmean"}]), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    _, *experts = states(root)
    ones = expected_of(root, "regmean", {"alpha": 0.9})
    inside = [name for name in ones if "encoder.layers.0." in name and is_linear(name, ones[name].shape)]
    outside = [name for name in merged if "encoder.layers" not in name and not name.endswith((MAGNITUDE, "original1"))]
    assert inside and outside
    same({name: merged[name].numpy() for name in inside}, {name: ones[name] for name in inside})
    plain = {name: averages.linear([expert[name] for expert in experts], list(WEIGHTS.values())) for name in outside}
    same({name: merged[name].numpy() for name in outside}, plain)


def test_without_statistics_of_the_base_ugm_says_so(models, caplog):
    _, root = models
    experts = [Checkpoint.open(root / name) for name in WEIGHTS]
    with caplog.at_level(logging.INFO, logger="asrmerge"):
        merged = dict(merge_tensors(recipe(root, "ugm", {"prior": 1e6}), Checkpoint.open(root / "base"), experts))
    assert caplog.text.count("no base_statistics, so the base's curvature is 1e+06 everywhere") == 1
    sums = dict(merge_tensors(recipe(root, "task_arithmetic"), Checkpoint.open(root / "base"), experts))
    for name, value in sums.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-3, atol=1e-3, msg=name)
