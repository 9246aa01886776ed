"""`asrmerge search`: what is written, what a kill leaves, what is refused before any work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_recognizers import make_models, make_utterances

from asrmerge.merging.recipe import Recipe
from asrmerge.speech.manifest import write_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, experts legal and medical, and manifests of noises."""
    folder = tmp_path_factory.mktemp("models")
    make_models(folder, "ctc")
    for seed, name in enumerate(["legal", "medical", "general", "test"]):
        durations = [0.5 + 0.02 * index for index in range(10)]
        write_manifest(folder / f"{name}.jsonl", make_utterances(folder, name, durations, seed))
    return folder


def given(folder: Path, output: Path, *more: str) -> list[str]:
    found = ["search", "--base", str(folder / "base"), "--output", str(output), "--workers", "1", "--normalizer", "none"]
    for name in ("legal", "medical"):
        found += ["--expert", f"{name}={folder / name}", "--validation", f"{name}={folder / name}.jsonl"]
    return [*found, "--precision", "float32", "--device", "cpu", *more]


def test_it_needs_nothing_but_models_and_audio(command, folder, tmp_path):
    output = tmp_path / "out"
    code, out, err = command(*given(folder, output))
    assert code == 0, err
    trials = json.loads((output / "trials.json").read_text())
    assert trials["strategy"]["name"] == "auto" and trials["utterances_decoded"] <= 10 * 20
    assert {"task_arithmetic", "tsv_m", "iso_c"} == set(trials["space"])
    best = trials["trials"][trials["best"]]
    recipe = Recipe.read(output / "best.yaml")
    assert recipe.method == best["method"] and {one.name: one.weight for one in recipe.experts} == best["weights"]
    assert (output / "merged" / "model.safetensors").is_file()
    assert f"best: {best['label']}" in out and "against uniform average" in out and "seed 0" in out
    written = (output / "trials.json").read_bytes()
    hypotheses = next(output.glob("hypotheses-*.jsonl")).read_bytes()
    assert command(*given(folder, output))[0] == 0
    assert (output / "trials.json").read_bytes() == written
    assert next(output.glob("hypotheses-*.jsonl")).read_bytes() == hypotheses  # nothing was decoded again


def test_two_workers_find_the_same(command, folder, tmp_path):
    found = []
    for workers in ("1", "2"):
        output = tmp_path / workers
        arguments = [*given(folder, output, "--validation", f"general={folder / 'general.jsonl'}", "--utterances", "120")]
        arguments[arguments.index("--workers") + 1] = workers
        assert command(*arguments)[0] == 0
        found.append(((output / "trials.json").read_bytes(), load_file(output / "merged" / "model.safetensors")))
    assert found[0][0] == found[1][0] and json.loads(found[0][0])["watched"] == ["general"]
    assert all(value.equal(found[1][1][name]) for name, value in found[0][1].items())


@pytest.mark.parametrize("strategy", ["auto", "random"])
def test_a_killed_search_leaves_its_best_and_goes_on(strategy, folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ["--strategy", strategy, "--no-merge", *(["--candidates", "12"] if strategy == "random" else [])]

    def run(output: Path, **options) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-m", "asrmerge.cli", *given(folder, output, *more)]
        return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)

    process, end = run(killed), time.monotonic() + 120
    while not (killed / "best.yaml").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "trials.json").exists()
    Recipe.read(killed / "best.yaml").check()
    before = next(killed.glob("hypotheses-*.jsonl")).read_bytes()
    assert run(killed).wait() == 0 and run(whole).wait() == 0
    assert (killed / "trials.json").read_bytes() == (whole / "trials.json").read_bytes()
    after = next(killed.glob("hypotheses-*.jsonl")).read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    lines = [json.loads(line) for line in after.splitlines()]
    heard = [(line["merge"], line["domain"], name) for line in lines for name in line["texts"]]
    assert len(heard) == len(set(heard))  # nothing was decoded twice


def test_options_and_a_file_say_the_same(command, folder, tmp_path):
    config = tmp_path / "search.yaml"
    config.write_text("strategy: {name: tpe, startup: 3}\nmethods: {ties: {density: [0.3, 0.7]}}\nbudget: {candidates: 30}\n")
    output = tmp_path / "out"
    code, out, err = command(
        *given(folder, output, "--config", str(config), "--candidates", "7", "--objective", "worst", "--no-merge", "--seed", "4")
    )
    assert code == 0, err
    trials = json.loads((output / "trials.json").read_text())
    assert trials["strategy"] == {"name": "tpe", "startup": 3} and trials["objectives"][0]["kind"] == "worst"
    assert trials["space"]["ties"]["dimensions"]["density"] == [0.3, 0.7] and trials["seed"] == 4
    assert "seed 4" in out and not (output / "merged").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--constraint", "genral.wer <= 0.2"], "unknown domain 'genral'"),
        (["--method", "tise"], "did you mean 'ties'"),
        (["--method", "regmean", "--candidates", "9"], "needs the grams of each expert"),
        (["--strategy", "tpee"], "did you mean 'tpe'"),
        (["--objective", "best"], "'objective' is 'best'"),
        (["--terms", "general=medical"], "no validation audio of 'general'"),
        (["--validation", "x=datasets:a/b,split=test"], "tuned on a test set"),
        (["--test", "held=legal.jsonl"], "legal-"),
        (["--expert", "other=embedded:whisper"], "other"),
    ],
)
def test_bad_input_is_refused_before_any_work(more, message, command, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, err = command(*given(folder, tmp_path / "out", *more))
    assert code == 2 and message in " ".join(err.split()), err
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_the_storage_of_another_search_is_refused(command, folder, tmp_path):
    assert command(*given(folder, tmp_path / "out", "--strategy", "random", "--candidates", "6", "--no-merge"))[0] == 0
    code, _, err = command(
        *given(folder, tmp_path / "out", "--strategy", "random", "--candidates", "6", "--seed", "1", "--no-merge")
    )
    assert code == 2 and "other seed" in err and "give another folder" in err


def test_a_point_of_the_front_is_picked_by_name(command, folder, tmp_path):
    output, config = tmp_path / "out", tmp_path / "front.yaml"
    config.write_text(
        "strategy: nsga2\nmethods: [task_arithmetic]\nbudget: {candidates: 8}\n"
        "further_objectives:\n  - {kind: weighted, traffic: {legal: 1}}\n"
    )
    code, out, err = command(*given(folder, output, "--config", config))
    assert code == 0, err
    assert f"front         {output / 'front.svg'}" in out and "front-1: " in out
    decoded = [line for line in out.splitlines() if "the search decoded" in line]
    drawn = (output / "front.svg").read_text()
    assert "front-1" in drawn and "traffic-weighted WER, %" in drawn
    code, out, err = command(*given(folder, output, "--config", config, "--pick", "knee"))
    assert code == 0, err
    trials = json.loads((output / "trials.json").read_text())
    picked = trials["trials"][trials["picked"]]
    assert decoded[0] in out and f"{picked['label']}, picked" in out
    assert {one.name: one.weight for one in Recipe.read(output / "best.yaml").experts} == picked["weights"]
    for more, message in [
        (("--pick", "front-99"), "the front has no point 'front-99'"),
        (("--pick", "middle"), "pick"),
    ]:
        code, _, err = command(*given(folder, output, "--config", config, *more))
        assert code == 2 and message in err.replace("\n", " ")
    code, _, err = command(*given(folder, tmp_path / "other", "--pick", "knee"))
    assert code == 2 and "give 'further_objectives'" in err


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_outputs_and_losses_that_are_no_numbers_fail_alone(family, command, tmp_path):
    make_models(tmp_path, family)
    for seed, name in enumerate(["legal", "medical"]):
        write_manifest(tmp_path / f"{name}.jsonl", make_utterances(tmp_path, name, [0.5, 0.6, 0.7, 0.8], seed))
    weights = tmp_path / "medical" / "model.safetensors"
    huge = {name: value * 1e30 if "fc1.weight" in name or "intermediate_dense.weight" in name else value
            for name, value in load_file(weights).items()}  # fmt: skip
    save_file(huge, weights, {"format": "pt"})
    code, _, err = command(*given(tmp_path, tmp_path / "out", "--no-merge"))
    assert code == 0, err
    trials = json.loads((tmp_path / "out" / "trials.json").read_text())
    failed = {one["label"]: one["error"] for one in trials["trials"] if one["error"] is not None}
    assert {"expert medical", "uniform average"} <= set(failed) and "NaN" in failed["expert medical"]
    assert trials["trials"][trials["best"]]["label"] in ("base", "expert legal")
    code, _, err = command(
        "evaluate",
        f"medical={tmp_path / 'medical'}",
        "--set",
        f"legal={tmp_path / 'legal.jsonl'}",
        "--device",
        "cpu",
        "-o",
        tmp_path / "e",
    )
    assert code == 2 and "no number (NaN)" in err
