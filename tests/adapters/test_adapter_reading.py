"""Adapters as PEFT saves them: read, refused, and joined with their base as a checkpoint."""

from __future__ import annotations

import json
import logging
import shutil

import lora
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import FAMILIES, adapt, logits, peft_logits
from tiny_models import save, tiny_model

from asrmerge.adapters import AdaptedCheckpoint, Adapter, is_adapter, materialise, open_adapted
from asrmerge.adapters.materialise import adapted_weight
from asrmerge.checkpoints import Checkpoint, check_compatible, write_checkpoint
from asrmerge.errors import CheckpointError, IncompatibleError
from asrmerge.merging import Recipe, merge_tensors

Q = {"whisper": "model.encoder.layers.0.self_attn.q_proj", "ctc": "wav2vec2.encoder.layers.0.attention.q_proj"}
VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 4},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"v_proj": 3, "layers.0.*q_proj": 1}, "alpha_pattern": {"q_proj": 5}},
    "biases": {"bias": "lora_only"},
    "all": {"bias": "all"},
}


def edit(folder, name="adapter_config.json", **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def loaded_logits(checkpoint, family, folder):
    write_checkpoint(folder, ((name, checkpoint.read(name)) for name in checkpoint.names), donor=checkpoint)
    return logits(type(tiny_model(family)).from_pretrained(folder), family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_base_with_adapter_computes_what_peft_computes(bases, tmp_path, family, variant):
    folder = adapt(bases[family], tmp_path / "adapter", family, 1, **VARIANTS[variant])
    assert is_adapter(folder) and not is_adapter(bases[family])
    wanted = peft_logits(bases[family], folder, family)
    torch.testing.assert_close(loaded_logits(open_adapted(folder), family, tmp_path / "full"), wanted, rtol=1e-5, atol=1e-5)
    base = logits(type(tiny_model(family)).from_pretrained(bases[family]), family)
    assert (base - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["plain", "rslora", "dora", "patterns"])
def test_weights_are_those_that_peft_merges(bases, tmp_path, family, variant):
    peft = pytest.importorskip("peft")
    folder = adapt(bases[family], tmp_path / "adapter", family, 1, **VARIANTS[variant])
    model = peft.PeftModel.from_pretrained(type(tiny_model(family)).from_pretrained(bases[family]), folder).merge_and_unload()
    merged, checkpoint, base = model.state_dict(), open_adapted(folder), Checkpoint.open(bases[family])
    for name in checkpoint.names:
        torch.testing.assert_close(checkpoint.read(name), merged[name], rtol=1e-5, atol=1e-5)
        changed = name.removesuffix(".weight") in checkpoint.adapter.modules
        assert torch.equal(checkpoint.read(name), base.read(name)) != changed


@pytest.mark.parametrize("variant", ["plain", "dora"])
def test_pieces_are_computed_from_their_rows_only(bases, tmp_path, variant, monkeypatch):
    folder = adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1, modules_to_save=["lm_head"], **VARIANTS[variant])
    checkpoint = open_adapted(folder)
    computed = []

    def spy(weight, *arguments):
        computed.append(len(weight))
        return adapted_weight(weight, *arguments)

    monkeypatch.setattr(materialise, "adapted_weight", spy)
    for name in (f"{Q['ctc']}.weight", f"{Q['ctc']}.bias", "lm_head.weight"):  # [8, 8], [8], [12, 8]
        whole = checkpoint.read(name).flatten()
        computed.clear()
        for start, stop in ((0, 8), (3, 5), (5, 5), (7, 17), (16, 40), (0, 64)):
            start, stop = min(start, len(whole)), min(stop, len(whole))
            torch.testing.assert_close(checkpoint.read_elements(name, start, stop), whole[start:stop], rtol=1e-6, atol=1e-7)
        assert computed == ([1, 1, 1, 3, 3, 8] if name.endswith("q_proj.weight") else [])


def test_modules_to_save(bases, tmp_path):
    folder = adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1, modules_to_save=["lm_head"])
    adapter = Adapter.open(folder)
    assert adapter.saved == ("lm_head.bias", "lm_head.weight")
    wanted = peft_logits(bases["ctc"], folder, "ctc")
    torch.testing.assert_close(loaded_logits(open_adapted(folder), "ctc", tmp_path / "full"), wanted, rtol=1e-5, atol=1e-5)


def test_values_are_the_formula(bases, tmp_path):
    for rslora in (False, True):
        folder = adapt(bases["ctc"], tmp_path / f"{rslora}", "ctc", 1, use_rslora=rslora, rank_pattern={"q_proj": 4})
        stored = load_file(folder / "adapter_model.safetensors")
        a, b = (stored[f"base_model.model.{Q['ctc']}.lora_{side}.weight"].numpy() for side in "AB")
        adapter = Adapter.open(folder)
        assert (adapter.rank(Q["ctc"]), adapter.shape(Q["ctc"])) == (4, (8, 8))
        wanted = lora.scaled_delta(b, a, 3, rslora)
        np.testing.assert_allclose(adapter.factors(Q["ctc"]).delta(), wanted, rtol=1e-5, atol=1e-6)
        assert adapter.magnitude(Q["ctc"]) is None
    folder = adapt(bases["ctc"], tmp_path / "dora", "ctc", 1, use_dora=True)
    checkpoint, adapter, base = open_adapted(folder), Adapter.open(folder), Checkpoint.open(bases["ctc"])
    wanted = lora.dora(
        base.read(f"{Q['ctc']}.weight").numpy(), adapter.factors(Q["ctc"]).delta().numpy(), adapter.magnitude(Q["ctc"]).numpy()
    )
    np.testing.assert_allclose(checkpoint.read(f"{Q['ctc']}.weight"), wanted, rtol=1e-5, atol=1e-6)


def test_pickled_weights(bases, tmp_path):
    folder = adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1)
    before = Adapter.open(folder)
    wanted = before.factors(Q["ctc"]).delta()
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    adapter = Adapter.open(folder)
    assert adapter.weight_file.name == "adapter_model.bin"
    assert torch.equal(adapter.factors(Q["ctc"]).delta(), wanted)


def test_adapted_checkpoint_stands_for_a_fine_tune(bases, tmp_path):
    base = Checkpoint.open(bases["ctc"])
    half = tmp_path / "half"
    type(tiny_model("ctc")).from_pretrained(bases["ctc"]).half().save_pretrained(half)
    shutil.copy(bases["ctc"] / "vocab.json", half)
    experts = [open_adapted(adapt(bases["ctc"], tmp_path / str(seed), "ctc", seed)) for seed in (1, 2)]
    for expert in experts:
        assert isinstance(expert, Checkpoint)
        assert (expert.names, expert.folder, expert.model_type) == (base.names, base.folder, "wav2vec2")
        assert expert.shape(f"{Q['ctc']}.weight") == (8, 8)
    check_compatible([base, *experts])
    assert len({base.hash(), *[expert.hash() for expert in experts]}) == 3
    recipe = Recipe.from_yaml(
        "{method: task_arithmetic, base: b, experts: [{name: x, model: x, weight: 0.5}, {name: y, model: y, weight: 2.0}]}"
    )
    merged = dict(merge_tensors(recipe, base, experts))
    for name in base.names:
        change = torch.zeros(base.shape(name))
        if name.removesuffix(".weight") in experts[0].adapter.modules and name.endswith("weight"):
            module = name.removesuffix(".weight")
            change = sum(w * one.adapter.factors(module).delta() for w, one in zip((0.5, 2.0), experts, strict=True))
            assert change.abs().max() > 0.1
        torch.testing.assert_close(merged[name], base.read(name) + change, rtol=1e-5, atol=1e-5)
    # Adapted weights are not rounded to the base's dtype before the merge, which then rounds once.
    lowered = AdaptedCheckpoint.join(Checkpoint.open(half), Adapter.open(tmp_path / "1"), "half")
    assert lowered.dtype(f"{Q['ctc']}.weight") == torch.float16
    assert lowered.read(f"{Q['ctc']}.weight").dtype == torch.float32
    assert lowered.read("lm_head.weight").dtype == torch.float16


def test_alpha_changes_the_hash(bases, tmp_path):
    folder = adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1)
    before = open_adapted(folder).hash()
    assert before == open_adapted(folder).hash()
    edit(folder, lora_alpha=7)
    assert open_adapted(folder).hash() != before


def test_another_base(bases, tmp_path, caplog):
    folder = adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1)
    with pytest.raises(
        IncompatibleError, match=r"changes wav2vec2.encoder.layers.0.attention.q_proj.weight, which .*whisper doesn't"
    ):
        open_adapted(folder, bases["whisper"])
    config = tiny_model("ctc").config
    config.hidden_size = 4
    type(tiny_model("ctc"))(config).save_pretrained(tmp_path / "small")
    with pytest.raises(
        IncompatibleError, match=r"q_proj.weight of shape \[8, 8\], which has shape \[4, 4\] in .*small: give the base"
    ):
        open_adapted(folder, tmp_path / "small")
    moved = shutil.copytree(bases["ctc"], tmp_path / "moved")
    with caplog.at_level(logging.WARNING):
        open_adapted(folder, moved)
    assert "says it was trained on" in caplog.text
    caplog.clear()
    open_adapted(folder, bases["ctc"])
    assert not caplog.text
    # Of the same shapes, and yet another training: the base that the configuration names is at hand to say so.
    other = save(tiny_model("ctc", seed=1), tmp_path / "other")
    with pytest.raises(
        IncompatibleError, match=r"was trained on .*, whose wav2vec2.*q_proj.weight is quite another than .*other"
    ):
        open_adapted(folder, other)
    edit(folder, base_model_name_or_path=str(other))
    open_adapted(folder, other)
    edit(folder, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"is an adapter, and its base cannot be opened: .*gone"):
        open_adapted(folder)
    edit(folder, base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="names no base: name the base"):
        open_adapted(folder)
    edit(folder, base_model_name_or_path=str(folder))
    with pytest.raises(CheckpointError, match="names itself as its base: name the base"):
        open_adapted(folder)


def test_tied_parameters(bases, tmp_path):
    folder = adapt(bases["whisper"], tmp_path / "adapter", "whisper", 1, modules_to_save=["proj_out"])
    assert Adapter.open(folder).saved == ("proj_out.weight",)
    with pytest.raises(
        IncompatibleError, match=r"changes proj_out.weight, and .* ties proj_out.weight to model.decoder.embed_tokens"
    ):
        open_adapted(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "says peft_type LOHA, and only LORA adapters can be merged: merge it into its base with PEFT's"),
        ({"peft_type": "IA3"}, "says peft_type IA3, and only LORA"),
        ({"peft_type": None}, "says peft_type None"),
        ({"lora_bias": True}, "sets lora_bias, and the factor B has a bias"),
        ({"layer_replication": [[0, 1]]}, "sets layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "says init_lora_weights pissa_niter_4, which changed the base's weights"),
        ({"fan_in_fan_out": True}, "sets fan_in_fan_out"),
        ({"r": 5}, r"gives .*q_proj rank 5, but its weights have rank 2"),
        ({"rank_pattern": ["q_proj"]}, r"gives rank_pattern \['q_proj'\], which is no mapping of patterns"),
        ({"alpha_pattern": {"(": 3}}, r"gives alpha_pattern \{'\(': 3\}, which is no mapping of patterns"),
        ({"modules_to_save": "lm_head"}, "gives modules_to_save 'lm_head', which is no list"),
        ({"lora_alpha": "x"}, "lora_alpha 'x', which is no number"),
        ({"use_dora": True}, "says use_dora True, but adapter_model.safetensors holds no magnitudes"),
    ],
)
def test_configurations_that_are_refused(bases, tmp_path, changes, message):
    folder = adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1)
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        Adapter.open(folder)


def test_weights_that_are_refused(bases, tmp_path):
    original = adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1)
    name = f"base_model.model.{Q['ctc']}.lora_A.weight"

    def refused(change, message):
        folder = shutil.copytree(original, tmp_path / "copy", dirs_exist_ok=True)
        edit_weights(folder, change)
        with pytest.raises(CheckpointError, match=message):
            Adapter.open(folder).factors(Q["ctc"])

    refused(lambda tensors: tensors.pop(name), f"lacks lora_A of {Q['ctc']}")
    refused(lambda tensors: tensors.update({name: torch.full((2, 8), torch.nan)}), "lora_A.weight in .* holds NaN or Inf")
    refused(lambda tensors: tensors.update({name: torch.zeros(3, 8)}), r"has factors \[8, 2\] and \[3, 8\], which don't multiply")
    refused(lambda tensors: tensors.update({name: torch.zeros(2, 8, 1)}), "is a LoRA of a convolution")
    refused(
        lambda tensors: tensors.update({"base_model.model.x.lora_embedding_A": torch.zeros(2, 2)}),
        "lora_embedding_A, and only LoRA",
    )
    refused(lambda tensors: tensors.clear(), "holds no LoRA weights")
    (original / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model.safetensors or adapter_model.bin: copy"):
        Adapter.open(original)
    (original / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json"):
        Adapter.open(original)
    with pytest.raises(CheckpointError, match="does not exist"):
        Adapter.open(tmp_path / "nothing")


def test_a_layer_that_is_not_adapted(bases, tmp_path):
    adapter = Adapter.open(adapt(bases["ctc"], tmp_path / "adapter", "ctc", 1))
    with pytest.raises(CheckpointError, match="does not adapt lm_head: it adapts 2 others"):
        adapter.factors("lm_head")
