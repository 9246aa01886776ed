"""`asrmerge merge` of recipes that learn from audio: what is written, what loads, what is refused before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tiny_recognizers import make_models, make_utterances

from asrmerge.learning import merging
from asrmerge.merging.engine import merge_to_folder
from asrmerge.merging.recipe import Recipe
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.audio import read_audio
from asrmerge.speech.corpora import read_corpus
from asrmerge.speech.manifest import write_manifest

FAMILIES = ("ctc", "whisper")
QUICK = {"steps": 4, "evaluate_every": 2, "batch_seconds": 2, "normalizer": "none", "learning_rate": 0.05}

Outcome = tuple[int, str, str]
RunCommand = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """By family: base, experts and a manifest of noises for each expert."""
    made = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        make_models(folder, family)
        for seed, name in enumerate(["legal", "medical"]):
            write_manifest(folder / f"{name}.jsonl", make_utterances(folder, name, [0.6, 0.7, 0.8, 0.9, 0.75], seed))
        made[family] = folder
    return made


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    experts = [
        {"name": name, "model": str(folder / name), "audio": str(folder / f"{name}.jsonl")} for name in ("legal", "medical")
    ]
    content = {"method": "learned_coefficients", "base": str(folder / "base"), "experts": experts, "parameters": QUICK}
    return {**content, "device": "cpu", **changes}


def written(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("family", "method"), [("ctc", "learned_coefficients"), ("whisper", "adamerging"), ("whisper", "learned_soup")]
)
def test_what_was_learnt_is_written_and_can_be_merged_again(
    folders: Mapping[str, Path], family: str, method: str, command: RunCommand, tmp_path: Path
) -> None:
    content = recipe_of(folders[family], method=method, seed=3)
    for name in ("one", "two"):
        code, out, _ = command("merge", written(tmp_path / "recipe.yaml", content), tmp_path / name)
        assert code == 0 and f"{method}: held-out WER" in out and f"merged model  {tmp_path / name}" in out
    files = {name: {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")}
    told = [json.loads(files[name].pop("learned.json")) for name in ("one", "two")]
    assert files["one"] == files["two"] and {"merge_recipe.yaml", "merge_provenance.json"} <= set(files["one"])
    assert {**told[0], "seconds": 0} == {**told[1], "seconds": 0}
    assert told[0]["recipe"]["seed"] == 3 and told[0]["recipe"]["parameters"]["steps"] == 4
    assert [look["step"] for look in told[0]["held_out"]] == [0, 2, 4] and len(told[0]["loss"]) == 4
    assert told[0]["audio"]["legal"] | {"sha256": ""} == {
        "learnt_from": 3, "held_out": 2, "seconds": 3.75, "texts": True, "sha256": "", "left_out": {},
    }  # fmt: skip
    best = min(look["macro_wer"] for look in told[0]["held_out"])
    assert best == next(look["macro_wer"] for look in told[0]["held_out"] if look["step"] == told[0]["kept_step"])
    plain = Recipe.read(tmp_path / "one" / "merge_recipe.yaml")
    assert plain.method == "task_arithmetic"
    merge_to_folder(plain, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == files["one"]["model.safetensors"]


def test_the_word_errors_are_those_of_what_is_written(folders: Mapping[str, Path], command: RunCommand, tmp_path: Path) -> None:
    """Transcripts of the folder, by itself, are those that were counted when it was learnt."""
    content = recipe_of(folders["whisper"], parameters={**QUICK, "evaluate_every": 1})
    assert command("merge", written(tmp_path / "recipe.yaml", content), tmp_path / "out")[0] == 0
    told = json.loads((tmp_path / "out" / "learned.json").read_text())
    kept = next(look for look in told["held_out"] if look["step"] == told["kept_step"])
    recognizer = load_recognizer(tmp_path / "out")
    from asrmerge.evaluation.counts import ErrorCounts, count_errors
    from asrmerge.learning.audio import split_audio

    for name, wer in kept["wer"].items():
        corpus = read_corpus(str(folders["whisper"] / f"{name}.jsonl"), cache=tmp_path)
        split = split_audio(name, corpus, share=0.3, seed=0, window=1.0)
        texts = recognizer.transcribe([read_audio(one.audio) for one in split.held_out])
        counts = [count_errors(one.text, text) for one, text in zip(split.held_out, texts, strict=True)]
        assert sum(counts, ErrorCounts()).wer == pytest.approx(wer)


PLAIN = """
import sys
import numpy as np
from transformers import AutoModelForCTC, AutoProcessor, WhisperForConditionalGeneration
family, folder = sys.argv[1:]
kind = AutoModelForCTC if family == "ctc" else WhisperForConditionalGeneration
processor, model = AutoProcessor.from_pretrained(folder), kind.from_pretrained(folder)
inputs = processor(np.zeros(8000, dtype=np.float32), sampling_rate=16000, return_tensors="pt").to(model.dtype)
if family == "ctc":
    assert len(processor.batch_decode(model(**inputs).logits.argmax(-1))) == 1
else:
    assert len(model.generate(inputs.input_features, max_new_tokens=3)) == 1
assert not any(name.startswith("asrmerge") for name in sys.modules)
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_loads_it(folders: Mapping[str, Path], family: str, command: RunCommand, tmp_path: Path) -> None:
    content = recipe_of(folders[family], parameters={**QUICK, "steps": 1}, dtype="bfloat16")
    assert command("merge", written(tmp_path / "recipe.yaml", content), tmp_path / "out")[0] == 0
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {"torch.bfloat16"}
    script = [sys.executable, "-c", PLAIN, family, str(tmp_path / "out")]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_further_domains_and_audio_without_texts(folders: Mapping[str, Path], command: RunCommand, tmp_path: Path) -> None:
    folder = folders["ctc"]
    utterances = read_corpus(str(folder / "legal.jsonl"), cache=tmp_path)
    lines = [json.dumps({"audio_filepath": str(one.audio), "duration": one.duration, "text": ""}) for one in utterances]
    (tmp_path / "silent.jsonl").write_text("\n".join(lines))
    content = recipe_of(folder, method="adamerging", audio={"general": str(tmp_path / "silent.jsonl")})
    code, _, error = command("merge", written(tmp_path / "recipe.yaml", content), tmp_path / "out")
    assert code == 0 and "no texts in the audio of general: the others' word errors decide what is kept" in error
    told = json.loads((tmp_path / "out" / "learned.json").read_text())
    assert set(told["held_out"][0]["loss"]) == {"general", "legal", "medical"}
    assert set(told["held_out"][0]["wer"]) == {"legal", "medical"} and not told["audio"]["general"]["texts"]
    content = recipe_of(folder, audio={"general": str(tmp_path / "silent.jsonl")})
    code, _, error = command("merge", written(tmp_path / "recipe.yaml", content), tmp_path / "none")
    assert code == 2 and "silent.jsonl: no utterance has a text, which learned_coefficients learns from" in error


def test_a_failure_leaves_the_earlier_output(
    folders: Mapping[str, Path], command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written(tmp_path / "recipe.yaml", recipe_of(folders["ctc"]))
    assert command("merge", recipe, tmp_path / "out")[0] == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    for place in ("merge_to_folder", "write_json"):  # while merging, and before what was learnt is written beside it
        with monkeypatch.context() as patched:
            patched.setattr(merging, place, stop)
            assert command("merge", recipe, tmp_path / "out")[0] == 130
        assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yaml"]


def test_a_model_that_is_merged_with_it_later_does_not_inherit_how_it_was_learnt(
    folders: Mapping[str, Path], command: RunCommand, tmp_path: Path
) -> None:
    assert command("merge", written(tmp_path / "recipe.yaml", recipe_of(folders["ctc"])), tmp_path / "out")[0] == 0
    later = {"method": "linear", "experts": [{"name": "one", "model": str(tmp_path / "out")}]}
    assert command("merge", written(tmp_path / "later.yaml", later), tmp_path / "later")[0] == 0
    assert (tmp_path / "out" / "learned.json").exists() and not (tmp_path / "later" / "learned.json").exists()


def test_bad_input_is_refused_before_anything_is_learnt(
    folders: Mapping[str, Path], command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders["ctc"]
    utterances = read_corpus(str(folder / "legal.jsonl"), cache=tmp_path)
    write_manifest(tmp_path / "single.jsonl", utterances[:1])
    (tmp_path / "empty.jsonl").write_text("")
    write_manifest(tmp_path / "gone.jsonl", [replace(one, audio=tmp_path / "gone.wav") for one in utterances])
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    write_manifest(tmp_path / "noise.jsonl", [*utterances[:2], replace(utterances[2], audio=tmp_path / "noise.wav")])

    def learnt(*arguments: Any) -> None:
        raise AssertionError("it began to learn")

    monkeypatch.setattr(type(merging.get_learning_method("learned_coefficients")), "learn", learnt)

    def with_audio(audio: str) -> dict[str, Any]:
        experts = recipe_of(folder)["experts"]
        return recipe_of(folder, experts=[{**experts[0], "audio": str(tmp_path / audio)}, experts[1]])

    cases: list[tuple[dict[str, Any], Path, str]] = [
        (with_audio("single.jsonl"), tmp_path / "out", "The audio of legal has 1 usable utterances"),
        (with_audio("empty.jsonl"), tmp_path / "out", "empty.jsonl: the file holds no utterance"),
        (with_audio("missing.jsonl"), tmp_path / "out", "missing.jsonl: there is no such file"),
        (with_audio("gone.jsonl"), tmp_path / "out", "gone.wav"),
        (with_audio("noise.jsonl"), tmp_path / "out", "noise.wav"),
        (recipe_of(folder), folder / "legal", "is or holds the input"),
        (recipe_of(folder), tmp_path, "holds something other than a checkpoint"),
        (recipe_of(folder, base=str(folders["whisper"] / "base")), tmp_path / "out", "config.json says model_type"),
        (recipe_of(folder, parameters={"normalizer": "whispr"}), tmp_path / "out", "no text normaliser 'whispr'"),
        (recipe_of(folder, method="learned_soupe"), tmp_path / "out", "did you mean 'learned_soup'?"),
        (recipe_of(folder, device="cuda:99"), tmp_path / "out", "cuda:99"),
    ]
    for content, output, message in cases:
        code, _, error = command("merge", written(tmp_path / "recipe.yaml", content), output)
        assert code == 2 and message in error, (message, error)
    assert not (tmp_path / "out").exists()


def test_methods_are_listed_and_explained(command: RunCommand) -> None:
    code, out, _ = command("methods")
    assert code == 0 and "Learnt from each domain's audio:" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "(needs a base and audio)" in lines["adamerging"] and "(needs a base, audio and texts)" in lines["learned_soup"]
    code, out, _ = command("methods", "learned_coefficients")
    assert code == 0 and "2310.02575" in out and "Needs: a base, experts and audio of each one's domain, with texts." in out
    assert "per: model | layer | group, default layer" in out
