from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_config, save, tiny_ctc, tiny_model, tiny_whisper

from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import CheckpointError

EMBEDDING, PROJECTION = "model.decoder.embed_tokens.weight", "proj_out.weight"
CONV = "wav2vec2.encoder.pos_conv_embed.conv"


def as_pickle(model, folder: Path, **state) -> Path:
    save(model, folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict() | state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("family", ["ctc", "whisper"])
@pytest.mark.parametrize("form", ["single", "sharded", "pickle"])
def test_reads_every_form(tmp_path, family, form):
    model = tiny_model(family)
    if form == "pickle":
        as_pickle(model, tmp_path)
    else:
        save(model, tmp_path, max_shard_size="2KB" if form == "sharded" else "5GB")
    checkpoint = Checkpoint.open(tmp_path)
    assert (len(checkpoint.weight_files) > 1) == (form == "sharded")
    expected = dict(model.named_parameters())
    assert checkpoint.names == tuple(sorted(expected))
    for name, value in expected.items():
        assert checkpoint.shape(name) == tuple(value.shape)
        assert checkpoint.dtype(name) == torch.float32
        assert torch.equal(checkpoint.read(name), value)
    assert checkpoint.config["model_type"] == checkpoint.model_type == model.config.model_type
    assert checkpoint.folder == tmp_path


def test_other_dtypes(tmp_path):
    save(tiny_ctc().half(), tmp_path)
    assert Checkpoint.open(str(tmp_path)).dtype("lm_head.weight") == torch.float16


def test_tied_weights_are_one_parameter(tmp_path):
    checkpoint = Checkpoint.open(as_pickle(tiny_whisper(), tmp_path))
    assert EMBEDDING in checkpoint.names and PROJECTION not in checkpoint.names


def test_only_the_second_name_of_a_tied_weight_is_stored(tmp_path):
    folder = save(tiny_whisper(), tmp_path)
    state = load_file(folder / "model.safetensors")
    expected = state[PROJECTION] = state.pop(EMBEDDING)
    save_file(state, folder / "model.safetensors")
    assert torch.equal(Checkpoint.open(folder).read(EMBEDDING), expected)


def test_tied_weights_that_differ_are_refused(tmp_path):
    folder = as_pickle(tiny_whisper(), tmp_path, **{PROJECTION: torch.zeros(40, 8)})
    with pytest.raises(
        CheckpointError, match=r"model\.decoder\.embed_tokens\.weight and proj_out\.weight in .* tied .* differ: set"
    ):
        Checkpoint.open(folder).read(EMBEDDING)
    edit_config(folder, tie_word_embeddings=False)
    checkpoint = Checkpoint.open(folder)
    assert {EMBEDDING, PROJECTION} <= set(checkpoint.names)
    assert not checkpoint.read(PROJECTION).any()


def test_old_weight_norm_names_read_as_the_new_ones(tmp_path):
    folder = save(tiny_ctc(), tmp_path)
    state = load_file(folder / "model.safetensors")
    g = state[f"{CONV}.weight_g"] = state.pop(f"{CONV}.parametrizations.weight.original0")
    v = state[f"{CONV}.weight_v"] = state.pop(f"{CONV}.parametrizations.weight.original1")
    save_file(state, folder / "model.safetensors")
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.names == tuple(sorted(dict(tiny_ctc().named_parameters())))
    assert torch.equal(checkpoint.read(f"{CONV}.parametrizations.weight.original0"), g)
    assert torch.equal(checkpoint.read(f"{CONV}.parametrizations.weight.original1"), v)


def test_hash_is_that_of_the_bytes(tmp_path):
    one = Checkpoint.open(save(tiny_ctc(), tmp_path / "one"))
    assert one.hash() == hashlib.sha256((one.folder / "model.safetensors").read_bytes()).hexdigest()
    copied = shutil.copytree(one.folder, tmp_path / "two")
    assert Checkpoint.open(copied).hash() == one.hash()
    sharded = Checkpoint.open(save(tiny_ctc(), tmp_path / "sharded", max_shard_size="2KB"))
    assert sharded.hash() == Checkpoint.open(sharded.folder).hash() != one.hash()


def break_nothing(folder):
    shutil.rmtree(folder)


def break_config_missing(folder):
    (folder / "config.json").unlink()


def break_config_corrupt(folder):
    (folder / "config.json").write_text('{"model_type": ')


def break_config_list(folder):
    (folder / "config.json").write_text("[]")


def break_weights_missing(folder):
    (folder / "model.safetensors").unlink()


def break_truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_header(folder):
    (folder / "model.safetensors").write_bytes(b"oops")


def break_shard_missing(folder):
    save(tiny_ctc(), folder, max_shard_size="2KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def break_index(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


def break_pickle_truncated(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_ctc().state_dict(), folder / "pytorch_model.bin")
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:2000])


def break_pickle_empty(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def break_pickle_code(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"model": Path("x")}, folder / "pytorch_model.bin")


def break_pickle_content(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"step": 3}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (break_nothing, "", "does not exist: give the folder"),
        (break_config_missing, "", "has no config.json: give a folder that save_pretrained wrote"),
        (break_config_corrupt, "config.json", "is not valid JSON .*: copy it again"),
        (break_config_list, "config.json", "must hold a JSON object"),
        (break_weights_missing, "", "has no weights: it needs model.safetensors or pytorch_model.bin"),
        (break_truncated, "model.safetensors", "is truncated .*: copy or download it again"),
        (break_header, "model.safetensors", "is truncated or not a safetensors file"),
        (break_shard_missing, "model-00002-of-", "is missing, but model.safetensors.index.json lists it: copy the missing shard"),
        (break_index, "model.safetensors.index.json", "has no weight_map"),
        (break_pickle_truncated, "pytorch_model.bin", r"is truncated or no plain state dict \([^()]+\): copy"),
        (break_pickle_empty, "pytorch_model.bin", r"is truncated or no plain state dict \(EOFError\): copy"),
        (
            break_pickle_code,
            "pytorch_model.bin",
            r"no plain state dict \(Weights only load failed\): .*save the model as safetensors",
        ),
        (break_pickle_content, "pytorch_model.bin", "holds more than tensors: save"),
    ],
)
def test_errors_name_the_file_and_the_remedy(tmp_path, damage, file, message):
    folder = save(tiny_ctc(), tmp_path / "broken")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(folder)
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_and_a_revision_of_a_folder_are_refused(tmp_path):
    folder = save(tiny_ctc(), tmp_path)
    with pytest.raises(CheckpointError, match=r"config.json is a file: give the folder"):
        Checkpoint.open(folder / "config.json")
    with pytest.raises(CheckpointError, match="has no revision main: leave"):
        Checkpoint.open(folder, revision="main")
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.open("./no/such/folder")


def test_unknown_tensor(tmp_path):
    with pytest.raises(CheckpointError, match="has no tensor nothing"):
        Checkpoint.open(save(tiny_ctc(), tmp_path)).read("nothing")


def test_hub_id_from_an_offline_cache(tmp_path):
    commit = "0123456789" * 4
    repository = tmp_path / "hub" / "models--org--tiny"
    folder = save(tiny_ctc(), repository / "snapshots" / commit)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):  # the cache holds links to blobs
        path.rename(repository / "blobs" / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "import json, sys\n"
        "from asrmerge.checkpoints import Checkpoint\n"
        "from asrmerge.errors import CheckpointError\n"
        f"found = [Checkpoint.open('org/tiny', revision).folder.name for revision in (None, 'main', {commit!r})]\n"
        "try:\n    Checkpoint.open('org/absent')\n"
        "except CheckpointError as error:\n    print(json.dumps([found, str(error)]))\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found, message = json.loads(result.stdout)
    assert found == [commit] * 3
    assert "org/absent is no local folder, and the Hugging Face hub gave no such model" in message
    assert "hf download org/absent" in message and "\n" not in message
