"""Bad input through `asrmerge merge`: one sentence that names the tensor or file; the target folder is as it was before."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import averages
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CTC_TOKENS, WHISPER_TOKENS, edit_config, fine_tuned, save, tiny_ctc, tiny_model, tiny_whisper

from asrmerge import cli
from asrmerge.checkpoints import Checkpoint
from asrmerge.merging import Recipe

LAST = "wav2vec2.masked_spec_embed"
SHARED = "wav2vec2.encoder.layer_norm.bias"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    for family in ("ctc", "whisper"):
        save(tiny_model(family), root / family / "base")
        for seed, name in enumerate(("legal", "medical"), start=1):
            save(fine_tuned(family, seed), root / family / name)
    return root


class Merge:
    """A recipe, its models to spoil, and the folder of an earlier merge."""

    def __init__(self, models: Path, monkeypatch, capfd) -> None:
        self.models, self.output = models, models.parent / "target" / "out"
        self._monkeypatch, self._capfd = monkeypatch, capfd
        self.recipe = models.parent / "recipe.yaml"
        self.write_recipe()
        shutil.copytree(models / "base", self.output)
        (self.output / "merge_provenance.json").write_text("an earlier merge's")

    def write_recipe(self, **changes) -> None:
        experts = [{"name": name, "model": str(self.models / name), "weight": 0.5} for name in ("legal", "medical")]
        made = {"method": "task_arithmetic", "base": str(self.models / "base"), "experts": experts} | changes
        self.recipe.write_text(Recipe(**made).to_yaml())

    def run(self) -> tuple[int, str]:
        """Exit code, and what went to standard error."""
        self._monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        self._monkeypatch.setattr(sys, "argv", ["asrmerge", "merge", str(self.recipe), str(self.output)])
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, self._capfd.readouterr().err

    def content(self) -> dict[str, tuple[bytes | None, int]]:
        """Everything where the target lies, so that leftovers beside it show."""
        folder = self.output.parent
        return {
            str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*"))
        }

    def refused(self, *parts: str) -> str:
        before = self.content()
        code, sentence = self.run()
        assert code == 2 and self.content() == before, sentence
        assert sentence.startswith("asrmerge: ") and sentence.count("\n") == 1 and sentence.endswith(".\n"), sentence
        for part in parts:
            assert part in sentence, sentence
        return sentence


@pytest.fixture
def merge(originals, tmp_path, monkeypatch, capfd):
    return Merge(shutil.copytree(originals / "ctc", tmp_path / "models"), monkeypatch, capfd)


@pytest.fixture
def whisper_merge(originals, tmp_path, monkeypatch, capfd):
    return Merge(shutil.copytree(originals / "whisper", tmp_path / "models"), monkeypatch, capfd)


def edit_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def set_vocabulary(folder, tokens):
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))


def test_the_models_as_they_are_merge(merge):
    assert merge.run() == (0, "")


@pytest.mark.parametrize("name", [SHARED, "wav2vec2.feature_projection.projection.weight"])
@pytest.mark.parametrize("spoilt", ["base", "medical"])
def test_other_shape(merge, name, spoilt):
    edit_weights(merge.models / spoilt, lambda state: state.update({name: torch.zeros(3, 5)}))
    merge.refused(f"{name} has shape", "[3, 5] in ", f"{spoilt} ({merge.models / spoilt})", "merge fine-tunes of one base only")


@pytest.mark.parametrize("spoilt", ["base", "medical"])
def test_missing_tensor(merge, spoilt):
    edit_weights(merge.models / spoilt, lambda state: state.pop(SHARED))
    merge.refused(f"{SHARED} is in ", f"but not in {spoilt} ({merge.models / spoilt})" if spoilt != "base" else "not in base (")


def test_missing_half_of_a_weight_norm(merge):
    name = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    edit_weights(merge.models / "legal", lambda state: state.pop(name))
    merge.refused(f"{name} is in base", "not in legal")


def test_another_vocabulary(merge):
    """Letters in another case can't be matched; those of a Whisper never are."""
    set_vocabulary(merge.models / "legal", [*CTC_TOKENS[:3], *"ABCDEFGHI"])
    merge.refused("'a', 'b', 'c'", "'A', 'B', 'C'")


def test_another_whisper_vocabulary(whisper_merge):
    set_vocabulary(whisper_merge.models / "medical", [*WHISPER_TOKENS[:7], "hello", *WHISPER_TOKENS[8:]])
    whisper_merge.refused("token 7 of the vocabulary is 't7' in base", "and 'hello' in medical", "fine-tune with one tokenizer")


def test_missing_vocabulary(whisper_merge):
    (whisper_merge.models / "legal" / "vocab.json").unlink()
    whisper_merge.refused("legal (", "has no tokenizer.json or vocab.json", "copy the tokenizer's files")


@pytest.mark.parametrize(("base", "expert"), [(51864, 51865), (51865, 51864), (51864, 51866)])
def test_english_only_and_multilingual_whisper(whisper_merge, base, expert):
    edit_config(whisper_merge.models / "base", vocab_size=base)
    edit_config(whisper_merge.models / "legal", vocab_size=expert)
    sentence = whisper_merge.refused(
        f"{base} tokens in base", f"{expert} in legal", "one is English-only, the other multilingual"
    )
    assert "generations" not in sentence


@pytest.mark.parametrize(
    ("base", "expert"),
    [
        ({"vocab_size": 51865, "num_mel_bins": 80}, {"vocab_size": 51866, "num_mel_bins": 128}),
        ({"vocab_size": 51866, "num_mel_bins": 128}, {"vocab_size": 51865, "num_mel_bins": 80}),
        ({"num_mel_bins": 80}, {"num_mel_bins": 128}),
    ],
)
def test_whisper_v3_and_v2(whisper_merge, base, expert):
    for name, changes in (("base", base), ("legal", base), ("medical", expert)):
        edit_config(whisper_merge.models / name, **changes)
    whisper_merge.refused("base (", "medical (", "different Whisper generations", "merge fine-tunes of the same Whisper")


def test_whisper_v3_with_the_token_ids_of_v2(whisper_merge):
    """The same sizes, but one was saved with the older tokenizer, in which every token after the languages is one lower."""
    v3 = [*WHISPER_TOKENS[:20], "<|su|>", "<|yue|>", "<|translate|>", "<|transcribe|>", *WHISPER_TOKENS[24:]]
    v2 = [*WHISPER_TOKENS[:20], "<|su|>", "<|translate|>", "<|transcribe|>", *WHISPER_TOKENS[23:]]
    for name, tokens in (("base", v3), ("legal", v3), ("medical", v2)):
        set_vocabulary(whisper_merge.models / name, tokens)
    whisper_merge.refused(
        "token 21 of the vocabulary is '<|yue|>' in base", "and '<|translate|>' in medical", "Whisper generations"
    )


def test_generation_settings_of_another_whisper(whisper_merge):
    """A fine-tune of v3 whose settings for decoding are those of v2."""
    for name, number in (("base", 50364), ("legal", 50364), ("medical", 50363)):
        path = whisper_merge.models / name / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"no_timestamps_token_id": number}))
    whisper_merge.refused(
        "generation_config.json says no_timestamps_token_id 50364 in base (", "and 50363 in medical (", "copy the right"
    )
    path.write_text("{}")  # older versions of transformers say nothing
    assert whisper_merge.run() == (0, "")


def test_mixed_float_types_merge_in_float32(merge):
    """The output has the base's types, and is rounded once."""
    types = {"base": torch.float16, "legal": torch.float32, "medical": torch.bfloat16}
    for name, dtype in types.items():
        edit_weights(merge.models / name, lambda state, dtype=dtype: state.update({key: v.to(dtype) for key, v in state.items()}))
    assert merge.run() == (0, "")
    states = {
        name: averages.effective(
            {key: value.float().numpy() for key, value in load_file(merge.models / name / "model.safetensors").items()}
        )
        for name in types
    }
    merged = load_file(merge.output / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float16}
    for name, base in states["base"].items():
        if name in merged:
            exact = averages.task_arithmetic(base, [states["legal"][name], states["medical"][name]], [0.5, 0.5], 1.0)
            error = np.abs(merged[name].double().numpy() - exact)
            assert (error <= 0.51 * np.spacing(np.abs(exact).astype(np.float16)).astype(float) + 1e-7).all(), name


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("spoilt", ["base", "legal"])
def test_quantised_against_float(merge, dtype, spoilt):
    edit_weights(merge.models / spoilt, lambda state: state.update({SHARED: state[SHARED].to(dtype)}))
    merge.refused(f"{SHARED} is ", f"{dtype} in {spoilt}", "give unquantised checkpoints")


def test_said_to_be_quantised(merge):
    edit_config(merge.models / "legal", quantization_config={"load_in_8bit": True})
    merge.refused("legal (", "is quantised")


def test_a_type_of_eight_bits(merge):
    edit_weights(merge.models / "legal", lambda state: state.update({SHARED: state[SHARED].to(torch.float8_e4m3fn)}))
    merge.refused(SHARED, str(merge.models / "legal"), "is stored as F8_E4M3", "save the model in float32")


def test_truncated(merge):
    path = merge.models / "medical" / "model.safetensors"
    for size in (len(path.read_bytes()) - 1, 5000, 20, 7, 0):
        os.truncate(path, size)
        merge.refused(str(path), "truncated", "copy or download it again")


def test_corrupted_header(merge):
    path = merge.models / "base" / "model.safetensors"
    content = path.read_bytes()
    spoilt = [
        content.replace(b'"F32"', b'"X32"', 1),
        content.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
        bytes([255] * 8) + content[8:],
        content[:8] + b"\x00" + content[9:],
        b"<!DOCTYPE html><html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    ]
    for changed in spoilt:
        path.write_bytes(changed)
        merge.refused(str(path), "not a safetensors file", "copy or download it again")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nan_and_inf(merge, value):
    edit_weights(merge.models / "legal", lambda state: state[LAST].fill_(value))
    merge.refused(f"{LAST} in legal ({merge.models / 'legal'}) holds NaN or Inf", "leave this expert out")


def test_missing_shard_and_missing_folder(merge):
    folder = merge.models / "legal"
    (folder / "model.safetensors").unlink()
    save(tiny_ctc(), folder, max_shard_size="2KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    merge.refused(str(shard), "copy the missing shard")
    shutil.rmtree(folder)
    merge.refused(str(folder), "does not exist")


def test_another_model(merge):
    save(tiny_whisper(), merge.models / "legal")
    merge.refused("config.json says model_type wav2vec2 in base", "whisper in legal")


def wider(folder):
    """A base of another size."""
    config = tiny_ctc().config
    config.hidden_size = 16
    return save(type(tiny_ctc())(config), folder)


@pytest.mark.parametrize("named", ["the other", "the recipe's"])
def test_adapter_for_another_base(merge, named):
    """Its configuration names the base that it was trained on, or, edited, that of the recipe."""
    peft = pytest.importorskip("peft")
    other, folder = wider(merge.models / "other"), merge.models / "legal"
    shutil.rmtree(folder)
    model = type(tiny_ctc()).from_pretrained(other)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    if named == "the other":
        merge.refused("has shape", "in base (", "in legal (", str(other))
    else:
        edit = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(merge.models / "base")}
        (folder / "adapter_config.json").write_text(json.dumps(edit))
        merge.refused("q_proj.weight", str(folder), str(merge.models / "base"), "[16, 16]", "[8, 8]")


def test_output_that_is_no_checkpoint(merge):
    shutil.rmtree(merge.output)
    merge.output.mkdir()
    (merge.output / "thesis.txt").write_text("dear")
    merge.refused(str(merge.output), "holds something other than a checkpoint")


def test_output_that_holds_an_input(merge):
    """Such as a training's folder, whose last state is the output and an earlier one an input."""
    inner = shutil.copytree(merge.models / "legal", merge.output / "checkpoint-10")
    experts = [{"name": "legal", "model": str(inner)}]
    merge.write_recipe(experts=experts)
    merge.refused(f"{merge.output} is or holds the input {inner}", "give another output folder")


def test_a_disk_as_output(merge):
    with small_disk(merge.output, 1_000_000):
        merge.refused(f"{merge.output} is where a disk is mounted", "give a folder inside of it")


def test_nested_too_deeply(merge):
    (merge.models / "legal" / "vocab.json").write_text('{"a":' * 100_000)
    merge.refused(str(merge.models / "legal" / "vocab.json"), "is not valid JSON", "copy it again")


@contextmanager
def small_disk(folder: Path, size: int):
    """A file system of ``size`` bytes at ``folder``."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(merge):
    """A real one, on which an earlier merge lies and another does not fit."""
    for name in ("base", "legal", "medical"):
        edit_weights(merge.models / name, lambda state: state.update(big=torch.ones(500_000)))
    spare = merge.models / "base"
    shutil.rmtree(merge.output)
    with small_disk(merge.output.parent, 3_000_000):
        shutil.copytree(spare, merge.output)
        merge.refused(f"there is no room for {merge.output}", "its weights take 2.0", "MB free", "make room")
        shutil.rmtree(merge.output)
        assert merge.run() == (0, "")


@pytest.mark.parametrize("function", ["posix_fallocate", "pwrite", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_wherever_it_shows(merge, monkeypatch, function, code):
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, failing)
    merge.refused("there is no room for", str(merge.output), "make room")
    assert calls


def test_a_broken_disk_names_the_file(merge, monkeypatch):
    def failing(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", failing)
    code, sentence = merge.run()
    assert code == 2 and "model.safetensors: Input/output error" in sentence and sentence.count("\n") == 1


def test_a_file_system_that_cannot_reserve(merge, monkeypatch):
    def failing(*arguments):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    assert merge.run() == (0, "")
    before = (merge.output / "model.safetensors").read_bytes()
    monkeypatch.setattr(os, "posix_fallocate", failing)
    assert merge.run() == (0, "")
    monkeypatch.delattr(os, "posix_fallocate")
    assert merge.run() == (0, "")
    assert (merge.output / "model.safetensors").read_bytes() == before


KILLED = """
import itertools, sys, time
from asrmerge import cli
from asrmerge.checkpoints.writing import CheckpointWriter
write, count = CheckpointWriter.write, itertools.count()
def slow(*arguments):
    write(*arguments)
    number = next(count)
    if number == 5:
        print("written", flush=True)
    if number >= 5:
        time.sleep(60)
CheckpointWriter.write = slow
sys.argv = ["asrmerge", "merge", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize("earlier", [True, False])
def test_killed_in_the_middle_of_writing(merge, earlier):
    """The target is as it was, and the next merge removes what the killed one left and is complete."""
    if not earlier:
        shutil.rmtree(merge.output)
    before = merge.content()
    command = [sys.executable, "-c", KILLED, str(merge.recipe), str(merge.output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    after = merge.content()
    left = {name for name in after if name not in before}
    assert any(name.endswith("model.safetensors") for name in left) and all(name.startswith(".out.new-") for name in left)
    assert {name: after[name] for name in before} == before
    if earlier:
        Checkpoint.open(merge.output)
    assert merge.run() == (0, "")
    assert {path.name for path in merge.output.parent.iterdir()} == {"out"}
    merged = {path.name: path.read_bytes() for path in merge.output.iterdir()}
    merge.output = merge.output.parent / "afresh"
    assert merge.run() == (0, "")
    assert {path.name: path.read_bytes() for path in merge.output.iterdir()} == merged
