"""The commands `transcribe` and `export` from the outside: streams, exit codes, files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from asrmerge.commands.export import export
from asrmerge.commands.transcribe import transcribe
from asrmerge.content import resolve_model
from asrmerge.errors import AsrmergeError
from asrmerge.recognizers import load_recognizer
from asrmerge.speech.audio import read_audio, write_audio


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Three recordings, the second of them broken; what a model makes of the others does not matter."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for name, seconds in (("a", 7.3), ("c", 4.4)):
        time = np.arange(round(16_000 * seconds))
        write_audio(folder / f"{name}.wav", 0.3 * np.sin(time**1.2 / 9) * np.sin(time / 3000) ** 2)
    (folder / "b.wav").write_bytes(b"RIFF but not really")
    return folder


def run(*arguments: str | Path) -> int:
    app = typer.Typer()
    app.command()(transcribe)
    app.command()(export)
    return int(app(list(map(str, arguments)), standalone_mode=False) or 0)


@pytest.mark.parametrize("model", ["embedded:ctc", "embedded:whisper"])
def test_the_text_is_the_recognizers_and_failures_are_named(speech: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("transcribe", model, speech)
    out, error = capsys.readouterr()
    texts = load_recognizer(resolve_model(model)).transcribe([read_audio(speech / name) for name in ("a.wav", "c.wav")])
    first, second = (" ".join(text.split()) for text in texts)
    assert out == f"{first}\n\n{second}\n" and first and second
    assert code == 2 and "1 of 3 recordings could not be read" in error
    assert any("b.wav: the audio cannot be decoded" in line and "export it again" in line for line in error.splitlines())
    assert any(line.endswith("seconds of audio transcribed: 12 of 12") for line in error.splitlines())


@pytest.mark.parametrize("model", ["embedded:ctc", "embedded:whisper"])
def test_every_format_holds_the_same_text(speech: Path, model: str) -> None:
    (speech / "b.wav").unlink()
    for name in ("text", "trn", "jsonl", "srt"):
        assert run("transcribe", model, speech / "a.wav", speech / "c.wav", "--format", name, "-o", speech / name) == 0
    for recording in ("a", "c"):
        text = (speech / "text" / f"{recording}.txt").read_text().strip()
        assert (speech / "trn" / f"{recording}.trn").read_text() == f"{text} ({recording})\n"
        line = json.loads((speech / "jsonl" / f"{recording}.jsonl").read_text())
        assert line["pred_text"] == text and " ".join(segment["text"] for segment in line["segments"]) == text
        subtitles = (speech / "srt" / f"{recording}.srt").read_text()
        shown = re.sub(r"(?m)^\d+\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n", "", subtitles)
        assert "".join(shown.split()) == "".join(text.split())


def test_an_exported_whisper_transcribes(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed (asrmerge[export])")
    assert run("export", "embedded:whisper", speech / "exported", "--quantization", "float32") == 0
    capsys.readouterr()
    texts = []
    for model in ("embedded:whisper", str(speech / "exported")):
        assert run("transcribe", model, speech / "a.wav", "--threads", "1") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embedded:ctc", "a.wav", "--output", "x.pdf"], "no output format has this ending"),
        (["embedded:cct", "a.wav"], "no such embedded base"),
        (["embedded:ctc", "none.wav"], "there is no audio file"),
        (["embedded:ctc", "a.wav", "c.wav", "--format", "srt"], "srt holds one recording"),
    ],
)
def test_bad_arguments_are_found_without_loading_torch(speech: Path, arguments: list[str], message: str) -> None:
    code = (
        "import sys, typer\nfrom asrmerge.commands.transcribe import transcribe\nfrom asrmerge.errors import AsrmergeError\n"
        "app = typer.Typer()\napp.command()(transcribe)\n"
        "try:\n    app(sys.argv[1:], standalone_mode=False)\n"
        "except AsrmergeError as error:\n    print(error, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=speech, env=dict(os.environ))
    assert message in result.stdout and result.stdout.endswith("False\n"), result.stderr


def test_a_device_that_is_not_there_is_refused(speech: Path) -> None:
    with pytest.raises(AsrmergeError, match="There is no device 'gpu'; use auto, cpu"):
        run("transcribe", "embedded:ctc", speech / "a.wav", "--device", "gpu")
