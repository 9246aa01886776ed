"""`asrmerge stats`, and searches and merges that use what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_recognizers import make_models, make_utterances
from transformers import AutoModelForCTC
from typer.testing import CliRunner

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.cli import app
from asrmerge.errors import AsrmergeError
from asrmerge.experts.finetune import TrainingAudio, finetune
from asrmerge.experts.settings import FinetuneSettings
from asrmerge.merging import Recipe
from asrmerge.merging.artefact import read_header
from asrmerge.merging.engine import merge_to_folder
from asrmerge.recognizers import load_recognizer
from asrmerge.search import CandidateEvaluator, search_coefficients
from asrmerge.search.candidate import scaled_sum
from asrmerge.speech.manifest import Utterance, write_manifest

DOMAINS = ("legal", "medical")
Stats = Callable[..., str]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("audio")
    found = {}
    for seed, name in enumerate(DOMAINS, start=1):
        found[name] = folder / f"{name}.jsonl"
        write_manifest(found[name], make_utterances(folder, name, [0.5, 0.9, 0.7, 0.6], seed))
    return found


@pytest.fixture(scope="module", params=["ctc", "whisper"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    return make_models(tmp_path_factory.mktemp("models"), request.param)


def stats(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["stats", *map(str, arguments)])
    if isinstance(result.exception, AsrmergeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def collected(models, corpora, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("statistics")
    named = [f"{name}={models[1][name]}" for name in DOMAINS]
    audio = [part for name in DOMAINS for part in ("--audio", f"{name}={corpora[name]}")]
    kinds = [part for kind in ("fisher", "grams", "factors", "activations") for part in ("--kind", kind)]
    out = stats(*named, *audio, *kinds, "-o", folder, "--device", "cpu")
    assert all(f"{folder / name / 'grams'}.safetensors  4 utterances" in out for name in DOMAINS)
    return folder


def test_artefacts_say_what_they_are_of(collected, models):
    for name in DOMAINS:
        for kind in ("fisher", "grams", "factors", "activations"):
            file = SafetensorsReader(collected / name / f"{kind}.safetensors")
            header = read_header(file)
            assert header is not None and header.kind == kind and header.utterances == 4 and header.units and not header.skipped
            assert header.model == str(models[1][name]) and len(header.model_sha256) == len(header.data_sha256) == 64
            assert all(bool(torch.isfinite(file.read(one)).all()) for one in file.names())


@pytest.mark.parametrize("method", ["fisher", "ugm", "regmean", "mats"])
def test_searches_evaluate_what_merges_write(method, collected, models, corpora, tmp_path):
    base, experts = models
    folders = {name: str(collected / name) for name in DOMAINS}
    validation = {name: make_utterances(tmp_path, name, [0.5, 0.6], 3) for name in DOMAINS}
    candidate = scaled_sum("one", {"legal": 0.9, "medical": 0.5}, method=method)
    assert candidate.point(method) == pytest.approx({"legal": 0.9, "medical": 0.5}, abs=1e-5)
    recipe = candidate.recipe(base=str(base), models={name: str(experts[name]) for name in DOMAINS}, statistics=folders)
    merge_to_folder(recipe, tmp_path / "merged")
    with CandidateEvaluator(base, experts, validation, statistics=folders) as evaluate:
        counts = evaluate(candidate)
    with CandidateEvaluator(base, {"merged": tmp_path / "merged"}, validation) as evaluate:
        assert counts == evaluate(scaled_sum("it", {"merged": 1.0}))


def test_a_search_tunes_shares_and_scale(collected, models, corpora, tmp_path):
    base, experts = models
    validation = {name: make_utterances(tmp_path, name, [0.5], 3) for name in DOMAINS}
    with CandidateEvaluator(base, experts, validation, statistics={name: collected / name for name in DOMAINS}) as evaluate:
        result = search_coefficients(
            evaluate, experts=list(DOMAINS), targets=list(DOMAINS), trials=14, curve=(0.5, 1.0),
            methods=("regmean",), storage=tmp_path / "journal.log",
        )  # fmt: skip
    searched = [trial.candidate for trial in result.trials if trial.candidate.kind == "search"]
    assert searched and all(one.method == "regmean" and one.point("regmean") is not None for one in searched)
    assert all(trial.error is None for trial in result.trials)


def test_every_model_can_hear_every_domain(models, corpora, tmp_path):
    audio = [part for name in DOMAINS for part in ("--audio", f"{name}={corpora[name]}")]
    stats(f"base={models[0]}", *audio, "--every-domain", "--kind", "activations", "-o", tmp_path)
    assert sorted(path.parent.name for path in tmp_path.glob("base/*/activations.safetensors")) == list(DOMAINS)


@pytest.mark.parametrize("method", ["fisher", "regmean", "mats"])
def test_what_no_model_has_changed_is_left_out_and_merges_are_the_same(method, corpora, tmp_path):
    base, experts = make_models(tmp_path, "whisper", frozen="model.encoder")
    named = [f"{name}={experts[name]}" for name in DOMAINS]
    audio = [part for name in DOMAINS for part in ("--audio", f"{name}={corpora[name]}")]
    kinds = [part for kind in ("fisher", "grams", "factors") for part in ("--kind", kind)]
    stats(*named, *audio, *kinds, "-o", tmp_path / "all")
    stats(*named, *audio, *kinds, "--base", base, "-o", tmp_path / "changed")
    whole, part = (SafetensorsReader(tmp_path / folder / "legal" / "grams.safetensors") for folder in ("all", "changed"))
    header = read_header(part)
    assert header is not None and "model.encoder.layers.0.fc1.weight" in header.unchanged
    # Kept although it is the encoder's last word: the decoder's attention to the encoder shares it.
    assert set(part.names()) < set(whole.names()) and any("encoder_attn.k_proj" in name for name in part.names())
    assert not any(name.startswith("model.encoder.") for name in part.names())
    merged = {}
    for folder in ("all", "changed"):
        recipe = scaled_sum("one", {"legal": 0.9, "medical": 0.5}, method=method).recipe(
            base=str(base),
            models={name: str(experts[name]) for name in DOMAINS},
            statistics={name: str(tmp_path / folder / name) for name in DOMAINS},
        )
        merge_to_folder(recipe, tmp_path / "merged" / folder)
        merged[folder] = load_file(tmp_path / "merged" / folder / "model.safetensors")
    for name, tensor in merged["all"].items():
        torch.testing.assert_close(merged["changed"][name], tensor, rtol=1e-5, atol=1e-6)
    mixed = recipe.model_copy(
        update={
            "experts": (recipe.experts[0], recipe.experts[1].model_copy(update={"statistics": str(tmp_path / "all" / "medical")}))
        }
    )
    with pytest.raises(AsrmergeError, match="were collected for different merges"):
        merge_to_folder(mixed, tmp_path / "mixed")


def test_what_is_there_is_not_made_again(models, corpora, tmp_path):
    arguments = [f"legal={models[1]['legal']}", "--audio", f"legal={corpora['legal']}", "-o", tmp_path]
    stats(*arguments, "--kind", "grams")
    path = tmp_path / "legal" / "grams.safetensors"
    before = path.read_bytes(), path.stat().st_mtime_ns
    stats(*arguments, "--kind", "grams", "--kind", "fisher")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before and (tmp_path / "legal" / "fisher.safetensors").is_file()
    stats(*arguments, "--kind", "grams", "--padding-every", "0")
    assert path.stat().st_mtime_ns != before[1]


def test_an_adapter_is_heard_over_its_base(tmp_path, corpora):
    base, _ = make_models(tmp_path, "ctc")
    model = get_peft_model(AutoModelForCTC.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "adapter")
    audio = ["--audio", f"legal={corpora['legal']}", "--kind", "grams", "--kind", "fisher"]
    stats(f"legal={base}+{tmp_path / 'adapter'}", *audio, "-o", tmp_path / "adapted")
    merged = load_recognizer(base)
    merged.model.load_state_dict(model.merge_and_unload().state_dict())
    merged.save(tmp_path / "full")
    stats(f"legal={tmp_path / 'full'}", *audio, "-o", tmp_path / "whole")
    for kind in ("grams", "fisher"):
        one, two = (load_file(tmp_path / folder / "legal" / f"{kind}.safetensors") for folder in ("adapted", "whole"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=2e-4, atol=1e-6)


def test_bad_input_is_named_before_work(models, corpora, tmp_path):
    expert, audio = models[1]["legal"], corpora["legal"]

    def refused(message: str, *arguments: object) -> None:
        with pytest.raises(AsrmergeError, match=message):
            stats(*arguments, "-o", tmp_path / "out")
        assert not list(tmp_path.glob("out/**/*.safetensors"))

    refused("the model legal has no audio: give --audio legal=CORPUS", f"legal={expert}", "--audio", f"medical={audio}")
    refused("the audio medical has no model", f"legal={expert}", "--audio", f"legal={audio}", "--audio", f"medical={audio}")
    refused("none.jsonl", f"legal={expert}", "--audio", "legal=none.jsonl")
    refused("none", f"legal={tmp_path / 'none'}", "--audio", f"legal={audio}")
    refused("kinds.*'hessian'|hessian", f"legal={expert}", "--audio", f"legal={audio}", "--kind", "hessian")
    refused("write NAME=VALUE", str(expert), "--audio", f"legal={audio}")
    torn = tmp_path / "torn.jsonl"
    torn.write_text(json.dumps({"audio_filepath": "gone.wav", "duration": 1.0, "text": "x"}) + "\n")
    refused("torn.jsonl", f"legal={expert}", "--audio", f"legal={torn}")


def test_only_long_audio_is_refused_by_name(tmp_path):
    base, _ = make_models(tmp_path, "whisper")
    utterances: list[Utterance] = [replace(one) for one in make_utterances(tmp_path, "long", [1.4, 1.6], 1)]
    write_manifest(tmp_path / "long.jsonl", utterances)
    with pytest.raises(AsrmergeError, match=r"None of the 2 utterances can be used.*longer than the model's window of 1 s"):
        stats(f"a={base}", "--audio", f"a={tmp_path / 'long.jsonl'}", "-o", tmp_path / "out")


def test_fisher_of_the_optimiser_is_compared_with_one_on_audio(corpora, tmp_path):
    base, _ = make_models(tmp_path, "ctc")
    utterances = make_utterances(tmp_path, "train", [0.6, 0.8, 0.7, 0.9], 5)
    settings = FinetuneSettings(steps=6, batch_seconds=2.0, learning_rate=1e-3, replay=0.0, evaluate_every=3)
    finetune(str(base), TrainingAudio(utterances, (), utterances), tmp_path / "expert", settings, seed=1)
    expert = tmp_path / "expert"
    out = stats(f"legal={expert}", "--audio", f"legal={corpora['legal']}", "--fisher", "adam", "-o", tmp_path / "out")
    header = read_header(SafetensorsReader(tmp_path / "out" / "legal" / "fisher.safetensors"))
    assert header is not None and header.variant == "adam" and "clipped" in header.note
    assert "legal: rank correlation with the Fisher on audio" in out and (tmp_path / "out" / "direct" / "legal").is_dir()
    recipe = {"method": "fisher", "base": str(base)}
    experts = [{"name": "legal", "model": str(expert), "statistics": str(tmp_path / "out" / "legal")}]
    merge_to_folder(Recipe.model_validate({**recipe, "experts": experts}), tmp_path / "merged")
    stats(f"legal={expert}", "--fisher", "adam", "-o", tmp_path / "again")  # without audio
    for message, arguments in {
        "leave other kinds": ["--fisher", "adam", "--kind", "grams"],
        "no model of that name": ["--fisher", "adam", "--optimizer", "other=x.pt"],
        "go with --fisher adam": ["--gradient-norm", "1"],
    }.items():
        with pytest.raises(AsrmergeError, match=message):
            stats(f"legal={expert}", *arguments, "-o", tmp_path / "refused")
