from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.recognizers import load_recognizer, model_families

Make = Callable[..., Path]


def test_families_are_found() -> None:
    assert set(model_families()) == {"wav2vec2", "hubert", "wavlm", "data2vec-audio", "wav2vec2-bert", "whisper"}


def test_unknown_model_type_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"'bert'; supported are: data2vec-audio, hubert, .*whisper\."):
        load_recognizer(tmp_path)


def test_missing_folder_and_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for missing in (tmp_path / "absent", str(tmp_path / "absent"), "./absent", "absent"):
        with pytest.raises(CheckpointError, match=r"The checkpoint folder .* does not exist"):
            load_recognizer(missing)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_recognizer(tmp_path)
    with pytest.raises(CheckpointError, match="neither a folder nor on the Hugging Face hub"):
        load_recognizer("nobody/nothing-like-this")


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_missing_tokenizer_or_feature_extractor(make_ctc: Make, make_whisper: Make, family: str) -> None:
    folder = make_ctc() if family == "ctc" else make_whisper()
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    for file in folder.iterdir():
        if file.name.startswith(("tokenizer", "vocab", "merges", "special", "added")):
            file.unlink()
    with pytest.raises(CheckpointError, match="no usable tokenizer and processor"):
        load_recognizer(folder)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    (folder / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match="no usable tokenizer and processor"):
        load_recognizer(folder)


def test_missing_and_broken_weights(make_ctc: Make) -> None:
    folder = make_ctc()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"weights of .* cannot be loaded"):
        load_recognizer(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"weights of .* cannot be loaded"):
        load_recognizer(folder)


def test_checkpoint_without_head(make_ctc: Make) -> None:
    folder = make_ctc()
    headless = load_recognizer(folder).model.base_model
    headless.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Wav2Vec2ForCTC"]}))
    with pytest.raises(CheckpointError, match=r"lacks 2 of its tensors \(the first: lm_head"):
        load_recognizer(folder)


def test_unknown_precision(make_ctc: Make) -> None:
    with pytest.raises(ConfigError, match="float32, bfloat16"):
        load_recognizer(make_ctc(), precision="int4")  # type: ignore[arg-type]
