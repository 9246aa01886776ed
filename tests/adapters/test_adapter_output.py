"""Merged adapters written: what PEFT and transformers load equals the base plus the weighted deltas."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny_adapters import FAMILIES, adapt, logits, peft_logits
from tiny_models import tiny_model

from asrmerge.adapters import Adapter, find_adapter_methods, merge_adapters, open_adapted, write_adapter, write_full
from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError

WEIGHTS = {"a": 0.3, "b": 0.7}


def summed_logits(base, adapters, weights, family):
    """Of the base plus Σ wₜ·BₜAₜ, added by hand."""
    model = type(tiny_model(family)).from_pretrained(base)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, adapter in adapters.items():
            for module in adapter.modules:
                parameters[f"{module}.weight"].add_(weights[name] * adapter.factors(module).delta())
    return logits(model, family)


def close(one, two, tolerance=1e-5):
    torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def pair(bases, tmp_path, family):
    """Two adapters of other ranks, scalings and layers."""
    two = {"r": 3, "use_rslora": True, "target_modules": ["k_proj", "v_proj"], "rank_pattern": {"k_proj": 1}}
    return {
        "a": Adapter.open(adapt(bases[family], tmp_path / "a", family, 1)),
        "b": Adapter.open(adapt(bases[family], tmp_path / "b", family, 2, **two)),
    }


@pytest.mark.parametrize(("method", "parameters"), [("product", {"rank": "lossless"}), ("cat", {})])
def test_lossless_merges_compute_the_sum(bases, tmp_path, family, pair, method, parameters):
    base = Checkpoint.open(bases[family])
    merged = merge_adapters(pair, WEIGHTS, method, parameters)
    wanted = summed_logits(bases[family], pair, WEIGHTS, family)
    write_adapter(tmp_path / "merged", merged)
    close(peft_logits(bases[family], tmp_path / "merged", family), wanted)
    write_full(tmp_path / "full", merged, base)
    close(logits(type(tiny_model(family)).from_pretrained(tmp_path / "full"), family), wanted)
    # What was written is an adapter like any other.
    again = open_adapted(tmp_path / "merged")
    for name in base.names:
        close(again.read(name), Checkpoint.open(tmp_path / "full").read(name))
    ranks = {module: merged.factors(module).rank for module in merged.modules}
    assert len(set(ranks.values())) == 3  # 2 in q_proj, 2 + 3 in v_proj, 1 in k_proj


def test_every_method_makes_an_adapter_that_peft_loads(bases, tmp_path, pair, family):
    adapted = {name: peft_logits(bases[family], adapter.folder, family) for name, adapter in pair.items()}
    for method in find_adapter_methods():
        write_adapter(tmp_path / "merged", merge_adapters(pair, WEIGHTS, method))
        found = peft_logits(bases[family], tmp_path / "merged", family)
        assert torch.isfinite(found).all()
        assert all((found - one).abs().max() > 1e-2 for one in adapted.values())


def test_provenance(bases, tmp_path):
    folder = adapt(bases["ctc"], tmp_path / "a", "ctc", 1)
    adapter, base = Adapter.open(folder), Checkpoint.open(bases["ctc"])
    merged = merge_adapters({"a": adapter}, {"a": 2.0}, "product", {"normalize": False})
    write_adapter(tmp_path / "merged", merged)
    write_full(tmp_path / "full", merged, base)
    found = [json.loads((tmp_path / name / "merge_provenance.json").read_text()) for name in ("merged", "full")]
    assert found[0] | {"base": found[1]["base"]} == found[1]
    assert found[1]["base"] == {"model": str(bases["ctc"]), "sha256": base.hash()}
    assert found[0]["parameters"] == {"rank": "max", "normalize": False}
    assert found[0]["adapters"] == [{"name": "a", "model": str(folder), "weight": 2.0, "sha256": adapter.hash()}]
    config = json.loads((tmp_path / "merged" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 2, {})
    assert config["base_model_name_or_path"] == str(bases["ctc"])
    first = (tmp_path / "merged" / "adapter_model.safetensors").read_bytes()
    write_adapter(tmp_path / "merged", merge_adapters({"a": adapter}, {"a": 2.0}, "product", {"normalize": False}))
    assert (tmp_path / "merged" / "adapter_model.safetensors").read_bytes() == first


def test_dora_magnitudes_are_merged_apart(bases, tmp_path, family):
    base = Checkpoint.open(bases[family])
    dora = {
        name: Adapter.open(adapt(bases[family], tmp_path / name, family, seed, use_dora=True))
        for name, seed in (("a", 1), ("b", 2))
    }
    module = dora["a"].modules[0]
    merged = merge_adapters(dora, WEIGHTS, "cat")
    close(merged.magnitude(module), 0.3 * dora["a"].magnitude(module) + 0.7 * dora["b"].magnitude(module))
    write_adapter(tmp_path / "merged", merged)
    write_full(tmp_path / "full", merged, base)
    found = peft_logits(bases[family], tmp_path / "merged", family)
    close(logits(type(tiny_model(family)).from_pretrained(tmp_path / "full"), family), found)
    one_hot = merge_adapters(dora, {"a": 1.0, "b": 0.0}, "cat")
    write_adapter(tmp_path / "merged", one_hot)
    close(peft_logits(bases[family], tmp_path / "merged", family), peft_logits(bases[family], dora["a"].folder, family))


def test_dora_with_an_adapter_without(bases, tmp_path):
    adapters = {
        "a": Adapter.open(adapt(bases["ctc"], tmp_path / "a", "ctc", 1, use_dora=True)),
        "b": Adapter.open(adapt(bases["ctc"], tmp_path / "b", "ctc", 2, target_modules=["q_proj"])),
    }
    with pytest.raises(ConfigError, match="the adapter b has no DoRA magnitude, which other adapters have: name the base"):
        merge_adapters(adapters, WEIGHTS)
    # With all the weight on the plain one, the magnitudes are those its rows have anyhow.
    merged = merge_adapters(adapters, {"a": 0.0, "b": 1.0}, "product", base=Checkpoint.open(bases["ctc"]))
    write_adapter(tmp_path / "merged", merged)
    close(peft_logits(bases["ctc"], tmp_path / "merged", "ctc"), peft_logits(bases["ctc"], tmp_path / "b", "ctc"))


@pytest.mark.parametrize("extra", [{"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}, {"bias": "all"}])
def test_parameters_trained_in_full(bases, tmp_path, extra):
    base = Checkpoint.open(bases["ctc"])
    adapters = {
        name: Adapter.open(adapt(bases["ctc"], tmp_path / name, "ctc", seed, **options))
        for name, seed, options in (("a", 1, extra), ("b", 2, extra), ("c", 3, {}))
    }
    both = {name: adapters[name] for name in "ab"}
    merged = merge_adapters(both, {"a": 1.0, "b": 3.0}, "cat")
    assert merged.saved == adapters["a"].saved != ()
    for name in merged.saved:
        close(merged.read_saved(name), 0.25 * adapters["a"].read_saved(name) + 0.75 * adapters["b"].read_saved(name))
    write_adapter(tmp_path / "merged", merged)
    write_full(tmp_path / "full", merged, base)
    full = type(tiny_model("ctc")).from_pretrained(tmp_path / "full")
    close(peft_logits(bases["ctc"], tmp_path / "merged", "ctc"), logits(full, "ctc"))
    parameters = dict(full.named_parameters())
    for name in merged.saved:
        close(parameters[name].detach(), merged.read_saved(name))
    with pytest.raises(ConfigError, match=r"the adapter c has no .*: name the base"):
        merge_adapters(adapters)
    merged = merge_adapters(adapters, base=base)
    name = merged.saved[0]
    close(merged.read_saved(name), (base.read(name) + sum(adapters[one].read_saved(name) for one in "ab")) / 3)


def test_a_layer_adapted_here_and_trained_in_full_there(bases, tmp_path):
    base = Checkpoint.open(bases["ctc"])
    adapters = {
        "a": Adapter.open(adapt(bases["ctc"], tmp_path / "a", "ctc", 1, modules_to_save=["lm_head"])),
        "b": Adapter.open(
            adapt(bases["ctc"], tmp_path / "b", "ctc", 2, save={"save_embedding_layers": False}, target_modules=["lm_head"])
        ),
    }
    merged = merge_adapters(adapters, WEIGHTS, "cat", base=base)
    write_full(tmp_path / "full", merged, base)
    name = "lm_head.weight"
    wanted = 0.3 * adapters["a"].read_saved(name) + 0.7 * (base.read(name) + adapters["b"].factors("lm_head").delta())
    close(Checkpoint.open(tmp_path / "full").read(name), wanted)
    with pytest.raises(ConfigError, match=r"lm_head.weight has LoRA in one adapter and was trained in full in another, .* full"):
        write_adapter(tmp_path / "merged", merged)
    assert not (tmp_path / "merged").exists()


def test_untied_head_stays_an_adapter(bases, tmp_path):
    base = Checkpoint.open(bases["whisper"])
    adapters = {
        "a": Adapter.open(adapt(bases["whisper"], tmp_path / "a", "whisper", 1, modules_to_save=["proj_out"])),
        "b": Adapter.open(adapt(bases["whisper"], tmp_path / "b", "whisper", 2)),
    }
    merged = merge_adapters(adapters, WEIGHTS, "cat", base=base)
    with pytest.raises(IncompatibleError, match=r"changes proj_out.weight"):
        write_full(tmp_path / "full", merged, base)
    assert not (tmp_path / "full").exists()
    embedding = base.read("model.decoder.embed_tokens.weight")
    close(merged.read_saved("proj_out.weight"), 0.3 * adapters["a"].read_saved("proj_out.weight") + 0.7 * embedding)
    write_adapter(tmp_path / "merged", merged)
    assert torch.isfinite(peft_logits(bases["whisper"], tmp_path / "merged", "whisper")).all()


def test_the_base_that_is_named(bases, tmp_path):
    """That of the adapters with its revision, or the one given, by which adapters were completed."""
    moved = Checkpoint.open(shutil.copytree(bases["ctc"], tmp_path / "moved"))
    adapters = {name: Adapter.open(adapt(bases["ctc"], tmp_path / name, "ctc", 1, revision="v2")) for name in "ab"}
    for base, named, revision in ((None, str(bases["ctc"]), "v2"), (moved, str(tmp_path / "moved"), None)):
        write_adapter(tmp_path / "merged", merge_adapters(adapters, base=base))
        config = json.loads((tmp_path / "merged" / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (named, revision)
        provenance = json.loads((tmp_path / "merged" / "merge_provenance.json").read_text())
        assert provenance["base"] == (base and {"model": named, "sha256": base.hash()})


def test_a_full_disk(bases, tmp_path, monkeypatch):
    def failing(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    merged = merge_adapters({"a": Adapter.open(adapt(bases["ctc"], tmp_path / "a", "ctc", 1))})
    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(CheckpointError, match=r"there is no room for .*merged, .*make room"):
        write_adapter(tmp_path / "merged", merged)
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_order_does_not_change_a_byte(bases, tmp_path):
    folders = [adapt(bases["ctc"], tmp_path / name, "ctc", seed) for name, seed in (("a", 1), ("b", 2))]
    for order in (1, -1):
        adapters = {folder.name: Adapter.open(folder) for folder in folders[::order]}
        write_adapter(tmp_path / f"merged{order}", merge_adapters(adapters, WEIGHTS))
    for name in ("adapter_model.safetensors", "adapter_config.json", "merge_provenance.json"):
        assert (tmp_path / "merged1" / name).read_bytes() == (tmp_path / "merged-1" / name).read_bytes()


def test_wrong_input(bases, tmp_path):
    adapter = Adapter.open(adapt(bases["ctc"], tmp_path / "a", "ctc", 1))
    other = Adapter.open(adapt(bases["whisper"], tmp_path / "w", "whisper", 1))
    for arguments, message in [
        (({},), "no adapters to merge"),
        (({"a": adapter}, {"b": 1.0}), "unknown adapter 'b' in the weights"),
        (({"a": adapter}, {}), "the adapter 'a' has no weight"),
        (({"a": adapter}, {"a": float("nan")}), "the weight of 'a' is nan"),
        (({"a": adapter}, None, "linear"), "unknown adapter method 'linear'"),
        (({"a": adapter}, None, "product", {"rnk": 2}), "parameters of product: unknown key 'rnk'; did you mean 'rank'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            merge_adapters(*arguments)
    with pytest.raises(IncompatibleError, match="q_proj"):
        merge_adapters({"a": adapter, "w": other}, base=Checkpoint.open(bases["ctc"]))
    with pytest.raises(
        IncompatibleError, match=r"adapter a was trained on .*ctc, and w on .*whisper: merge adapters of one base"
    ):
        merge_adapters({"a": adapter, "w": other})
    wide = shutil.copytree(adapter.folder, tmp_path / "wide")
    from safetensors.torch import load_file, save_file

    tensors = {
        name: torch.cat([value, value], dim=1) if "lora_A" in name else value
        for name, value in load_file(wide / "adapter_model.safetensors").items()
    }
    save_file(tensors, wide / "adapter_model.safetensors")
    with pytest.raises(IncompatibleError, match=r"has shape \[8, 8\] in the adapter a and \[8, 16\] in wide"):
        merge_adapters({"a": adapter, "wide": Adapter.open(wide)})


def test_what_is_not_replaced(bases, tmp_path):
    adapter = Adapter.open(adapt(bases["ctc"], tmp_path / "a", "ctc", 1))
    base, merged = Checkpoint.open(bases["ctc"]), merge_adapters({"a": adapter})
    with pytest.raises(ConfigError, match=r"is or holds the input .* and would be replaced"):
        write_adapter(tmp_path / "a", merged)
    with pytest.raises(ConfigError, match=r"is or holds the input .* and would be replaced"):
        write_full(bases["ctc"], merged, base)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("x")
    for folder in (tmp_path / "notes", bases["whisper"]):
        with pytest.raises(CheckpointError, match="holds something other than an adapter and is not replaced"):
            write_adapter(folder, merged)
    assert (tmp_path / "notes" / "x.txt").read_text() == "x"
