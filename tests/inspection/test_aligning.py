"""A permuted model comes back in the base's order, computes what it did, and can then be merged."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_models import edit_config, fine_tuned, save, tiny_model
from transformers import ParakeetCTCConfig, ParakeetEncoderConfig, Wav2Vec2BertConfig, WavLMConfig
from transformers.models.auto.modeling_auto import AutoModelForCTC

from asrmerge import cli
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.errors import ConfigError, IncompatibleError
from asrmerge.inspection.aligning import align_to_folder
from asrmerge.inspection.inspecting import inspect_models
from asrmerge.inspection.permutation import align, find_parts

CONFORMERS = {
    "wav2vec2-bert": Wav2Vec2BertConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        feature_projection_input_dim=16,
    ),
    "wav2vec2-bert, relative": Wav2Vec2BertConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        feature_projection_input_dim=16, position_embeddings_type="relative",
    ),
    "parakeet": ParakeetCTCConfig(
        vocab_size=12, pad_token_id=0,
        encoder_config=ParakeetEncoderConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, intermediate_size=24,
            num_mel_bins=16, subsampling_conv_channels=8,
        ).to_dict(),
    ),
}  # fmt: skip


def shuffled(parts, seed=3):
    """A function that moves the units of all ``parts`` of a state dict, by random orders."""
    generator = torch.Generator().manual_seed(seed)

    def change(tensors):
        for part in parts:
            tensors = align(tensors, part, torch.randperm(part.count, generator=generator))
        return tensors

    return change


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_a_moved_fine_tune_comes_back(family, saved, altered, tmp_path, monkeypatch, capsys):
    base, tuned = saved(tiny_model(family), "base"), saved(fine_tuned(family, 1, 0.002), "tuned")
    moved = altered(tuned.folder, "moved", shuffled(find_parts(base)))
    assert inspect_models(base, {"moved": moved}).base_checks[0].verdict == "permutation"
    for name, model in (("out", moved), ("again", tuned)):
        arguments = ["asrmerge", "align", str(model.folder), str(tmp_path / name), "--base", str(base.folder)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0 and capsys.readouterr().out == f"aligned model {tmp_path / name}\n"
        assert content(tmp_path / name) == content(tuned.folder)


@pytest.mark.parametrize("name", CONFORMERS)
def test_conformers(name, tmp_path, altered):
    torch.manual_seed(0)
    model = AutoModelForCTC.from_config(CONFORMERS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases that are made as zeros would hide a wrong order
            parameter.add_(0.2 * torch.randn_like(parameter))
    base = Checkpoint.open(save(model, tmp_path / "base"))
    parts = find_parts(base)
    assert [(part.layer, part.part, part.count) for part in parts] == [
        (layer, *part) for layer in range(2) for part in (("ffn", 24), ("ffn", 24), ("self", 4))
    ]
    moved = altered(base.folder, "moved", shuffled(parts))
    features = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(features).logits
        given = AutoModelForCTC.from_pretrained(moved.folder).eval()(features).logits
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)
    check = inspect_models(base, {"moved": moved}).base_checks[0]
    assert check.verdict == "permutation" and check.units < 0.3
    align_to_folder(str(moved.folder), str(base.folder), tmp_path / "out")
    written = Checkpoint.open(tmp_path / "out")
    assert all(torch.equal(written.read(name), base.read(name)) for name in base.names)


def test_what_cannot_be_aligned(saved, altered, tmp_path):
    base = saved(tiny_model("ctc"), "base")
    before = content(tmp_path)

    def refused(model, message, error=IncompatibleError, output="out"):
        with pytest.raises(error, match=message):
            align_to_folder(str(model), str(base.folder), tmp_path / output)

    refused(saved(tiny_model("ctc", seed=9), "stranger").folder, "stranger: not the same base, since .* of the base: merge fine")
    refused(saved(tiny_model("whisper"), "whisper").folder, "config.json says model_type wav2vec2 in base")
    refused(base.folder, "base is or holds the input .*base and would be replaced", ConfigError, "base")
    other = saved(tiny_model("ctc"), "other").folder
    edit_config(base.folder, model_type="sew")
    edit_config(other, model_type="sew")
    refused(other, "is not checked, for the units of a sew model can't be matched here")
    assert not (tmp_path / "out").exists() and content(base.folder).keys() == {
        name.removeprefix("base/") for name in before if name.startswith("base/")
    }


def test_wavlms_heads_stay(tmp_path, altered):
    torch.manual_seed(0)
    config = WavLMConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, conv_dim=(8, 8),
        conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    base = Checkpoint.open(save(AutoModelForCTC.from_config(config), tmp_path / "base"))
    parts = find_parts(base)
    units = altered(base.folder, "units", shuffled([part for part in parts if part.kind == "units"]))
    align_to_folder(str(units.folder), str(base.folder), tmp_path / "out")
    assert content(tmp_path / "out") == content(base.folder)
    heads = altered(base.folder, "heads", shuffled([part for part in parts if part.kind == "heads"]))
    with pytest.raises(IncompatibleError, match="those of a WavLM can't be moved"):
        align_to_folder(str(heads.folder), str(base.folder), tmp_path / "out")
