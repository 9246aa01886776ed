"""What is merged by mergekit's YAML: mergekit's own tensors, settings and layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import fine_tuned, save, tiny_model

from asrmerge.adapters import open_adapted
from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.merging import Recipe, merge_tensors, merge_to_folder
from asrmerge.merging.plan import plan_merge
from asrmerge.merging.references import open_model

SLERP = """
slices:
  - sources:
      - {model: org/one, layer_range: [0, 4]}
      - {model: org/two, layer_range: [0, 4]}
merge_method: slerp
base_model: org/one
parameters:
  t:
    - {filter: attention, value: [0, 0.5, 1]}
    - {filter: feed_forward, value: [1, 0.5, 0]}
    - value: 0.5
"""

EXPANSION = """
slices:
- sources:
  - model: org/one
    layer_range: [0, 2]
- sources:
  - model: org/one
    layer_range: [1, 2]
    parameters:
      scale:
        - filter: out_proj
          value: 0.0
        - filter: output_dense
          value: 0.0
        - value: 1.0
- sources:
  - model: org/two
    layer_range: [2, 3]
merge_method: passthrough
dtype: float32
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Fine-tunes of one base, in folders named as in the examples."""
    root = tmp_path_factory.mktemp("models")
    (root / "org").mkdir()
    for seed, name in enumerate(("base", "one", "two", "three", "legal", "medical"), start=1):
        model = fine_tuned("ctc", 1)
        with torch.no_grad():
            for change, scale in ((50, 0.05), (seed, 0.02)):  # a part in common, so that the task vectors agree
                generator = torch.Generator().manual_seed(change)
                for parameter in model.parameters():
                    moved = scale * torch.randn(parameter.shape, generator=generator)
                    parameter.add_(moved if name != "base" else 0)
        save(model, root / "org" / name)
    return root


def mergekit_merge(text, folders, output):
    """The tensors that mergekit-pytorch makes."""
    raw = pytest.importorskip("mergekit.scripts.merge_raw_pytorch")
    from mergekit.graph import Executor
    from mergekit.options import MergeOptions

    content = yaml.safe_load(text)
    content = {key: value for key, value in content.items() if key not in ("tokenizer_source", "name")}
    for entry in content["models"]:
        entry["model"] = str(folders / entry["model"] / "model.safetensors")
    if "base_model" in content:
        content["base_model"] = str(folders / content["base_model"] / "model.safetensors")
    options = MergeOptions(quiet=True)
    tasks = raw.plan_flat_merge(raw.RawPyTorchMergeConfig.model_validate(content), str(output), False, False, options)
    Executor(tasks, math_device="cpu", storage_device="cpu").execute()
    return {name: value for path in sorted(Path(output).glob("*.safetensors")) for name, value in load_file(path).items()}


def three(method, *, weights=(0.5, 0.4, 0.3), options="", base=True):
    models = "".join(
        f"\n  - {{model: org/{name}, parameters: {{weight: {weight}}}}}"
        for name, weight in zip(("one", "two", "three"), weights, strict=False)
    )
    start = "base_model: org/base\n" if base else ""
    return f"merge_method: {method}\n{start}models:{models}\nparameters: {{{options}}}\ndtype: float32\n"


FILTERED = "weight: [{filter: attention, value: 0.9}, {filter: feed_forward, value: 0.1}, {value: 0.5}]"


@pytest.mark.parametrize(
    "text",
    [
        three("linear", base=False),
        three("linear", base=False, options="normalize: false"),
        three("task_arithmetic", options="lambda: 0.8"),
        three("task_arithmetic", options="normalize: true"),
        three("ties", options="density: 0.5"),
        three("ties", options="density: 0.5, normalize: false, lambda: 1.2"),
        three("dare_ties"),
        three("dare_linear"),
        three("della"),
        three("breadcrumbs", options="density: 0.5, gamma: 0.25"),
        three("breadcrumbs_ties", options="density: 0.5, gamma: 0.25"),
        three("model_stock"),
        three("sce", options="select_topk: 0.5"),
        three("karcher", base=False),
        three("nuslerp", weights=(0.3, 0.6)),
        three("nuslerp", weights=(0.3, 0.6), base=False, options="nuslerp_flatten: false, nuslerp_row_wise: true"),
        three("linear", base=False).replace("{weight: 0.5}", f"{{{FILTERED}}}"),
        three("task_arithmetic").replace("{weight: 0.4}", f"{{{FILTERED}}}"),
        three("karcher", options="max_iter: 1, tol: 1e-7"),
        "merge_method: slerp\nbase_model: org/one\nmodels: [{model: org/one}, {model: org/two}]\n"
        "parameters: {t: [{filter: attention, value: 0.2}, {value: 0.7}]}",
        "merge_method: passthrough\nmodels: [{model: org/one, parameters: {scale: [{filter: out_proj, value: 0.5}]}}]",
    ],
)
def test_merged_tensors_equal_mergekits(text, folders, tmp_path, monkeypatch):
    theirs = mergekit_merge(text, folders, tmp_path / "theirs")
    monkeypatch.chdir(folders)
    merge_to_folder(Recipe.from_yaml(text), tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    base = load_file(folders / "org" / "base" / "model.safetensors")
    for name, value in ours.items():
        if "parametrizations" in name:
            continue  # mergekit averages the two factors of a weight-normed weight apart
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=2e-6, msg=lambda message, name=name: f"{name}: {message}")
        assert not torch.equal(value, base[name])


def layered(folder, seeds, layers=4):
    """Folders of models with several layers."""
    from transformers import Wav2Vec2ForCTC

    for name, seed in seeds.items():
        config = tiny_model("ctc").config
        config.num_hidden_layers = layers
        torch.manual_seed(seed)
        save(Wav2Vec2ForCTC(config), folder / "org" / name)
    return folder


def weights_of(recipe):
    """name of a parameter → its weights by expert, as planned."""
    base = open_model(recipe.base) if recipe.base else None
    plan = plan_merge(recipe, base, [open_model(expert.model) for expert in recipe.experts])
    return {one.unit.name: dict(zip(plan.names, one.weights, strict=True)) for one in plan.units}


def test_settings_are_resolved_as_mergekit_resolves_them(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("mergekit.config").evaluate_setting
    conditional = pytest.importorskip("mergekit.config").ConditionalParameter
    monkeypatch.chdir(layered(tmp_path, {"one": 1, "two": 2}))
    found = weights_of(Recipe.from_yaml(SLERP))
    setting = [conditional(**one) for one in yaml.safe_load(SLERP)["parameters"]["t"]]
    layers = [name for name in found if ".layers." in name]
    for name in layers:
        t = evaluate(name, setting, int(name.split(".layers.")[1].split(".")[0]) / 3, validate=float)
        assert found[name]["two"] == pytest.approx(t) and found[name]["one"] == pytest.approx(1 - t), name
    assert len(layers) > 40 and found["lm_head.weight"] == {"one": 0.5, "two": 0.5}


def test_lists_start_anew_with_every_slice(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("mergekit.config").evaluate_setting
    monkeypatch.chdir(layered(tmp_path, {"one": 1, "two": 2}))
    text = """
slices:
  - sources:
      - {model: org/one, layer_range: [0, 3], parameters: {weight: [0, 1]}}
      - {model: org/two, layer_range: [0, 3], parameters: {weight: [{filter: attention, value: [2, 4, 8]}, {value: 1}]}}
    parameters: {weight: 9}
  - sources:
      - {model: org/one, layer_range: [2, 4]}
      - {model: org/two, layer_range: [2, 4], parameters: {weight: [5, 7]}}
    parameters: {weight: 3}
merge_method: linear
parameters: {normalize: false}
"""
    found = weights_of(Recipe.from_yaml(text))
    for name, weights in found.items():
        if ".layers." not in name:
            continue
        number = int(name.split(".layers.")[1].split(".")[0])
        if number < 3:
            two = evaluate(name, [2, 4, 8] if "attention" in name else 1, number / 2, validate=float)
            expected = {"one": number / 2, "two": two}
        else:
            expected = {"one": 3, "two": evaluate(name, [5, 7], number - 3, validate=float)}
        assert weights == pytest.approx(expected), name
    assert max(int(name.split(".layers.")[1].split(".")[0]) for name in found if ".layers." in name) == 4
    assert found["wav2vec2.feature_projection.projection.weight"] == {"one": 0, "two": 1}
    assert found["lm_head.weight"] == {"one": 3, "two": 5}  # of the last slice


def test_block_expansion(tmp_path, monkeypatch):
    monkeypatch.chdir(layered(tmp_path, {"one": 1, "two": 2}, layers=3))
    merge_to_folder(Recipe.from_yaml(EXPANSION), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    one, two = (load_file(tmp_path / "org" / name / "model.safetensors") for name in ("one", "two"))
    for name, value in merged.items():
        number = int(name.split(".layers.")[1].split(".")[0]) if "encoder.layers." in name else None
        if number is None:
            source, layer = (two if name.startswith(("lm_head", "wav2vec2.encoder.layer_norm")) else one), None
        else:
            source, layer = [(one, 0), (one, 1), (one, 1), (two, 2)][number]
        expected = source[name if layer is None else name.replace(f"layers.{number}.", f"layers.{layer}.")]
        if number == 2 and ("out_proj" in name or "output_dense" in name):
            expected = expected * 0
        assert torch.equal(value, expected), name


def test_whispers_modules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        save(fine_tuned("whisper", seed), tmp_path / name)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    text = "merge_method: passthrough\nmodules: {encoder: {models: [{model: a}]}, decoder: {models: [{model: b}]}}"
    merge_to_folder(Recipe.from_yaml(text), tmp_path / "out")
    for name, value in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(value, (a if name.startswith("model.encoder.") else b)[name])
    text = """
merge_method: linear
modules:
  encoder: {models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 0}}]}
  decoder:
    models: [{model: a}, {model: b}]
    parameters: {weight: [{filter: encoder, value: 7}, {value: 1}]}
parameters: {weight: [{filter: fc2, value: 4}, {value: 1}]}
"""
    found = weights_of(Recipe.from_yaml(text))
    assert found["model.encoder.layers.0.fc1.weight"] == {"a": 1, "b": 0}
    assert found["model.decoder.layers.0.fc1.weight"] == {"a": 1, "b": 1}
    assert found["model.decoder.layers.0.encoder_attn.k_proj.weight"] == {"a": 1, "b": 1}  # filters don't leave the module
    text = text.replace("filter: encoder", "filter: encoder_attn")
    assert weights_of(Recipe.from_yaml(text))["model.decoder.layers.0.encoder_attn.k_proj.weight"] == {"a": 7, "b": 7}


def test_filters_are_whole_parts_of_names(tmp_path, monkeypatch):
    """In mergekit, ``encoder`` also changes the decoder's cross-attention."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        save(fine_tuned("whisper", seed), tmp_path / name)
    text = """
merge_method: linear
models: [{model: a, parameters: {weight: [{filter: encoder, value: 0.2}, {value: 1}]}}, {model: b}]
"""
    found = weights_of(Recipe.from_yaml(text))
    assert found["model.encoder.layers.0.fc1.weight"]["a"] == 0.2
    assert found["model.decoder.layers.0.encoder_attn.k_proj.weight"]["a"] == 1
    message = "recipe: no tensor of this model has 'attn' as a whole part of its name; .*encoder_attn"
    with pytest.raises(ConfigError, match=message):
        weights_of(Recipe.from_yaml(text.replace("filter: encoder", "filter: attn")))


def test_adapters_in_references(folders, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    model = fine_tuned("ctc", 1)
    model.load_state_dict(load_file(folders / "org" / "one" / "model.safetensors"))
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(folders)
    text = f"merge_method: linear\nmodels: [{{model: 'org/one+{tmp_path}/adapter'}}, {{model: org/two}}]"
    recipe = Recipe.from_yaml(text)
    assert [expert.name for expert in recipe.experts] == ["adapter", "two"]
    merge_to_folder(recipe, tmp_path / "out")
    name = "wav2vec2.encoder.layers.0.attention.q_proj.weight"
    adapted = open_adapted(tmp_path / "adapter", folders / "org" / "one").read(name)
    two = load_file(folders / "org" / "two" / "model.safetensors")[name]
    torch.testing.assert_close(load_file(tmp_path / "out" / "model.safetensors")[name], (adapted + two) / 2)
    assert not torch.equal(adapted, Checkpoint.open(folders / "org" / "one").read(name))
    streamed = merge_tensors(recipe, None, [open_model(expert.model) for expert in recipe.experts])
    torch.testing.assert_close(dict(streamed)[name], (adapted + two) / 2)


def test_references_prefer_folders(folders, tmp_path):
    folder = save(tiny_model("ctc"), tmp_path / "odd@name+more")
    assert open_model(str(folder)).folder == folder
    with pytest.raises(CheckpointError, match="has no revision v1"):
        open_model(f"{folders}/org/one@v1")
