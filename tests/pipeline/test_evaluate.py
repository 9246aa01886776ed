"""`asrmerge evaluate` from the outside: models and transcripts, gates and exit codes, kills, leaks, bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jiwer
import pytest
from pipeline_project import Project, asrmerge, environment, make_project

from asrmerge import cli
from asrmerge.evaluation.hypotheses import read_hypotheses
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.outputs import write_trn
from asrmerge.evaluation.records import Scorecard
from asrmerge.pipeline import evaluating
from asrmerge.pipeline.workers import Task
from asrmerge.speech.manifest import read_manifest, write_manifest

SETS = ("legal", "medical", "general")


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


Evaluate = Callable[..., Result]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """The command in this process: a new one takes seconds to load its libraries. Spawned workers are left to the first test."""

    def here(tasks: Sequence[Task], workers: int, view: object, threads: int = 1) -> list[Any]:
        return [task.function(lambda done, total: None, **task.arguments) for task in tasks]

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(evaluating, "run_tasks", here)
        monkeypatch.setattr(sys, "argv", ["asrmerge", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("ctc"), "ctc")


@pytest.fixture(scope="module")
def models(project: Project) -> list[str]:
    return [f"base={project.base}", f"legal={project.experts['legal']}", f"merged={project.experts['medical']}"]


def sets(project: Project, *names: str) -> list[str]:
    return [text for name in names or SETS for text in ("--set", f"{name}={project.manifests(name)['test']}")]


@pytest.fixture(scope="module")
def finished(project: Project, models: list[str]) -> tuple[Path, str]:
    """Three models on three sets, and what was printed."""
    output = project.folder / "evaluation"
    command = ["evaluate", *models, *sets(project), "--general", "general", "--slice", "duration", "--samples", "200"]
    result = asrmerge(*command, "--gate", "legal.wer <= 50", "--gate", "general.failed <= 0", "-o", output)
    assert result.returncode == 0, result.stderr
    return output, result.stdout


def test_every_figure_is_there_and_jiwer_agrees(project: Project, finished: tuple[Path, str]) -> None:
    folder, printed = finished
    scorecard = Scorecard.read(folder / "scorecard.json")
    assert set(scorecard.models) == {"base", "legal", "merged"} and scorecard.targets == ("legal", "medical")
    assert (scorecard.base, scorecard.general, scorecard.experts) == ("base", "general", {"legal": "legal"})
    assert {(one.model, one.reference) for one in scorecard.comparisons} == {("merged", "base"), ("merged", "legal")}
    normalize = normalizer("whisper")
    for model, score in scorecard.models.items():
        for name in SETS:
            rows = read_hypotheses(folder / "hypotheses" / model / f"{name}.jsonl")
            counted = jiwer.process_words([normalize(row.text) for row in rows], [normalize(row.prediction) for row in rows])
            found = score.domains[name]
            assert found.wer == pytest.approx(counted.wer)
            assert (found.substitutions, found.deletions, found.insertions) == (
                counted.substitutions, counted.deletions, counted.insertions,
            )  # fmt: skip
            assert found.rtfx and found.rtfx > 0 and "under 5 s" in found.slices["duration"]
        assert score.domains["general"].retention is not None and f"{100 * score.macro_wer:.1f}" in printed
    assert "passed: legal.wer <= 50" in printed and str(folder / "report.html") in printed
    for name in ("report.html", "tables.md", "tables.tex", "figures.csv", "model_card.md", "suite.yaml", "log.txt"):
        assert (folder / name).stat().st_size > 0, name
    assert not (folder / "failed.jsonl").exists() and not list(folder.rglob(".features"))


def test_the_same_command_transcribes_nothing_again_and_the_suite_is_one_too(
    evaluate: Evaluate, project: Project, models: list[str], finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(finished[0], folder)
    files = sorted((folder / "hypotheses").rglob("*.jsonl"))
    before = [file.stat().st_mtime_ns for file in files]
    suite = shutil.copy(folder / "suite.yaml", tmp_path / "suite.yaml")
    result = evaluate(*models, "--suite", suite, "-o", folder)
    assert result.returncode == 0, result.stderr
    assert [file.stat().st_mtime_ns for file in files] == before
    assert (folder / "scorecard.json").read_bytes() == (finished[0] / "scorecard.json").read_bytes()


def test_transcripts_of_other_systems_need_no_audio(
    evaluate: Evaluate, project: Project, finished: tuple[Path, str], tmp_path: Path
) -> None:
    """The merged model's transcripts, as sclite's files beside its references: the same figures."""
    normalize = normalizer("whisper")
    for name in ("legal", "medical"):
        rows = read_hypotheses(finished[0] / "hypotheses" / "merged" / f"{name}.jsonl")
        write_trn(tmp_path / f"{name}-ref.trn", [(row.identifier, normalize(row.text)) for row in rows])
        write_trn(tmp_path / f"{name}.trn", [(row.identifier, normalize(row.prediction)) for row in rows])
    references = [t for name in ("legal", "medical") for t in ("--set", f"{name}={tmp_path / f'{name}-ref.trn'}")]
    ours = f"ours={finished[0] / 'hypotheses' / 'merged'}"
    result = evaluate(f"theirs={tmp_path}/{{set}}.trn", *references, "-o", tmp_path / "out", "--normalizer", "none")
    assert result.returncode == 0, result.stderr
    theirs = Scorecard.read(tmp_path / "out" / "scorecard.json").models["theirs"]
    merged = Scorecard.read(finished[0] / "scorecard.json").models["merged"]
    assert {name: theirs.domains[name].wer for name in ("legal", "medical")} == {
        name: merged.domains[name].wer for name in ("legal", "medical")
    }
    manifests = sets(project, "legal", "medical")
    again = evaluate(ours, f"theirs={tmp_path}/{{set}}.trn", *manifests, "-o", tmp_path / "both")
    assert again.returncode == 0, again.stderr
    both = Scorecard.read(tmp_path / "both" / "scorecard.json")
    assert {one.difference for one in both.comparisons} == {0.0} and both.models["ours"].macro_wer == merged.macro_wer


def test_a_failed_gate_ends_with_1_and_is_named(
    evaluate: Evaluate, project: Project, models: list[str], finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "gated"
    shutil.copytree(finished[0], folder)
    gates = ["legal.wer <= 0.001", "general.wer <= 1000 * base", "macro.wer < legal, p < 0.0000001"]
    options = [text for gate in gates for text in ("--gate", gate)]
    result = evaluate(*models, *sets(project), "--general", "general", *options, "-o", folder)
    assert result.returncode == 1, result.stderr
    assert "FAILED: legal.wer <= 0.001 (merged: " in result.stdout and "passed: general.wer <= 1000 * base" in result.stdout
    content = json.loads((folder / "gates.json").read_text())
    assert content["passed"] is False and [gate["passed"] for gate in content["gates"]] == [False, True, False]
    cases = ElementTree.parse(folder / "junit.xml").getroot().findall(".//testcase")
    assert [case.get("name") for case in cases if case.find("failure") is not None] == [gates[0], gates[2]]
    assert "FAILED" in (folder / "report.html").read_text()


def test_audio_that_cannot_be_read_is_listed_and_left_out_for_all(evaluate: Evaluate, project: Project, tmp_path: Path) -> None:
    utterances = read_manifest(project.manifests("legal")["test"])
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF, but not really")
    write_manifest(tmp_path / "legal.jsonl", utterances)
    lines = (tmp_path / "legal.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), "audio_filepath": str(broken)}
    (tmp_path / "legal.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    out = tmp_path / "out"
    arguments = [f"base={project.base}", f"legal={project.experts['legal']}", "--set", f"legal={tmp_path / 'legal.jsonl'}"]
    result = evaluate(*arguments, "-o", out)
    assert result.returncode == 0, result.stderr
    assert "'legal-test-0' has no transcript" in result.stderr and "2 transcripts are missing" in result.stderr
    score = Scorecard.read(out / "scorecard.json").models["base"].domains["legal"]
    assert (score.utterances, score.failed) == (5, 1)
    rows = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert [(row["model"], row["set"], row["id"]) for row in rows] == [
        ("base", "legal", "legal-test-0"),
        ("legal", "legal", "legal-test-0"),
    ]
    assert "broken.wav" in rows[0]["error"]


def test_killed_in_the_middle_it_goes_on_at_the_utterance(evaluate: Evaluate, project: Project, tmp_path: Path) -> None:
    """Chunks of one utterance, killed when some are done: only the others are decoded by the next call."""
    out = tmp_path / "out"
    code = """
import sys, time
import asrmerge.evaluation.transcription as transcription
from asrmerge.pipeline import evaluating
whole, slow = transcription.transcribe_manifest, float(sys.argv.pop(1))
class Slow:
    def __init__(self, recognizer):
        self.recognizer, self.sampling_rate = recognizer, recognizer.sampling_rate
        self.decoding_settings = recognizer.decoding_settings
    def transcribe(self, audio, *, batch_seconds):
        print("decoded", len(audio), flush=True)
        time.sleep(slow)
        return self.recognizer.transcribe(audio, batch_seconds=batch_seconds)
def one_by_one(recognizer, *arguments, **options):
    return whole(Slow(recognizer), *arguments, chunk=1, **options)
transcription.transcribe_manifest = one_by_one
def run_here(tasks, workers, view, threads=1):
    return [task.function(lambda done, total: None, **task.arguments) for task in tasks]
evaluating.run_tasks = run_here
from asrmerge.cli import main
main()
"""
    arguments = ["evaluate", f"base={project.base}", *sets(project, "legal"), "-o", str(out)]
    quiet = {"env": environment(), "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, "0.5", *arguments], stdout=subprocess.PIPE, **quiet)
    partial = out / "hypotheses" / "base" / "legal.jsonl.partial"
    end = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = partial.read_bytes().count(b"\n")
    assert not (out / "scorecard.json").exists()
    last = subprocess.run([sys.executable, "-c", code, "0", *arguments], stdout=subprocess.PIPE, check=True, **quiet)
    assert last.stdout.count("decoded 1") == 6 - done
    plain = evaluate(f"base={project.base}", *sets(project, "legal"), "-o", tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    name = "hypotheses/base/legal.jsonl"
    texts = [[row.prediction for row in read_hypotheses(folder / name)] for folder in (out, tmp_path / "plain")]
    assert texts[0] == texts[1]


def test_test_audio_that_was_learnt_is_refused(evaluate: Evaluate, project: Project, tmp_path: Path) -> None:
    trained = project.manifests("legal")["train"]
    common = [f"base={project.base}", "--learnt", trained, "-o", tmp_path / "out"]
    refused = evaluate(*common, "--set", f"legal={trained}")
    assert refused.returncode == 2 and "has the same audio as training utterance" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert evaluate(*common, *sets(project, "legal")).returncode == 0


def test_a_run_tells_what_its_models_have_learnt(project: Project, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(project.experts["legal"], run / "merged")
    write_manifest(run / "learnt.jsonl", read_manifest(project.manifests("legal")["validation"]))
    refused = asrmerge(
        "evaluate",
        f"merged={run / 'merged'}",
        "--set",
        f"legal={project.manifests('legal')['validation']}",
        "-o",
        tmp_path / "out",
    )
    assert refused.returncode == 2 and "has the same audio as training utterance" in refused.stderr


def no_set(project: Project, folder: Path) -> list[str]:
    return [f"base={project.base}"]


def unknown_gate(project: Project, folder: Path) -> list[str]:
    return [f"base={project.base}", *sets(project, "legal"), "--gate", "legel.wer <= 0.1"]


def unknown_figure(project: Project, folder: Path) -> list[str]:
    return [f"base={project.base}", *sets(project, "legal"), "--gate", "legal.were <= 0.1"]


def no_model(project: Project, folder: Path) -> list[str]:
    return [f"base={folder / 'nothing'}", *sets(project, "legal")]


def unnamed_model(project: Project, folder: Path) -> list[str]:
    return [str(project.base), *sets(project, "legal")]


def unknown_candidate(project: Project, folder: Path) -> list[str]:
    return [f"base={project.base}", *sets(project, "legal"), "--candidate", "best"]


def transcripts_of_one_set_for_two(project: Project, folder: Path) -> list[str]:
    (folder / "hyp.trn").write_text("a (legal-test-0)\n")
    return [f"x={folder / 'hyp.trn'}", *sets(project, "legal", "medical")]


def transcripts_that_miss_some(project: Project, folder: Path) -> list[str]:
    (folder / "hyp.trn").write_text("a (legal-test-0)\n")
    return [f"x={folder / 'hyp.trn'}", *sets(project, "legal")]


def references_without_audio(project: Project, folder: Path) -> list[str]:
    (folder / "ref.trn").write_text("a (u1)\n")
    return [f"base={project.base}", "--set", f"legal={folder / 'ref.trn'}"]


def an_output_that_is_something_else(project: Project, folder: Path) -> list[str]:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("precious")
    return [f"base={project.base}", *sets(project, "legal")]


def terms_that_leave_nothing(project: Project, folder: Path) -> list[str]:
    (folder / "terms.txt").write_text("uh\n")
    return [f"base={project.base}", *sets(project, "legal"), "--terms", f"legal={folder / 'terms.txt'}"]


def a_slice_that_no_utterance_has(project: Project, folder: Path) -> list[str]:
    return [f"base={project.base}", *sets(project, "legal"), "--slice", "accent"]


def ids_that_repeat(project: Project, folder: Path) -> list[str]:
    text = Path(project.manifests("legal")["test"]).read_text()
    (folder / "twice.jsonl").write_text((text.splitlines()[0] + "\n") * 2)
    return [f"base={project.base}", "--set", f"legal={folder / 'twice.jsonl'}"]


def text_that_is_not_utf_8(project: Project, folder: Path) -> list[str]:
    (folder / "latin.jsonl").write_bytes('{"audio_filepath": "a.wav", "text": "café"}\n'.encode("latin-1"))
    return [f"base={project.base}", "--set", f"legal={folder / 'latin.jsonl'}"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (no_set, "there is no test set: give some as --set NAME=PLACE, or a suite"),
        (unknown_gate, "the gate 'legel.wer <= 0.1' names the unknown set 'legel'; did you mean 'legal'"),
        (unknown_figure, "names the unknown figure 'were'"),
        (no_model, "nothing does not exist"),
        (unnamed_model, "write each model as NAME=SOURCE"),
        (unknown_candidate, "there is no model 'best'"),
        (transcripts_of_one_set_for_two, "there are 2 sets (legal, medical): give a file for each, with {set} in the path"),
        (transcripts_that_miss_some, "5 of 6 utterances have no transcript, such as 'legal-test-1'"),
        (references_without_audio, "there is no audio"),
        (an_output_that_is_something_else, "holds something other than an evaluation: give another folder"),
        (terms_that_leave_nothing, "the text normaliser leaves nothing of the term 'uh'"),
        (a_slice_that_no_utterance_has, "No utterance has a 'accent' to slice by"),
        (ids_that_repeat, "twice.jsonl, line 2: the id 'legal-test-0' is already that of line 1"),
        (text_that_is_not_utf_8, "latin.jsonl, line 1: the text is not UTF-8"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_input_is_refused_in_a_sentence(
    evaluate: Evaluate, project: Project, tmp_path: Path, case: Callable[[Project, Path], list[str]], message: str
) -> None:
    arguments = case(project, tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    result = evaluate(*arguments, "-o", tmp_path / "out")
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("asrmerge: ") and message in last, result.stderr
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before, "the output was touched"
