"""Bad input through the command line: one sentence with place and remedy, exit code 2, an earlier run left as it was."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline_project import DOMAINS, Project, make_project
from tiny_recognizers import make_models

from asrmerge import cli


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("original"), "ctc")


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    """A copy of the project, to spoil, with the folder of an earlier run."""
    folder = tmp_path / "project"
    shutil.copytree(original.folder, folder)
    for manifest in folder.glob("*.jsonl"):
        manifest.write_text(manifest.read_text().replace(str(original.folder), str(folder)))
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    for name in ("config.yaml", "log.txt", "scorecard.json", "stages/leakage.json"):
        (run / name).write_text("an earlier run's")
    return Project(folder, folder / "base", {name: folder / name for name in original.experts})


@pytest.fixture
def refused(project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The sentence with which a run of the project is refused; asserts that nothing else happened."""

    def contents(folder: Path) -> dict[Path, tuple[bytes | None, int]]:
        return {path: (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns) for path in folder.rglob("*")}

    def refuse(**changes: Any) -> str:
        run = project.folder.parent / "run"
        config = project.config(run, **changes)
        before = contents(run)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr(sys, "argv", ["asrmerge", "run", str(config)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as raised:
            cli.main()
        captured = capfd.readouterr()
        assert raised.value.code == 2 and captured.out == ""
        assert captured.err.startswith("asrmerge: ") and captured.err.count("\n") == 1, captured.err
        assert contents(run) == before and not (project.folder / "cache").exists()
        return captured.err

    return refuse


def edit(manifest: str, line: int, **changes: Any) -> None:
    lines = [json.loads(text) for text in Path(manifest).read_text().splitlines()]
    lines[line] = {**lines[line], **changes}
    Path(manifest).write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_an_expert_of_another_architecture(project: Project, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "whisper").mkdir()
    _, experts = make_models(tmp_path / "whisper", "whisper")
    domains = {name: project.manifests(name) for name in DOMAINS}
    domains["legal"]["expert"] = str(experts["legal"])
    message = refused(domains=domains)
    assert all(part in message for part in (str(experts["legal"]), "model_type wav2vec2", "whisper", "fine-tunes of one base"))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_audio_file(project: Project, refused: Callable[..., str], split: str) -> None:
    manifest = project.manifests("medical")[split]
    edit(manifest, 3, audio_filepath="gone.wav")
    message = refused()
    assert f"{manifest}, line 4" in message and "gone.wav; correct the path" in message


def test_an_empty_transcript(project: Project, refused: Callable[..., str]) -> None:
    manifest = project.manifests("general")["train"]
    edit(manifest, 5, text="  ")
    message = refused()
    assert f"{manifest}, line 6: 'text' is empty; write what is said" in message


def test_a_missing_manifest(project: Project, refused: Callable[..., str]) -> None:
    Path(project.manifests("legal")["test"]).unlink()
    assert f"{project.manifests('legal')['test']}: there is no such file" in refused()


def test_audio_that_cannot_be_decoded(project: Project, refused: Callable[..., str]) -> None:
    audio = project.folder / "audio" / "legal-test" / "2.wav"
    audio.write_bytes(b"no sound")
    message = refused()
    assert f"{audio}: the audio cannot be decoded" in message and "export it again" in message


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"bas": "x"}, ["unknown key 'bas'", "did you mean 'base'"]),
        ({"finetune": {"step": 3}}, ["unknown key 'finetune.step'", "did you mean 'steps'"]),
        ({"search": {"trials": "many"}}, ["'search.trials' is 'many'"]),
        ({"search": {"constraints": ["generl.wer <= 1.05 * base"]}}, ["unknown domain 'generl'", "did you mean 'general'"]),
        ({"search": {"constraints": ["general under 5"]}}, ["'general under 5' cannot be read: write it as"]),
        ({"evaluation": {"normalizer": "wisper"}}, ["wisper"]),
    ],
)
def test_a_wrong_configuration(project: Project, refused: Callable[..., str], changes: dict[str, Any], parts: list[str]) -> None:
    message = refused(**changes)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("base", "parts"),
    [
        ("/no/such/folder", ["/no/such/folder does not exist", "give the folder of a checkpoint, or a hub id"]),
        ("embedded:conformer", ["'embedded:conformer': no such embedded base; there are embedded:ctc"]),
        ("acme/nothing", ["acme/nothing is no local folder", "correct the path or the id"]),
    ],
)
def test_an_unknown_base(project: Project, refused: Callable[..., str], base: str, parts: list[str]) -> None:
    message = refused(base=base)
    assert all(part in message for part in parts), message


def test_a_base_of_a_family_that_is_not_served(project: Project, refused: Callable[..., str]) -> None:
    config = project.base / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "bert"}))
    message = refused()
    assert str(project.base) in message and "model_type 'bert'; supported are: " in message


def test_a_base_without_weights(project: Project, refused: Callable[..., str]) -> None:
    (project.base / "model.safetensors").unlink()
    assert f"{project.base} has no weights" in refused()


@pytest.mark.parametrize("learnt", ["train", "validation"])
def test_test_audio_that_is_also_learnt_from(project: Project, refused: Callable[..., str], learnt: str) -> None:
    """Under another name, and in another domain."""
    source, target = (project.folder / "audio" / name for name in (f"legal-{learnt}/1.wav", "medical-test/1.wav"))
    shutil.copyfile(source, target)
    message = refused()
    assert str(source) in message and str(target) in message and "take it out of one of the two manifests" in message


def test_a_domain_that_does_not_exist(project: Project, refused: Callable[..., str]) -> None:
    message = refused(general={"synthesize": {"domain": "cooking"}})
    assert "domain 'cooking': neither a folder" in message and "conversation, general" in message


def test_an_output_that_is_a_file(project: Project, refused: Callable[..., str]) -> None:
    occupied = project.folder / "notes.txt"
    occupied.write_text("mine")
    assert f"The output {occupied} is a file: give the folder" in refused(output=str(occupied))
    assert occupied.read_text() == "mine"
