"""Each method on whole folders: tied weights stay tied, names, shapes and dtypes are the base's, and transformers loads it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import fine_tuned, save, tiny_model
from tiny_statistics import add_statistics
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

from asrmerge.errors import ConfigError
from asrmerge.merging import Recipe, find_methods, get_method, merge_to_folder

METHODS = list(find_methods())
EXPERTS = ("legal", "medical", "technical")


@pytest.fixture(scope="module", params=["ctc", "whisper"])
def folders(request, tmp_path_factory):
    """Half-precision fine-tunes of one half-precision base, with their statistics."""
    root = tmp_path_factory.mktemp(request.param)
    save(tiny_model(request.param).half(), root / "base")
    for seed, name in enumerate(EXPERTS, start=1):
        add_statistics(save(fine_tuned(request.param, seed).half(), root / name), seed)
    return request.param, root


@pytest.mark.parametrize("name", METHODS)
def test_the_folder_is_like_the_bases_and_loads(folders, tmp_path, name):
    family, root = folders
    method = get_method(name)
    count = 1 if name == "passthrough" else getattr(method, "expert_count", 3)
    known = hasattr(method, "statistics")
    experts = [
        {"name": one, "model": str(root / one)} | ({"statistics": str(root / one)} if known else {}) for one in EXPERTS[:count]
    ]
    merge_to_folder(Recipe(method=name, base=str(root / "base"), experts=experts), tmp_path / "out", workers=1)
    merged, base, expert = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", root / "base", root / "legal")
    )
    like = {key: (value.dtype, value.shape) for key, value in base.items()}
    assert {key: (value.dtype, value.shape) for key, value in merged.items()} == like
    assert all(bool(torch.isfinite(value).all()) for value in merged.values())
    moved = [key for key in base if not torch.equal(merged[key], base[key])]
    assert len(moved) > 0.5 * sum(not torch.equal(expert[key], base[key]) for key in base)  # model_stock leaves many
    loader = AutoModelForCTC if family == "ctc" else AutoModelForSpeechSeq2Seq
    model, found = loader.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    if family == "whisper":
        assert model.proj_out.weight is model.model.decoder.embed_tokens.weight and "proj_out.weight" not in merged
        assert torch.equal(merged["model.encoder.embed_positions.weight"], base["model.encoder.embed_positions.weight"])


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("slerp", 3, "slerp merges exactly 2 of the 'experts', and there are 3; change either"),
        ("nuslerp", 1, "nuslerp merges exactly 2 of the 'experts', and there are 1; change either"),
        ("wise_ft", 2, "wise_ft merges exactly 1 of the 'experts', and there are 2; change either"),
        ("fisher_karcher", 2, "fisher_karcher needs the fisher of each expert; add the key 'statistics' to legal"),
        ("ugm", 2, "ugm needs the fisher of each expert; add the key 'statistics' to legal"),
        ("regmean", 2, "regmean needs the grams of each expert; add the key 'statistics' to legal"),
        ("mats", 2, "mats needs the grams and factors of each expert; add the key 'statistics' to legal"),
    ],
)
def test_experts_that_do_not_suit_the_method_are_refused_on_reading(name, count, message):
    """Also where a rule names the method, which would be found out after most of the merge."""
    experts = "".join(f"\n  - {{name: {one}, model: {one}}}" for one in EXPERTS[:count])
    with pytest.raises(ConfigError, match=f"^recipe: {message}"):
        Recipe.from_yaml(f"method: {name}\nbase: b\nexperts:{experts}")
    rule = f"groups: [{{group: head, method: {name}}}]"
    with pytest.raises(ConfigError, match=f"^recipe: group head: {message}"):
        Recipe.from_yaml(f"method: linear\nbase: b\nexperts:{experts}\n{rule}")
