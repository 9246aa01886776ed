"""A run's merges beside their experts: written, not made twice, and left out with a reason where they cannot be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pipeline_project import DOMAINS, Project, make_project
from safetensors.torch import load_file, save_file

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.config import read_config
from asrmerge.errors import ConfigError
from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.pipeline import diagnostics
from asrmerge.pipeline.data import DomainData
from asrmerge.pipeline.diagnostics import diagnose_run
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.statistics import StatisticsJob, statistics_task
from asrmerge.progress import ProgressView
from asrmerge.speech.manifest import read_manifest

MERGES = ("uniform", "merged")


@dataclass
class Run:
    """Its merges are the base and an expert; ``heard`` are the models whose activations were collected, in their order."""

    folder: Path
    models: dict[str, str]
    diagnose: Callable[[], dict[str, Diagnosis]]
    heard: list[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("ctc"), "ctc")


@pytest.fixture
def run(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    config = read_config(project.config(tmp_path / "run"), {})
    data = {name: DomainData(name, (), tuple(read_manifest(project.manifests(name)["validation"])), ()) for name in DOMAINS}
    models = {"base": project.base, **project.experts, "uniform": project.base, "merged": project.experts["legal"]}
    folder, heard = tmp_path / "run", list[str]()

    def inline(jobs: Sequence[StatisticsJob], **_: object) -> None:
        for job in jobs:
            heard.append(job.name)
            statistics_task(lambda done, total: None, job)

    def diagnose() -> dict[str, Diagnosis]:
        hashes = {name: Checkpoint.open(source).hash() for name, source in made.models.items()}
        stages = StageStore(folder / "stages")
        return diagnose_run(config, data, made.models, MERGES, hashes, folder / "diagnostics", stages, ProgressView())

    monkeypatch.setattr(diagnostics, "run_statistics", inline)
    made = Run(folder, {name: str(source) for name, source in models.items()}, diagnose, heard)
    return made


def write_nan(source: str, folder: Path) -> str:
    """A copy of a model with NaN in its head."""
    folder.mkdir()
    for file in Path(source).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.bias"] = torch.full_like(tensors["lm_head.bias"], torch.nan)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_each_merge_is_diagnosed_and_written(run: Run) -> None:
    found = run.diagnose()
    assert tuple(found) == MERGES
    for name, diagnosis in found.items():
        assert Diagnosis.model_validate_json((run.folder / "diagnostics" / f"{name}.json").read_text("utf-8")) == diagnosis
        assert diagnosis.merged == run.models[name] and tuple(diagnosis.experts) == DOMAINS
        assert diagnosis.utterances == dict.fromkeys(DOMAINS, 6)
    assert found["uniform"].overall.task_vector == 0 and (found["merged"].overall.task_vector or 0) > 0
    legal = found["merged"].layers[0].domains["legal"]
    assert legal.variance == legal.expert_variance  # the expert itself, on its own domain


def test_nothing_is_done_twice_and_only_what_changed_again(run: Run) -> None:
    found = run.diagnose()
    assert run.heard == [*MERGES, *DOMAINS]
    assert run.diagnose() == found and len(run.heard) == 4
    uniform = run.folder / "diagnostics" / "uniform.json"
    before = uniform.stat().st_mtime_ns
    run.models["merged"] = run.models["medical"]
    again = run.diagnose()
    assert run.heard[4:] == ["merged", *DOMAINS] and uniform.stat().st_mtime_ns == before
    assert again["uniform"] == found["uniform"] and again["merged"] != found["merged"]
    (run.folder / "diagnostics" / "merged.json").unlink()
    assert run.diagnose() == again


def test_a_family_that_shows_nothing_is_left_out_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asrmerge.statistics.subject.load_recognizer", lambda *_, **__: SimpleNamespace(family="odd"))
    with caplog.at_level(logging.WARNING, "asrmerge"):
        assert run.diagnose() == {}
    assert (
        "the merges are not diagnosed" in caplog.text and "of the family odd, which does not show its likelihoods" in caplog.text
    )
    assert not list(run.folder.glob("diagnostics/*.json")) and not list(run.folder.glob("stages/diagnostics*"))


def test_a_merge_that_is_broken_does_not_stop_the_run_and_what_was_known_stays(
    run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    found = run.diagnose()
    run.models["merged"] = write_nan(run.models["merged"], tmp_path / "broken")
    with caplog.at_level(logging.WARNING, "asrmerge"):
        assert run.diagnose() == {"uniform": found["uniform"]}
    assert "gives NaN or Inf" in caplog.text


def test_audio_without_an_expert_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="the audio odd has no expert of that name"):
        diagnostics.diagnose_merges(
            {"merged": run.models["merged"]}, {"legal": run.models["legal"]}, None, {"odd": ()}, run.folder,
            diagnostics.StatisticsSettings(), workers=1, view=ProgressView(),
        )  # fmt: skip
