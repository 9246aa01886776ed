"""Every CTC architecture that the project names: merged, loaded by transformers, the same as the mean by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    Data2VecAudioConfig,
    HubertConfig,
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WavLMConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCTC

from asrmerge.checkpoints import Checkpoint
from asrmerge.merging import Recipe, merge_to_folder
from asrmerge.merging.structure import plan_places

SMALL = {
    "vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (10, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
CONFIGS = {
    "wav2vec2": Wav2Vec2Config(**SMALL),
    "hubert": HubertConfig(**SMALL),
    "wavlm": WavLMConfig(**SMALL),
    "data2vec-audio": Data2VecAudioConfig(**SMALL),
    "wav2vec2-bert": Wav2Vec2BertConfig(**SMALL, feature_projection_input_dim=20),
    "parakeet": ParakeetCTCConfig(
        vocab_size=12,
        pad_token_id=0,
        encoder_config=ParakeetEncoderConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=24,
            num_mel_bins=16, subsampling_conv_channels=8,
        ).to_dict(),
    ),
}  # fmt: skip


def models(name: str, folder: Path) -> dict[str, nn.Module]:
    made = {}
    for seed, which in enumerate(("base", "a", "b")):
        torch.manual_seed(seed if which == "base" else 0)
        made[which] = AutoModelForCTC.from_config(CONFIGS[name])
        if which != "base":
            torch.manual_seed(seed)
            with torch.no_grad():
                for parameter in made[which].parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
        made[which].save_pretrained(folder / which)
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_a_merge_is_the_mean_and_loads(name: str, tmp_path: Path) -> None:
    made = models(name, tmp_path)
    experts = [{"name": one, "model": str(tmp_path / one)} for one in ("a", "b")]
    merge_to_folder(Recipe.model_validate({"method": "linear", "experts": experts}), tmp_path / "out")
    loaded, information = AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    states = [made[one].state_dict() for one in ("a", "b")]
    for parameter, value in loaded.state_dict().items():
        if "parametrizations" not in parameter and value.is_floating_point():
            torch.testing.assert_close(value, (states[0][parameter] + states[1][parameter]) / 2, msg=parameter)
    checkpoint = Checkpoint.open(tmp_path / "out")
    places = plan_places({one: checkpoint.shape(one) for one in checkpoint.names}, checkpoint.model_type)
    groups = {place.group for place in places.values()}
    assert {"frontend", "encoder.0", "encoder.1", "norms", "head"} <= groups
    assert {place.group for parameter, place in places.items() if parameter.split(".")[0] in ("lm_head", "ctc_head")} == {"head"}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("method", ["ties", "tsv_m", "karcher", "lines"])
def test_other_methods_give_finite_models(name: str, method: str, tmp_path: Path) -> None:
    models(name, tmp_path)
    experts = [{"name": one, "model": str(tmp_path / one)} for one in ("a", "b")]
    recipe = Recipe.model_validate({"method": method, "base": str(tmp_path / "base"), "experts": experts})
    merge_to_folder(recipe, tmp_path / "out")
    loaded = AutoModelForCTC.from_pretrained(tmp_path / "out")
    assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())


def test_running_variances_stay_positive(tmp_path: Path) -> None:
    """Three task vectors that shrink a variance by half add up to less than nothing."""
    models("parakeet", tmp_path)
    for seed, which in enumerate(("base", "a", "b", "c")):
        model = AutoModelForCTC.from_pretrained(tmp_path / ("a" if which == "c" else which))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_((1.0 if which == "base" else 0.5) + 0.01 * seed + torch.rand(buffer.shape) / 10)
        model.save_pretrained(tmp_path / which)
    opened = {which: Checkpoint.open(tmp_path / which) for which in ("base", "a", "b", "c")}
    experts = [{"name": one, "model": str(tmp_path / one)} for one in ("a", "b", "c")]
    for method in ("task_arithmetic", "dare_linear", "linear"):
        merge_to_folder(
            Recipe.model_validate({"method": method, "base": str(tmp_path / "base"), "experts": experts}), tmp_path / "out"
        )
        merged = Checkpoint.open(tmp_path / "out")
        for name in (name for name in merged.names if name.endswith("running_var")):
            given = torch.stack([checkpoint.read(name) for checkpoint in opened.values()])
            assert (merged.read(name) >= given.amin(dim=0)).all(), method
            if method == "linear":
                torch.testing.assert_close(merged.read(name), given[1:].mean(dim=0))


def test_places_in_parakeets_layers(tmp_path: Path) -> None:
    models("parakeet", tmp_path)
    checkpoint = Checkpoint.open(tmp_path / "base")
    places = plan_places({one: checkpoint.shape(one) for one in checkpoint.names}, checkpoint.model_type)
    layer = {name.removeprefix("encoder.layers.1."): place for name, place in places.items() if ".layers.1." in name}
    norms = {"norm_conv", "norm_feed_forward1", "norm_feed_forward2", "norm_self_att", "norm_out", "conv.norm"}
    assert {name.rpartition(".")[0] for name, place in layer.items() if place.group == "norms"} == norms
    assert {place.role for place in layer.values() if place.group == "norms"} == {"norm"}
    assert layer["self_attn.bias_u"].role == layer["self_attn.bias_v"].role == "bias"
    assert layer["self_attn.q_proj.weight"].role == "linear"
