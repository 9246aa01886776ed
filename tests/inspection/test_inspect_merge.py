"""`asrmerge inspect --merged … --audio …`: the sentence, the table, the page, the JSON file; and what it refuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from listeners import Listeners, inline_statistics, make_listeners

from asrmerge import cli
from asrmerge.inspection.heatmap import render_heatmap
from asrmerge.inspection.result import Inspection
from asrmerge.pipeline import diagnostics
from asrmerge.speech.manifest import write_manifest

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def listeners(tmp_path_factory: pytest.TempPathFactory) -> Listeners:
    made = make_listeners(tmp_path_factory.mktemp("ctc"), "ctc")
    for name, utterances in made.audio.items():
        write_manifest(made.folder / f"{name}.jsonl", utterances)
    made.altered("halved", lambda name, value: value * 0.5)
    make_listeners(made.folder / "whisper", "whisper")
    return made


@pytest.fixture
def command(listeners: Listeners, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line, in this process and so that models are named by their folders; exit code, output, errors."""
    monkeypatch.setattr(diagnostics, "run_statistics", inline_statistics)
    monkeypatch.chdir(listeners.folder)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asrmerge", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


EXPERTS = ("legal=legal", "medical=medical")
AUDIO = ("--audio", "legal=legal.jsonl", "--audio", "medical=medical.jsonl")


def test_a_merge_that_collapses(command: Command, tmp_path: Path) -> None:
    html, json = tmp_path / "page.html", tmp_path / "figures.json"
    code, out, _ = command(
        *EXPERTS, "--base", "base", "--merged", "halved", *AUDIO, "--utterances", "3", "--device", "cpu", "--html", html,
        "--json", json,
    )  # fmt: skip
    assert code == 0
    found = Inspection.model_validate_json(json.read_text("utf-8"))
    diagnosis = found.diagnosis
    assert diagnosis is not None and diagnosis.utterances == {"legal": 3, "medical": 3}
    assert (diagnosis.merged, diagnosis.base, diagnosis.experts) == ("halved", "base", {"legal": "legal", "medical": "medical"})
    assert diagnosis.sentence.startswith("Activations collapse in all 3 layers")
    spoken = " ".join(out.split())
    assert "✗ merged: activations collapse in all 3 layers" in spoken
    for layer in diagnosis.layers:
        cells = next(line for line in out.splitlines() if line.startswith(layer.layer) and " = " in line).split()
        assert float(cells[1]) == pytest.approx(100 * layer.variance_ratio, rel=0.006)
        assert cells[2] == f"{layer.effective_rank:.1f}/{layer.expert_effective_rank:.1f}"
        assert [float(cell) for cell in cells[-2:]] == pytest.approx(
            [100 * layer.norm_ratio, 100 * layer.task_vector_ratio], rel=0.006
        )
    page = html.read_text("utf-8")
    assert page == render_heatmap(found)
    assert len(re.findall(r'<svg class="chart activations"', page)) == 2  # for screens and for phones
    assert "Inspection of a merge" in page and diagnosis.sentence.replace("'", "&#39;") in page


def test_one_domain_will_do_and_what_was_collected_can_be_kept(command: Command, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    arguments = (*EXPERTS, "--base", "base", "--merged", "medical", *AUDIO[:2], "--keep", keep)
    code, out, _ = command(*arguments)
    assert code == 0
    written = {str(path.relative_to(keep)): path.stat().st_mtime_ns for path in keep.rglob("*.safetensors")}
    assert written.keys() == {"experts/legal/activations.safetensors", "merges/merged/legal/activations.safetensors"}
    assert command(*arguments)[:2] == (0, out)
    assert {str(path.relative_to(keep)): path.stat().st_mtime_ns for path in keep.rglob("*.safetensors")} == written


def test_experts_that_cannot_be_merged_are_the_answer(command: Command) -> None:
    code, out, _ = command("legal=legal", "odd=whisper/base", "--merged", "medical", *AUDIO[:2])
    assert code == 2 and out.startswith("These models can't be merged") and "merged:" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--merged", "halved"), "--merged needs audio"),
        (AUDIO, "give the merge by --merged too"),
        (("--merged", "halved", "--audio", "odd=legal.jsonl"), "--audio odd: there is no expert of that name"),
        (("--merged", "whisper/base", *AUDIO), "merged (whisper/base)"),
        (("--merged", "nowhere", *AUDIO), "nowhere"),
        (("--merged", "halved", "--audio", "legal=nowhere.jsonl"), "nowhere.jsonl"),
        (("--merged", "halved", *AUDIO, "--utterances", "0"), "utterances"),
        (("--merged", "halved", *AUDIO, "--device", "abacus"), "abacus"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_any_work(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("asrmerge.inspection.inspecting.inspect_models", lambda *_: pytest.fail("work was begun"))
    code, out, error = command(*EXPERTS, "--base", "base", *arguments)
    assert (code, out) == (2, "") and error.startswith("asrmerge: ") and message in error
