"""The benchmark of the statistics runs and prints a table of numbers."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from families import SECONDS, TEXTS
from test_collecting import write_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_statistics.py"


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_statistics", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_a_row_of_ratios_for_every_model(
    bench: ModuleType,
    make_ctc: Callable[..., Path],
    make_whisper: Callable[..., Path],
    speak: Callable[..., list],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = [str(make_ctc()), str(make_whisper())]
    manifest = write_manifest(speak([*SECONDS, 1.2], [*TEXTS, "a"]), tmp_path / "said.jsonl")
    options = [
        "--audio",
        str(manifest),
        "--work-dir",
        str(tmp_path / "work"),
        "--repeats",
        "3",
        "--json",
        str(tmp_path / "out.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["bench", *(part for model in models for part in ("--model", model)), *options])
    threads = torch.get_num_threads()
    bench.main()
    torch.set_num_threads(threads)
    about, _, *table = capsys.readouterr().out.splitlines()
    assert about.startswith("1 threads, batches of 60 s, sampled Fisher, medians of 3; torch")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert len({len(row) for row in rows}) == 1
    assert rows[0][4:9] == ["fisher", "grams", "factors", "activations", "fisher + grams"]
    assert [row[0] for row in rows[2:]] == models
    # Whisper's window is a second: the longest utterance is left out there.
    assert [row[2].split(",")[0] for row in rows[2:]] == ["5", "4"]
    measured = json.loads((tmp_path / "out.json").read_text())
    for row, one in zip(rows[2:], measured, strict=True):
        seconds = one["processor_seconds"]
        assert {len(repeats) for repeats in seconds.values()} == {3}
        for cell, name in zip(row[4:], rows[0][4:], strict=True):
            ratios = sorted(own / base for own, base in zip(seconds[name], seconds["forward"], strict=True))
            assert cell == f"{ratios[1]:.2f} ×"
    assert not list((tmp_path / "work").iterdir())  # what was collected is gone


def test_audio_that_no_model_can_hear_is_refused(
    bench: ModuleType,
    make_whisper: Callable[..., Path],
    speak: Callable[..., list],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = write_manifest(speak([1.2], ["a"]), tmp_path / "said.jsonl")
    options = ["--audio", str(manifest), "--work-dir", str(tmp_path / "work"), "--model", str(make_whisper())]
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    with pytest.raises(SystemExit, match="bench_statistics: none of the 1 utterances fits the window of"):
        bench.main()
