from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import averages
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import fine_tuned, save, tiny_model
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import AsrmergeError, CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging import Recipe, engine, merge_tensors, merge_to_folder
from asrmerge.merging.methods._random_masks import MASKS

FAMILIES = ["ctc", "whisper"]
WEIGHTS = {"legal": 0.7, "medical": 0.4, "technical": -0.2}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def models(family, tmp_path_factory):
    """base, legal, medical, technical: folders of fine-tunes of one base."""
    root = tmp_path_factory.mktemp(family)
    folders = {"base": save(tiny_model(family), root / "base")}
    return folders | {name: save(fine_tuned(family, 10 + i), root / name) for i, name in enumerate(WEIGHTS)}


def recipe(models, method="task_arithmetic", weights=WEIGHTS, base=True, **parameters):
    experts = [{"name": name, "model": str(models[name]), "weight": weight} for name, weight in weights.items()]
    return Recipe(method=method, base=str(models["base"]) if base else None, experts=experts, parameters=parameters)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state(folder):
    return {name: value.float().numpy() for name, value in load_file(folder / "model.safetensors").items()}


def expected(models, made):
    """What NumPy makes of it, weight-normed pairs as their product, Whisper's sinusoids from the base."""
    base = averages.effective(state(models["base"]))
    experts = [averages.effective(state(models[expert.name])) for expert in made.experts]
    weights = [expert.weight for expert in made.experts]
    result = {}
    for name, value in base.items():
        blocks = [expert[name] for expert in experts]
        if name.endswith("encoder.embed_positions.weight"):
            result[name] = value
        elif made.method == "linear":
            result[name] = averages.linear(blocks, weights, made.parameters.get("normalize", True))
        else:
            result[name] = averages.task_arithmetic(value, blocks, weights, made.parameters.get("scale", 1.0))
    return result


def opened(made):
    base = Checkpoint.open(made.base) if made.base else None
    return base, [Checkpoint.open(expert.model) for expert in made.experts]


@pytest.mark.parametrize(
    ("method", "parameters"), [("linear", {}), ("linear", {"normalize": False}), ("task_arithmetic", {"scale": 0.6})]
)
def test_folder_is_the_reference_and_loads(models, family, tmp_path, method, parameters):
    made = recipe(models, method, **parameters)
    merge_to_folder(made, tmp_path / "out")
    merged = averages.effective(state(tmp_path / "out"))
    reference = expected(models, made)
    assert merged.keys() == reference.keys()
    for name, value in reference.items():
        np.testing.assert_allclose(merged[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    loader = AutoModelForCTC if family == "ctc" else AutoModelForSpeechSeq2Seq
    model, info = loader.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    loaded = averages.effective({name: value.numpy() for name, value in model.state_dict().items()})
    for name, value in reference.items():
        np.testing.assert_allclose(loaded[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    if family == "ctc":  # what the convolution really uses
        weight = model.wav2vec2.encoder.pos_conv_embed.conv.weight.detach()
        np.testing.assert_allclose(weight, reference["wav2vec2.encoder.pos_conv_embed.conv.weight"], rtol=1e-4, atol=1e-6)
    else:
        assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
        assert "proj_out.weight" not in merged


def test_same_bytes_every_time_and_in_any_order(models, tmp_path):
    made = recipe(models)
    for name in ("one", "two"):
        merge_to_folder(made, tmp_path / name)
    merge_to_folder(made, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    merge_to_folder(recipe(models, weights=dict(reversed(WEIGHTS.items()))), tmp_path / "three")
    assert content(tmp_path / "one")["model.safetensors"] == content(tmp_path / "three")["model.safetensors"]


def test_what_the_folder_says_about_itself(models, tmp_path):
    made = recipe(models)
    merge_to_folder(made, tmp_path / "out")
    assert Recipe.read(tmp_path / "out" / "merge_recipe.yaml") == made
    provenance = json.loads((tmp_path / "out" / "merge_provenance.json").read_text())
    assert provenance["method"] == "task_arithmetic" and provenance["parameters"] == {"scale": 1.0}
    assert provenance["asrmerge"] and provenance["recipe_sha256"] == made.hash()
    assert provenance["base"]["sha256"] == Checkpoint.open(models["base"]).hash()
    assert [expert["sha256"] for expert in provenance["experts"]] == [Checkpoint.open(models[name]).hash() for name in WEIGHTS]
    assert [expert["weight"] for expert in provenance["experts"]] == list(WEIGHTS.values())
    assert {"vocab.json", "preprocessor_config.json", "LICENSE", "README.md"} <= set(content(tmp_path / "out"))
    assert "masks" not in provenance


def test_the_folder_says_what_drew_its_masks(models, tmp_path):
    """Also where only a rule drops at random."""
    made = recipe(models)
    rule = {"group": "norms", "method": "della", "parameters": {"density": 0.5}}
    merge_to_folder(Recipe(**made.model_dump() | {"groups": [rule]}), tmp_path / "out")
    provenance = json.loads((tmp_path / "out" / "merge_provenance.json").read_text())
    assert provenance["masks"] == {"della": MASKS}


def test_invariants_on_whole_models(models):
    def same(made, folder):
        merged = {name: tensor.numpy() for name, tensor in merge_tensors(made, *opened(made))}
        for name, value in averages.effective(state(folder)).items():
            np.testing.assert_allclose(averages.effective(merged)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)

    same(recipe(models, weights=dict.fromkeys(WEIGHTS, 0.0)), models["base"])
    same(recipe(models, scale=0.0), models["base"])
    same(recipe(models, weights={"legal": 1.0}), models["legal"])
    same(recipe(models, "linear", weights=WEIGHTS | {"medical": 0, "technical": 0}), models["legal"])
    copies = models | {"medical": models["legal"], "technical": models["legal"]}
    same(recipe(copies, "linear", weights=dict.fromkeys(WEIGHTS, 2.0), base=False), models["legal"])


def test_zero_scale_stores_the_base_as_it_was(models):
    """Also g and v of the positional convolution, whose split is not unique."""
    made = recipe(models, scale=0.0)
    base, experts = opened(made)
    for name, tensor in merge_tensors(made, base, experts):
        torch.testing.assert_close(tensor, base.read(name), rtol=1e-6, atol=0)


def test_names_are_sorted_and_dtypes_the_bases(models, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(models["base"], half)
    stored = load_file(half / "model.safetensors")
    save_file(
        {name: value.half() if name.endswith("bias") else value for name, value in stored.items()}, half / "model.safetensors"
    )
    made = recipe(models | {"base": half})
    base, experts = opened(made)
    merged = list(merge_tensors(made, base, experts))
    assert [name for name, _ in merged] == sorted(name for name, _ in merged) == list(base.names)
    assert {tensor.dtype for _, tensor in merged} == {torch.float16, torch.float32}
    assert all(tensor.dtype == base.dtype(name) for name, tensor in merged)


def test_float16_is_cast_once(models, tmp_path):
    """Sums of float16 models are made in float32: rounding the exact sum gives the same numbers."""
    halves = {}
    for name, folder in models.items():
        halves[name] = shutil.copytree(folder, tmp_path / name)
        stored = load_file(folder / "model.safetensors")
        save_file({key: value.half() for key, value in stored.items()}, halves[name] / "model.safetensors")
    made = recipe(halves)
    reference = expected(halves, made)
    for name, tensor in merge_tensors(made, *opened(made)):
        if name in reference and "encoder.embed_positions" not in name:
            error = np.abs(tensor.double().numpy() - reference[name])
            assert (error <= np.spacing(np.abs(reference[name]).astype(np.float16)).astype(float) * 0.51 + 1e-7).all(), name


def test_integer_tensors_are_copied(models, tmp_path):
    changed = {}
    for number, (name, folder) in enumerate(models.items()):
        changed[name] = shutil.copytree(folder, tmp_path / name)
        stored = load_file(folder / "model.safetensors") | {"steps": torch.tensor([number])}
        save_file(stored, changed[name] / "model.safetensors")
    made = recipe(changed)
    assert dict(merge_tensors(made, *opened(made)))["steps"].tolist() == [0]
    made = recipe(changed, "linear", base=False)
    assert dict(merge_tensors(made, *opened(made)))["steps"].tolist() == [1]


def test_sinusoids_are_the_bases_even_when_an_experts_differ(tmp_path):
    models = {"base": save(tiny_model("whisper"), tmp_path / "base"), "legal": save(fine_tuned("whisper", 1), tmp_path / "legal")}
    name = "model.encoder.embed_positions.weight"
    stored = load_file(models["legal"] / "model.safetensors")
    save_file(stored | {name: stored[name] + 1}, models["legal"] / "model.safetensors")
    made = recipe(models, weights={"legal": 1.0})
    assert torch.equal(dict(merge_tensors(made, *opened(made)))[name], Checkpoint.open(models["base"]).read(name))


def test_scaling_v_of_the_positional_convolution_changes_nothing(tmp_path):
    models = {"base": save(tiny_model("ctc"), tmp_path / "base")}
    models |= {name: save(fine_tuned("ctc", seed), tmp_path / name) for seed, name in enumerate(("legal", "medical"))}
    made = recipe(models, "linear", weights={"legal": 1.0, "medical": 1.0})
    before = dict(merge_tensors(made, *opened(made)))
    direction = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    stored = load_file(models["legal"] / "model.safetensors")
    save_file(stored | {direction: stored[direction] * 100}, models["legal"] / "model.safetensors")
    after = dict(merge_tensors(made, *opened(made)))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


def test_errors_come_before_any_work_and_leave_the_output(models, tmp_path):
    output = shutil.copytree(models["base"], tmp_path / "out")
    before = content(tmp_path)
    broken = shutil.copytree(models["legal"], tmp_path.parent / f"{tmp_path.name}-broken")
    stored = load_file(broken / "model.safetensors")
    last = max(stored)
    bad = models | {"legal": broken}

    def refused(made, error, message):
        with pytest.raises(error, match=message):
            merge_to_folder(made, output)
        assert content(tmp_path) == before

    refused(recipe(models, base=False), ConfigError, "task_arithmetic needs a base; add the key 'base'")
    refused(recipe(models, "lineer"), ConfigError, r"unknown merge method 'lineer'; did you mean 'linear'")
    refused(recipe(models, scale=99), ConfigError, "'scale' is 99")
    refused(recipe(models, "linear", weights={"legal": 1.0, "medical": -1.0}), ConfigError, "weights that sum to 0")
    refused(recipe(models | {"legal": output}), ConfigError, r"out is or holds the input .*out and would be replaced")
    refused(recipe(models | {"legal": tmp_path / "none"}), CheckpointError, "none does not exist")
    save_file(stored | {last: torch.full_like(stored[last], torch.nan)}, broken / "model.safetensors")
    refused(recipe(bad), CheckpointError, rf"{last} in legal \(.*broken\) holds NaN or Inf")
    save_file(stored | {last: torch.zeros(3, 3)}, broken / "model.safetensors")
    refused(recipe(bad), IncompatibleError, rf"{last} has shape .* in base \(.* and \[3, 3\] in legal \(")
    with pytest.raises(IncompatibleError):
        merge_tensors(recipe(bad), *opened(recipe(bad)))  # in the call, not at the first tensor


def test_faulty_plugin_is_named(models, monkeypatch, tmp_path):
    class Faulty:
        name, needs_base, parameters = "faulty", False, engine.Parameters

        def merge(self, block, parameters):
            return torch.zeros(99)

    monkeypatch.setattr("asrmerge.merging.recipe.get_method", lambda name: Faulty())
    with pytest.raises(AsrmergeError, match=r"the method faulty made \[99\] of .*, which has shape .*: report it"):
        merge_to_folder(recipe(models, "linear"), tmp_path / "out")
    assert not content(tmp_path)


def test_kill_leaves_the_old_folder(tmp_path):
    models = {"base": save(tiny_model("ctc"), tmp_path / "base"), "legal": save(fine_tuned("ctc", 1), tmp_path / "legal")}
    made = recipe(models, "linear", weights={"legal": 1.0})
    merge_to_folder(made, tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "recipe.yaml").write_text(recipe(models, weights={"legal": 0.5}).to_yaml())
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from asrmerge.checkpoints.writing import CheckpointWriter\n"
        "from asrmerge.merging import Recipe, merge_to_folder\n"
        "write = CheckpointWriter.write\n"
        "def slow(*arguments):\n"
        "    write(*arguments)\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
        "CheckpointWriter.write = slow\n"
        f"merge_to_folder(Recipe.read(Path({str(tmp_path / 'recipe.yaml')!r})), {str(tmp_path / 'out')!r}, workers=1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert content(tmp_path / "out") == before
    Checkpoint.open(tmp_path / "out")
