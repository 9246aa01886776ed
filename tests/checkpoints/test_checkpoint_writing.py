from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from tiny_models import save, tiny_ctc, tiny_model, tiny_whisper
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

from asrmerge.checkpoints import Checkpoint, write_checkpoint
from asrmerge.errors import CheckpointError


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def tensors(checkpoint):
    return ((name, checkpoint.read(name)) for name in checkpoint.names)


@pytest.mark.parametrize("family", ["ctc", "whisper"])
@pytest.mark.parametrize("shard_bytes", [10**9, 2000])
def test_transformers_loads_what_is_written(tmp_path, family, shard_bytes):
    model = tiny_model(family, 3)
    donor = Checkpoint.open(save(model, tmp_path / "donor"))
    write_checkpoint(tmp_path / "out", tensors(donor), donor=donor, max_shard_bytes=shard_bytes)
    assert (tmp_path / "out" / "model.safetensors").exists() == (shard_bytes > 2000)
    loader = AutoModelForCTC if family == "ctc" else AutoModelForSpeechSeq2Seq
    loaded, info = loader.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    if family == "whisper":
        assert loaded.proj_out.weight is loaded.model.decoder.embed_tokens.weight
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        assert shard_bytes > 2000 or path.stat().st_size < 2 * shard_bytes
    again = Checkpoint.open(tmp_path / "out")
    assert again.names == donor.names


def test_what_is_copied_and_what_is_not(tmp_path):
    folder = save(tiny_ctc(), tmp_path / "donor")
    names = ("training_args.bin", "optimizer.pt", "trainer_state.json", "merge_recipe.yaml", ".hidden", "tf_model.h5")
    for name in (*names, "pytorch_model.bin.index.json", "generation_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    for name in ("language_model/5gram.bin", "checkpoint-10/model.safetensors"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("x")
    donor = Checkpoint.open(folder)
    extra = {"merge_provenance.json": "{}\n", "vocab.json": "replaced"}
    write_checkpoint(tmp_path / "out", tensors(donor), donor=donor, extra_files=extra)
    kept = {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json", "LICENSE", "README.md"}
    written = content(tmp_path / "out")
    assert set(written) == kept | {"language_model/5gram.bin", "model.safetensors", *extra}
    assert written["vocab.json"] == b"replaced"


def test_dtypes_are_the_donors(tmp_path):
    model = tiny_ctc()
    model.lm_head.bfloat16()
    model.wav2vec2.encoder.half()
    donor = Checkpoint.open(save(model, tmp_path / "donor"))
    write_checkpoint(tmp_path / "out", [(name, donor.read(name).double()) for name in donor.names], donor=donor)
    out = Checkpoint.open(tmp_path / "out")
    assert {out.dtype(name) for name in donor.names} == {torch.float32, torch.float16, torch.bfloat16}
    assert all(out.dtype(name) == donor.dtype(name) for name in donor.names)


def test_overflow_is_refused_and_the_old_folder_stays(tmp_path):
    donor = Checkpoint.open(save(tiny_ctc().half(), tmp_path / "donor"))
    write_checkpoint(tmp_path / "out", tensors(donor), donor=donor)
    before = content(tmp_path)
    with pytest.raises(CheckpointError, match=r"lm_head.weight is NaN or Inf as torch.float16, so nothing was written: use"):
        write_checkpoint(tmp_path / "out", [("lm_head.weight", torch.full((12, 8), 1e6))], donor=donor)
    assert content(tmp_path) == before


def test_failure_in_the_stream_leaves_the_old_folder(tmp_path):
    donor = Checkpoint.open(save(tiny_whisper(), tmp_path / "donor"))
    write_checkpoint(tmp_path / "out", tensors(donor), donor=donor)
    before = content(tmp_path)

    def failing():
        yield donor.names[0], donor.read(donor.names[0])
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        write_checkpoint(tmp_path / "out", failing(), donor=donor, max_shard_bytes=1)
    assert content(tmp_path) == before


def test_replaces_a_checkpoint_whole_but_nothing_else(tmp_path):
    donor = Checkpoint.open(save(tiny_ctc(), tmp_path / "donor"))
    old = save(tiny_ctc(1), tmp_path / "old")
    (old / "model-00001-of-00002.safetensors").write_text("left from before")
    write_checkpoint(old, tensors(donor), donor=donor)
    assert "model-00001-of-00002.safetensors" not in content(old)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="holds something other than a checkpoint and is not replaced: give another folder"):
        write_checkpoint(tmp_path / "home", tensors(donor), donor=donor)
    with pytest.raises(CheckpointError, match=r"thesis.txt is a file and is not replaced: give the folder"):
        write_checkpoint(tmp_path / "home" / "thesis.txt", tensors(donor), donor=donor)
    assert content(tmp_path / "home") == {"thesis.txt": b"dear"}


def test_the_index_lists_every_tensor(tmp_path):
    donor = Checkpoint.open(save(tiny_ctc(), tmp_path / "donor"))
    write_checkpoint(tmp_path / "out", tensors(donor), donor=donor, max_shard_bytes=2000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(donor.names)
    assert index["metadata"]["total_size"] == sum(donor.read(name).nbytes for name in donor.names)
