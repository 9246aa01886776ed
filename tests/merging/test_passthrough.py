from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CTC_TOKENS, WHISPER_TOKENS, edit_config, save
from transformers import (
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from asrmerge.checkpoints import Checkpoint
from asrmerge.checkpoints.assembled import AssembledCheckpoint, Part
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging import Recipe, merge_tensors, merge_to_folder

POSITIONS = "model.encoder.embed_positions.weight"


def whisper(seed, layers=(3, 2), width=8):
    torch.manual_seed(seed)
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(WHISPER_TOKENS), d_model=width, encoder_layers=layers[0], decoder_layers=layers[1],
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12,
            max_source_positions=10, max_target_positions=6, num_mel_bins=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=3, suppress_tokens=None, begin_suppress_tokens=None,
        )
    ).eval()  # fmt: skip


def ctc(seed, layers=3, family="wav2vec2"):
    torch.manual_seed(seed)
    configuration, model = {"wav2vec2": (Wav2Vec2Config, Wav2Vec2ForCTC), "wavlm": (WavLMConfig, WavLMForCTC)}[family]
    return model(
        configuration(
            vocab_size=len(CTC_TOKENS), hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=12,
            conv_dim=(4, 4), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {f"whisper-{name}": save(whisper(seed), root / f"whisper-{name}") for seed, name in enumerate("ab")}
    return made | {f"ctc-{name}": save(ctc(seed), root / f"ctc-{name}") for seed, name in enumerate("ab")}


def recipe(folders, family, text="", names="ab", method="passthrough"):
    experts = "".join(f"\n  - {{name: {name}, model: '{folders[f'{family}-{name}']}'}}" for name in names)
    return Recipe.from_yaml(f"method: {method}\nexperts:{experts}\n{text}")


def merged(folders, family, text, tmp_path, **options):
    merge_to_folder(recipe(folders, family, text, **options), tmp_path / "out")
    return load_file(tmp_path / "out" / "model.safetensors")


def state(folder):
    return load_file(folder / "model.safetensors")


def loads(folder, family):
    """Loads without missing tensors and gives finite logits; the model."""
    loader = AutoModelForSpeechSeq2Seq if family == "whisper" else AutoModelForCTC
    model, info = loader.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        if family == "whisper":
            logits = model(input_features=torch.randn(1, 4, 20), decoder_input_ids=torch.tensor([[3, 5]])).logits
        else:
            logits = model(torch.randn(1, 400)).logits
    assert torch.isfinite(logits).all()
    return model


def test_encoder_of_one_and_decoder_of_another(folders, tmp_path):
    text = "layers: {encoder: [{source: a}], decoder: [{source: b}]}"
    found = merged(folders, "whisper", text, tmp_path)
    a, b = state(folders["whisper-a"]), state(folders["whisper-b"])
    assert found.keys() == a.keys()
    for name, value in found.items():
        assert torch.equal(value, (a if name.startswith("model.encoder.") else b)[name]), name
    assert not torch.equal(found["model.encoder.conv1.weight"], b["model.encoder.conv1.weight"])
    model = loads(tmp_path / "out", "whisper")
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert Recipe.read(tmp_path / "out" / "merge_recipe.yaml") == recipe(folders, "whisper", text)


def test_repeated_layers_of_whisper(folders, tmp_path):
    text = "layers: {encoder: [{source: a, layers: [0, 2]}, {source: b, layers: [1, 3], scale: 0.5}]}"
    found = merged(folders, "whisper", text, tmp_path)
    a, b = state(folders["whisper-a"]), state(folders["whisper-b"])
    for name, value in found.items():
        start, _, rest = name.partition("encoder.layers.")
        if rest:
            number, _, after = rest.partition(".")
            number = int(number)
            source, layer, scale = (a, number, 1) if number < 2 else (b, number - 1, 0.5)
            assert torch.equal(value, source[f"{start}encoder.layers.{layer}.{after}"] * scale), name
        else:  # the encoder's norm comes with its last layer; a decoder that isn't listed, from the first expert
            assert torch.equal(value, (b if name.startswith("model.encoder.layer_norm") else a)[name]), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["encoder_layers"], config["decoder_layers"]) == (4, 2) and config.get("num_hidden_layers", 4) == 4
    assert len(loads(tmp_path / "out", "whisper").model.encoder.layers) == 4


@pytest.mark.parametrize("outside", ["", "outside: a"])
def test_layers_of_ctc_models(folders, tmp_path, outside):
    text = f"layers: {{encoder: [{{source: a, layers: [0, 3]}}, {{source: b, layers: [2, 3]}}]}}\n{outside}"
    found = merged(folders, "ctc", text, tmp_path)
    a, b = state(folders["ctc-a"]), state(folders["ctc-b"])
    assert {name for name in found if ".layers.3." in name} == {name.replace(".2.", ".3.") for name in a if ".layers.2." in name}
    for name, value in found.items():
        follows = name.startswith(("lm_head", "wav2vec2.encoder.layer_norm")) and not outside
        expected = b[name.replace(".layers.3.", ".layers.2.")] if follows or ".layers.3." in name else a[name]
        assert torch.equal(value, expected), name  # to the bit, weight-normed tensors too
    assert loads(tmp_path / "out", "ctc").config.num_hidden_layers == 4


def test_wavlm_keeps_the_positions_that_layers_share(tmp_path):
    folders = {f"ctc-{name}": save(ctc(seed, family="wavlm"), tmp_path / name) for seed, name in enumerate("ab")}
    for folder in folders.values():
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(CTC_TOKENS)}))
    found = merged(folders, "ctc", "layers: {encoder: [{source: b, layers: [1, 3]}, {source: a}]}", tmp_path)
    relative = [name for name in found if "rel_attn_embed" in name]
    assert relative == ["wavlm.encoder.layers.0.attention.rel_attn_embed.weight"]
    assert torch.equal(found[relative[0]], state(folders["ctc-b"])[relative[0]])
    assert len(loads(tmp_path / "out", "ctc").wavlm.encoder.layers) == 5


def test_rules_scale_output_layers_so_that_a_repeated_layer_is_the_identity(folders, tmp_path):
    rules = "".join(
        f"\n  - {{tensor: [encoder.layers.{number}, {part}], parameters: {{scale: 0}}}}"
        for number in (3, 4, 5)
        for part in ("out_proj", "fc2")
    )
    text = f"layers: {{encoder: [{{source: a}}, {{source: a}}]}}\ngroups:{rules}"
    found = merged(folders, "whisper", text, tmp_path, names="a")
    a = state(folders["whisper-a"])
    zero = {name for name, value in found.items() if not value.any() and not name.endswith("bias")}
    assert zero == {
        f"model.encoder.layers.{number}.{part}.weight" for number in (3, 4, 5) for part in ("self_attn.out_proj", "fc2")
    }
    assert torch.equal(found["model.encoder.layers.4.fc1.weight"], a["model.encoder.layers.1.fc1.weight"])
    inputs = torch.randn(1, 4, 20)
    ids = torch.tensor([[3, 5]])
    with torch.no_grad():
        before = WhisperForConditionalGeneration.from_pretrained(folders["whisper-a"]).eval()
        after = loads(tmp_path / "out", "whisper").eval()
        torch.testing.assert_close(
            after(input_features=inputs, decoder_input_ids=ids).logits,
            before(input_features=inputs, decoder_input_ids=ids).logits,
        )


def test_one_model_passes_through_unchanged(folders, tmp_path):
    for family in ("whisper", "ctc"):
        found = merged(folders, family, "", tmp_path, names="b")
        expected = state(folders[f"{family}-b"])
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_other_methods_merge_the_same_layers_of_every_model(folders, tmp_path):
    text = "layers: {encoder: [{layers: [1, 3]}, {layers: [1, 2], scale: 2}]}"
    found = merged(folders, "ctc", text, tmp_path, method="linear")
    a, b = state(folders["ctc-a"]), state(folders["ctc-b"])
    for layer, source, scale in ((0, 1, 1), (1, 2, 1), (2, 1, 2)):
        name = "wav2vec2.encoder.layers.{}.feed_forward.output_dense.weight"
        expected = (a[name.format(source)] + b[name.format(source)]) / 2 * scale
        torch.testing.assert_close(found[name.format(layer)], expected)
    torch.testing.assert_close(found["lm_head.bias"], (a["lm_head.bias"] + b["lm_head.bias"]) / 2)
    assert loads(tmp_path / "out", "ctc").config.num_hidden_layers == 3
    with_base = recipe(folders, "ctc", f"base: '{folders['ctc-a']}'\n{text}", method="task_arithmetic")
    merge_to_folder(with_base, tmp_path / "again")
    torch.testing.assert_close(state(tmp_path / "again")["lm_head.weight"], b["lm_head.weight"])


def test_all_layers_change_nothing(folders, tmp_path):
    one = merged(folders, "ctc", "layers: {encoder: [{layers: [0, 3]}]}", tmp_path, method="linear")
    other = merged(folders, "ctc", "", tmp_path, method="linear")
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_alignment_heads_move_with_their_layers(folders, tmp_path):
    text = "layers: {decoder: [{source: b, layers: [1, 2]}, {source: a}]}"
    for name, heads in (("a", [[0, 1], [1, 0]]), ("b", [[0, 0], [1, 1]])):
        (folders[f"whisper-{name}"] / "generation_config.json").write_text(
            json.dumps({"alignment_heads": heads, "max_length": 6})
        )
    try:
        merge_to_folder(recipe(folders, "whisper", text), tmp_path / "out")
    finally:
        for name in "ab":
            (folders[f"whisper-{name}"] / "generation_config.json").unlink()
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings == {"alignment_heads": [[0, 1], [1, 1], [2, 0]], "max_length": 6}


def test_donor_gives_the_files(folders, tmp_path):
    edit_config(folders["ctc-a"], note="a")
    for donor, note in (("", None), ("donor: a", "a")):
        merged(folders, "ctc", f"layers: {{encoder: [{{source: a}}, {{source: b}}]}}\n{donor}", tmp_path)
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config.get("note") == note and config["num_hidden_layers"] == 6


def test_view_reads_as_a_checkpoint(folders):
    source = Checkpoint.open(folders["ctc-a"])
    parts = {"x": Part(source, "lm_head.weight"), "y": Part(source, "lm_head.weight", 2.0)}
    view = AssembledCheckpoint.join(source, {"model_type": "none"}, parts, "view")
    weight = source.read("lm_head.weight")
    assert view.names == ("x", "y") and view.shape("y") == tuple(weight.shape) and view.dtype("x") == weight.dtype
    assert torch.equal(view.read("x"), weight) and torch.equal(view.read("y"), 2 * weight)
    assert torch.equal(view.read_elements("y", 3, 7), 2 * weight.flatten()[3:7])
    assert view.hash() != AssembledCheckpoint.join(source, {}, {"x": parts["x"]}, "view").hash()
    with pytest.raises(CheckpointError, match="view has no tensor z: it has 2 others"):
        view.read("z")


def test_half_precision_is_scaled_in_float32(folders, tmp_path):
    half = save(ctc(5).half(), tmp_path / "half")
    made = recipe({"ctc-a": half}, "ctc", "layers: {encoder: [{scale: 0.3}]}\ndtype: float32", names="a")
    found = dict(merge_tensors(made, None, [Checkpoint.open(half)]))
    name = "wav2vec2.encoder.layers.0.attention.k_proj.weight"
    assert torch.equal(found[name], state(half)[name].float() * 0.3)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


@pytest.mark.parametrize(
    ("family", "text", "error", "message"),
    [
        ("whisper", "", ConfigError, r"passthrough of several models needs 'layers', each range with the 'source'"),
        ("whisper", "layers: {encoder: [{layers: [0, 1]}]}", ConfigError, "each range with the 'source' it is taken"),
        ("whisper", "layers: {encoder: [{source: c}]}", ConfigError, "the source 'c' is not one of the models; known are a, b"),
        ("whisper", "layers: {encoder: [{source: a, layers: [2, 2]}]}", ConfigError, r"the layers \[2, 2\] are none"),
        ("whisper", "layers: {encoder: []}", ConfigError, "'layers.encoder' is"),
        ("whisper", "layers: {encoders: [{source: a}]}", ConfigError, "encoder' or 'decoder'"),
        ("whisper", "layers: {encoder: [{source: a}]}\noutside: c", ConfigError, "the outside 'c' is not one of the models"),
        (
            "whisper",
            "layers: {encoder: [{source: a, layers: [2, 4]}]}",
            ConfigError,
            r"layers \[2, 4\] of the encoder cannot be taken from a, which has 3 of them, \[0, 3\]; correct it",
        ),
        (
            "ctc",
            "layers: {encoder: [{source: a}], decoder: [{source: b}]}",
            ConfigError,
            "the decoder cannot be taken from b, which has no decoder",
        ),
        (
            "ctc",
            "layers: {encoder: [{source: a}, {source: b}]}\ngroups: [{tensor: attn, parameters: {scale: 0}}]",
            ConfigError,
            "no tensor of this model has 'attn' as a whole part of its name; .*attention",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(folders, tmp_path, family, text, error, message):
    with pytest.raises(error, match=message) as caught:
        merged(folders, family, text, tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_other_methods_refuse_sources(folders):
    with pytest.raises(ConfigError, match="linear merges the same layers of every model; leave 'source' and 'outside' out"):
        recipe(folders, "ctc", "layers: {encoder: [{source: a}]}", method="linear")
    with pytest.raises(ConfigError, match="leave 'fisher' or 'layers' out"):
        Recipe.from_yaml("method: linear\nexperts: [{name: a, model: m, fisher: f}]\nlayers: {encoder: [{layers: [0, 1]}]}")


def test_models_that_do_not_fit_are_named(folders, tmp_path):
    def refused(second, message, layers="encoder: [{source: a, layers: [0, 2]}, {source: b, layers: [1, 2]}]"):
        made = recipe({**folders, "whisper-b": second}, "whisper", f"layers: {{{layers}}}")
        with pytest.raises(IncompatibleError, match=message):
            merge_to_folder(made, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    wide = save(whisper(2, width=12), tmp_path / "wide")
    message = r"model.encoder.layer_norm.bias has shape \[8\] in a \(.*\) and \[12\] in b \(.*wide\)"
    refused(wide, message)
    message = r"model.encoder.conv1.bias has shape \[12\] in b \(.*wide\) and \[8\] in a"
    refused(wide, message, "encoder: [{source: a}], decoder: [{source: b}]")
    heads = save(whisper(2), tmp_path / "heads")
    edit_config(heads, encoder_attention_heads=4)
    refused(heads, "config.json says encoder_attention_heads 2 in a .* and 4 in b")
    lacking = save(whisper(2), tmp_path / "lacking")
    stored = state(lacking)
    del stored["model.encoder.layers.1.fc1.bias"]
    save_file(stored, lacking / "model.safetensors", {"format": "pt"})
    refused(lacking, r"model.encoder.layers.2.fc1.bias is in a \(.*\) but not in b")
    refused(folders["ctc-a"], "config.json says model_type whisper in a .* and wav2vec2 in b")


def test_layers_of_a_model_with_another_vocabulary(folders, tmp_path):
    """The head and its tokenizer come from one model; layers have no tokens."""
    other = save(ctc(5), tmp_path / "other")
    (other / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(reversed(CTC_TOKENS))}))
    made = folders | {"ctc-b": other}
    text = "layers: {encoder: [{source: a, layers: [0, 2]}, {source: %s, layers: [2, 3]}]}"
    result = merged(made, "ctc", text % "b" + "\noutside: a", tmp_path)
    name = "wav2vec2.encoder.layers.2.attention.k_proj.weight"
    assert torch.equal(result[name], state(other)[name])
    assert torch.equal(result["lm_head.weight"], state(made["ctc-a"])["lm_head.weight"])
    assert (tmp_path / "out" / "vocab.json").read_bytes() == (made["ctc-a"] / "vocab.json").read_bytes()
    result = merged(made, "ctc", text % "b", tmp_path)  # the head follows the last layer
    assert torch.equal(result["lm_head.weight"], state(other)["lm_head.weight"])
    assert (tmp_path / "out" / "vocab.json").read_bytes() == (other / "vocab.json").read_bytes()
    with pytest.raises(IncompatibleError, match="token 0 of the vocabulary is "):
        merged(made, "ctc", text % "b" + "\ndonor: a", tmp_path)
