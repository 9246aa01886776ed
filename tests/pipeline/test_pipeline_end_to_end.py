"""The whole pipeline through the command line: outputs, doing nothing twice, kills, workers, models from the hub."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pipeline_killed
import pytest
import yaml
from pipeline_project import DOMAINS, Project, asrmerge, environment, make_project

from asrmerge.evaluation.hypotheses import read_hypotheses
from asrmerge.evaluation.records import Scorecard
from asrmerge.merging.recipe import Recipe
from asrmerge.speech.manifest import read_manifest

SAME = ("merged/model.safetensors", "uniform/model.safetensors", "search/trials.json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("ctc"), "ctc")


@pytest.fixture(scope="module")
def finished(project: Project) -> tuple[Path, str]:
    """An uninterrupted run with one worker, and what it printed."""
    output = project.folder / "runs" / "whole"
    output.parent.mkdir()
    result = asrmerge("run", project.config(output, joint=True))
    assert result.returncode == 0, result.stderr
    return output, result.stdout


def times(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.is_file()}


def untimed(folder: Path) -> dict[str, Any]:
    """The scorecard without how long decoding took."""
    content: dict[str, Any] = json.loads((folder / "scorecard.json").read_text())
    for model in content["models"].values():
        for domain in model["domains"].values():
            assert domain.pop("rtfx") > 0
    return content


def journal(folder: Path) -> int:
    return (folder / "search" / "journal.log").read_bytes().count(b"\n")


def wait_for(process: subprocess.Popen[bytes], path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


def test_every_output_is_there_and_fits_the_others(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    scorecard = Scorecard.read(folder / "scorecard.json")
    models = {"base", *DOMAINS, "joint", "uniform", "merged"}
    assert set(scorecard.models) == models
    assert {domain for score in scorecard.models.values() for domain in score.domains} == {*DOMAINS, "general"}
    for model in models:
        for domain in (*DOMAINS, "general"):
            assert len(read_hypotheses(folder / "hypotheses" / model / f"{domain}.jsonl")) == 6
            assert scorecard.models[model].domains[domain].utterances == 6
    assert f"{100 * scorecard.models['merged'].macro_wer:.1f}"[:4] in printed and str(folder / "report.html") in printed
    report = (folder / "report.html").read_text()
    assert report.rstrip().endswith("</html>") and all(model in report for model in models)
    assert all((folder / "diagnostics" / f"{name}.json").is_file() for name in ("uniform", "merged"))
    assert "chart activations" in report
    assert yaml.safe_load((folder / "config.yaml").read_text())["domains"].keys() == set(DOMAINS)
    log = (folder / "log.txt").read_text()
    assert "seed 3" in log and "fine-tuning legal" in log and "Traceback" not in log
    assert sorted(path.name for path in (folder / "experts").iterdir()) == ["joint", *DOMAINS]
    assert not list(folder.rglob(".*")), "temporary files are left"


def test_the_joint_model_is_looked_at_as_often_as_an_expert(finished: tuple[Path, str]) -> None:
    """Its schedule has other steps: two in place of three, looked at after each in place of every second."""
    looks = {
        name: json.loads((finished[0] / "experts" / name / "training.json").read_text())["settings"]["evaluate_every"]
        for name in ("legal", "joint")
    }
    assert looks == {"legal": 2, "joint": 1}


def test_the_searchs_best_is_what_was_merged(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    trials = json.loads((folder / "search" / "trials.json").read_text())
    best = trials["trials"][trials["best"]]
    recipe = Recipe.read(folder / "merged" / "merge_recipe.yaml")
    assert (recipe.method, {expert.name: expert.weight for expert in recipe.experts}) == (best["method"], best["weights"])
    assert {"base", "uniform", "expert", "curve", "search"} == {trial["kind"] for trial in trials["trials"]}
    assert sum(trial["kind"] == "search" for trial in trials["trials"]) == 6
    assert trials["watched"] == ["general"] and trials["constraints"] == ["general.wer <= 1.5 * base"]
    uniform = Recipe.read(folder / "uniform" / "merge_recipe.yaml")
    assert {expert.weight for expert in uniform.experts} == {0.5}
    provenance = json.loads((folder / "merged" / "merge_provenance.json").read_text())
    assert len(provenance["base"]["sha256"]) == 64 and {one["name"] for one in provenance["experts"]} == set(DOMAINS)


def test_the_merged_model_and_the_experts_load_in_plain_transformers(finished: tuple[Path, str], tmp_path: Path) -> None:
    folders = [str(finished[0] / name) for name in ("merged", "uniform", "experts/legal", "experts/joint")]
    code = f"""
import sys
import numpy as np
from transformers import AutoModelForCTC, AutoProcessor
for folder in {folders!r}:
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForCTC.from_pretrained(folder)
    inputs = processor(np.random.default_rng(0).normal(0, 0.1, 8000), sampling_rate=16000, return_tensors="pt")
    assert len(processor.batch_decode(model(**inputs).logits.argmax(-1))) == 1
assert not any(name.startswith("asrmerge") for name in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_others_may_read_what_a_run_writes(finished: tuple[Path, str]) -> None:
    modes = {str(path.relative_to(finished[0])): path.stat().st_mode & 0o777 for path in finished[0].rglob("*")}
    assert {name: oct(mode) for name, mode in modes.items() if not mode & 0o044} == {}


def test_the_second_run_does_nothing_again(project: Project, finished: tuple[Path, str]) -> None:
    folder, printed = finished
    kept = ("experts", "search", "merged", "uniform", "hypotheses", "stages")
    before = {name: times(folder / name) for name in kept}
    contents = {name: (folder / name).read_bytes() for name in ("scorecard.json", "config.yaml")}
    began = os.times().children_user
    result = asrmerge("run", project.config(folder, joint=True))
    assert result.returncode == 0 and result.stdout == printed, result.stderr
    assert {name: times(folder / name) for name in kept} == before
    assert {name: (folder / name).read_bytes() for name in contents} == contents
    assert os.times().children_user - began < 15, "nothing but looking was to be done"


def test_a_run_may_race_its_candidates(project: Project, finished: tuple[Path, str], tmp_path: Path) -> None:
    """With the search's own defaults: its history in the report, and no λ curve, which nobody evaluated."""
    folder = project.folder / "runs" / "raced"
    shutil.copytree(finished[0], folder)
    search = {"methods": ["task_arithmetic", "ties"], "constraints": ["general.wer <= 1.5 * base"]}
    result = asrmerge("run", project.config(folder, joint=True, search=search))
    assert result.returncode == 0, result.stderr
    trials = json.loads((folder / "search" / "trials.json").read_text())
    assert trials["strategy"]["name"] == "auto" and trials["curve"] == [] and trials["watched"] == ["general"]
    assert trials["trials"][trials["best"]]["complete"]
    report = (folder / "report.html").read_text()
    assert "chart history" in report and "chart curve" not in report
    recipe = Recipe.read(folder / "merged" / "merge_recipe.yaml")
    assert recipe.method == trials["trials"][trials["best"]]["method"]


def test_a_run_merges_the_point_of_the_front_that_is_picked(project: Project, finished: tuple[Path, str]) -> None:
    folder = project.folder / "runs" / "front"
    shutil.copytree(finished[0], folder)
    search = {"methods": ["task_arithmetic"], "further_objectives": [{"kind": "weighted", "traffic": {"legal": 1}}]}
    search |= {"budget": {"candidates": 9}, "curve": [], "soup": False, "pick": "knee"}
    result = asrmerge("run", project.config(folder, joint=True, search=search))
    assert result.returncode == 0, result.stderr
    trials = json.loads((folder / "search" / "trials.json").read_text())
    assert trials["strategy"]["name"] == "nsga2" and len(trials["trials"]) == 9
    recipe, picked = Recipe.read(folder / "merged" / "merge_recipe.yaml"), trials["trials"][trials["picked"]]
    assert {one.name: one.weight for one in recipe.experts} == picked["weights"]
    report = (folder / "report.html").read_text()
    assert "chart front" in report and "knee" in report and (folder / "search" / "front.svg").is_file()
    journal = (folder / "search" / "journal.log").read_bytes()
    result = asrmerge("run", project.config(folder, joint=True, search=search | {"pick": "front-1"}))
    assert result.returncode == 0, result.stderr
    assert (folder / "search" / "journal.log").read_bytes() == journal  # nothing was searched again
    trials = json.loads((folder / "search" / "trials.json").read_text())
    assert trials["picked"] == trials["best"]


def test_more_trials_go_on_from_the_same_search_with_the_same_experts(project: Project, finished: tuple[Path, str]) -> None:
    folder = project.folder / "runs" / "further"
    shutil.copytree(finished[0], folder)
    before, lines = times(folder / "experts"), journal(folder)
    search = {"trials": 7, "curve": [0.5, 1.0], "constraints": ["general.wer <= 1.5 * base"]}
    result = asrmerge("run", project.config(folder, joint=True, search=search))
    assert result.returncode == 0, result.stderr
    assert times(folder / "experts") == before and journal(folder) == lines + 1
    first, further = (json.loads((one / "search" / "trials.json").read_text())["trials"] for one in (finished[0], folder))
    assert further[:-1] == first


def test_killed_twice_and_with_other_workers_a_run_ends_with_the_same_bytes(project: Project, finished: tuple[Path, str]) -> None:
    folder = project.folder / "runs" / "killed"
    arguments = ["run", str(project.config(folder, joint=True)), "--workers"]
    quiet = {"env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    first = subprocess.Popen([sys.executable, "-m", "asrmerge.cli", *arguments, "2"], **quiet)
    wait_for(first, folder / "experts")
    end = time.monotonic() + 60
    while not [path for path in (folder / "experts").iterdir() if not path.name.startswith(".")]:
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (folder / "search" / "trials.json").exists()

    second = subprocess.run([sys.executable, pipeline_killed.__file__, "5", *arguments, "1"], **quiet, check=False)
    assert second.returncode == -signal.SIGKILL
    assert not (folder / "search" / "trials.json").exists() and not (folder / "merged").exists()
    experts = times(folder / "experts")
    assert len({name.partition("/")[0] for name in experts if not name.startswith(".")}) == 3

    last = asrmerge(*arguments, "2")
    assert last.returncode == 0, last.stderr
    assert {name: one for name, one in times(folder / "experts").items() if name in experts} == experts
    assert journal(folder) == journal(finished[0]), "a finished trial was done again"
    for name in (*SAME, *(f"experts/{expert}/model.safetensors" for expert in (*DOMAINS, "joint"))):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name
    assert untimed(folder) == untimed(finished[0])
    for model in ("base", "merged"):
        for domain in (*DOMAINS, "general"):
            name = f"hypotheses/{model}/{domain}.jsonl"
            assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name


def hub_model(cache: Path, identifier: str, folder: Path) -> None:
    """``folder`` as the hub's client keeps it: blobs, and a snapshot of links to them."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    root = cache / f"models--{identifier.replace('/', '--')}"
    snapshot = root / "snapshots" / revision
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, root / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")


def test_whisper_with_base_and_expert_from_the_hubs_cache_and_one_from_a_folder(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path, "whisper")
    hub_model(tmp_path / "hub", "acme/whisper-base", project.base)
    hub_model(tmp_path / "hub", "acme/whisper-legal", project.experts["legal"])
    shutil.rmtree(project.base)
    shutil.rmtree(project.experts["legal"])
    output = tmp_path / "run"
    held = {name: {split: path for split, path in project.manifests(name).items() if split != "train"} for name in DOMAINS}
    domains = {
        "legal": {**held["legal"], "expert": "acme/whisper-legal"},
        "medical": {**held["medical"], "expert": str(project.experts["medical"])},
    }
    config = project.config(output, base="acme/whisper-base", domains=domains, general=None, search={"trials": 2, "curve": []})
    result = asrmerge("run", config, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert result.returncode == 0, result.stderr
    assert not (output / "experts").exists()
    recipe = Recipe.read(output / "merged" / "merge_recipe.yaml")
    assert Scorecard.read(output / "scorecard.json").models.keys() == {"base", *DOMAINS, "uniform", "merged"}
    assert "acme/whisper-base" in str(recipe.base) and (output / "merged" / "tokenizer_config.json").is_file()
    code = f"""
import sys
import numpy as np
from transformers import WhisperForConditionalGeneration, WhisperProcessor
folder = {str(output / "merged")!r}
processor, model = WhisperProcessor.from_pretrained(folder), WhisperForConditionalGeneration.from_pretrained(folder)
inputs = processor(np.zeros(16000, dtype=np.float32), sampling_rate=16000, return_tensors="pt")
model.generate(inputs.input_features, max_new_tokens=4)
assert not any(name.startswith("asrmerge") for name in sys.modules)
"""
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert plain.returncode == 0, plain.stderr


def test_the_manifests_of_the_project_are_what_the_tests_think(project: Project) -> None:
    assert all(len(read_manifest(path)) == 6 for name in (*DOMAINS, "general") for path in project.manifests(name).values())
