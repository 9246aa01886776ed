from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_config, save, tiny_ctc, tiny_model, tiny_whisper

from asrmerge.checkpoints import Checkpoint, check_compatible, read_finite
from asrmerge.errors import CheckpointError, IncompatibleError


def opened(*folders):
    return [Checkpoint.open(folder) for folder in folders]


def change_weights(folder, **changes):
    state = load_file(folder / "model.safetensors") | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in state.items() if value is not None}, folder / "model.safetensors")


@pytest.fixture
def pair(tmp_path):
    return save(tiny_ctc(0), tmp_path / "one"), save(tiny_ctc(1), tmp_path / "two")


def refused(pair, message, labels=None):
    with pytest.raises(IncompatibleError, match=message) as caught:
        check_compatible(opened(*pair), labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_fine_tunes_of_one_base_pass(tmp_path, family):
    folders = [save(tiny_model(family, seed), tmp_path / str(seed)) for seed in range(3)]
    check_compatible(opened(*folders))
    check_compatible(opened(folders[0]))


def test_model_type(tmp_path):
    pair = save(tiny_ctc(), tmp_path / "one"), save(tiny_whisper(), tmp_path / "two")
    message = refused(pair, "config.json says model_type wav2vec2 in .* and whisper in .*: merge fine-tunes", ["base", "medical"])
    assert f"base ({pair[0]})" in message and f"medical ({pair[1]})" in message


def test_architecture(pair):
    edit_config(pair[1], architectures=["Wav2Vec2ForPreTraining"])
    refused(pair, r"architectures \['Wav2Vec2ForCTC'\] in .* and \['Wav2Vec2ForPreTraining'\] in")


def test_settings_that_change_no_shape(pair):
    edit_config(pair[1], num_attention_heads=4)
    refused(pair, "num_attention_heads 2 in .* and 4 in .* equal weights mean different models")


def test_quantised(pair):
    edit_config(pair[1], quantization_config={"load_in_8bit": True})
    refused(pair, "two is quantised .*: give the unquantised checkpoint")


def test_vocabulary_token_by_token(pair):
    vocabulary = json.loads((pair[1] / "vocab.json").read_text())
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (pair[1] / "vocab.json").write_text(json.dumps(vocabulary))
    refused(pair, "token 3 of the vocabulary is 'a' in .*one and 'b' in .*two: fine-tune with one tokenizer")


def test_vocabulary_token_missing(pair):
    vocabulary = json.loads((pair[1] / "vocab.json").read_text())
    del vocabulary["a"]
    (pair[1] / "vocab.json").write_text(json.dumps(vocabulary))
    refused(pair, "token 3 of the vocabulary is 'a' in .*one and absent in .*two")


def test_vocabulary_file_missing(pair):
    (pair[0] / "vocab.json").unlink()
    refused(pair, "one has no tokenizer.json or vocab.json .*: copy the tokenizer's files")
    (pair[1] / "vocab.json").unlink()
    check_compatible(opened(*pair))


def test_added_tokens_and_tokenizer_json_read_alike(pair):
    tokens = json.loads((pair[0] / "vocab.json").read_text())
    (pair[0] / "added_tokens.json").write_text(json.dumps({"<s>": 900}))  # beyond the head: no row
    slow = {token: number for token, number in tokens.items() if token != "|"}
    content = {"model": {"vocab": slow}, "added_tokens": [{"id": tokens["|"], "content": "|"}]}
    (pair[1] / "vocab.json").unlink()
    (pair[1] / "tokenizer.json").write_text(json.dumps(content))
    check_compatible(opened(*pair))
    content["model"]["vocab"] = [[token, 0.0] for token in tokens]
    (pair[1] / "tokenizer.json").write_text(json.dumps(content))
    check_compatible(opened(*pair))
    (pair[1] / "tokenizer.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json is no tokenizer file of a known form .*: save the tokenizer again"
    ):
        Checkpoint.open(pair[1]).vocabulary()
    (pair[0] / "vocab.json").write_text('{"eng": {"a": 1}}')
    with pytest.raises(CheckpointError, match=r"vocab.json must map tokens to numbers .*: save the tokenizer again"):
        Checkpoint.open(pair[0]).vocabulary()


def test_english_only_whisper(tmp_path):
    pair = save(tiny_whisper(0), tmp_path / "one"), save(tiny_whisper(1), tmp_path / "two")
    edit_config(pair[0], vocab_size=51864)
    edit_config(pair[1], vocab_size=51865)
    refused(pair, "has 51864 tokens in .* and 51865 in .*: one is English-only, the other multilingual")


def test_resized_whisper(tmp_path):
    pair = save(tiny_whisper(0), tmp_path / "one"), save(tiny_whisper(1), tmp_path / "two")
    edit_config(pair[1], vocab_size=41)
    assert "English" not in refused(pair, "has 40 tokens in .* and 41 in")


def test_names(pair):
    change_weights(pair[1], lm_head__bias=None)
    refused(pair, r"lm_head.bias is in .*one but not in .*two: merge fine-tunes of one base only, saved from the same")
    refused(pair[::-1], r"lm_head.bias is in .*one but not in .*two")


def test_shapes(pair):
    change_weights(pair[1], lm_head__weight=torch.zeros(13, 8))
    refused(pair, r"lm_head.weight has shape \[12, 8\] in .*one and \[13, 8\] in .*two: merge")


def test_integers_for_floats(pair):
    change_weights(pair[1], lm_head__bias=torch.zeros(12, dtype=torch.int8))
    refused(pair, r"lm_head.bias is torch.float32 in .* and torch.int8 in .*: give unquantised")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf(pair, value):
    change_weights(pair[1], lm_head__bias=torch.full((12,), value))
    checkpoint = Checkpoint.open(pair[1])
    with pytest.raises(CheckpointError, match=r"lm_head.bias in legal \(.*two\) holds NaN or Inf: .* leave this expert out"):
        read_finite(checkpoint, "lm_head.bias", "legal")
    assert torch.equal(read_finite(checkpoint, "lm_head.weight"), checkpoint.read("lm_head.weight"))
