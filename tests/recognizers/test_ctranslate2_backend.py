"""Whisper by CTranslate2: our transcripts in float32, long-form decoding with its segments, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asrmerge.content import resolve_model
from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.recognizers import load_recognizer
from asrmerge.recognizers.ctranslate2_backend import is_ctranslate2, load_ctranslate2
from asrmerge.recognizers.exporting import export_whisper
from asrmerge.recognizers.transcriber import load_transcriber

Make = Callable[..., Path]
Noises = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed (asrmerge[export])")
    folder = tmp_path_factory.mktemp("export") / "whisper"
    export_whisper(resolve_model("embedded:whisper"), folder, quantization="float32")
    return folder


def test_the_embedded_whisper_says_the_same(exported: Path, noises: Noises) -> None:
    audio = noises(0.4, 3.1, 5.0, 1.7, 0.05, 12.3, 2.2)
    ours = load_recognizer(resolve_model("embedded:whisper"))
    theirs = load_transcriber(str(exported), device="cpu")
    texts = ours.transcribe(audio)
    assert theirs.transcribe(audio) == texts and len(set(texts)) > 4
    assert theirs.transcribe(audio[::-1], batch_seconds=1) == texts[::-1]
    assert (theirs.family, theirs.sampling_rate, theirs.transcribe([])) == ("whisper", 16_000, [])
    settings = theirs.decoding_settings()
    assert (settings.device, settings.precision, settings.generation["engine"]) == ("cpu", "float32", "ctranslate2")
    assert json.loads(json.dumps(settings.generation)) == settings.generation


@pytest.mark.parametrize("multilingual", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_timestamps_and_long_audio_are_decoded_alike(
    make_whisper: Make, noises: Noises, tmp_path: Path, multilingual: bool, seed: int
) -> None:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed (asrmerge[export])")
    checkpoint = make_whisper(seed=seed, timestamps=True, multilingual=multilingual)
    language = "german" if multilingual else None
    export_whisper(str(checkpoint), tmp_path / "exported", quantization="float32", language=language)
    ours = load_recognizer(checkpoint, language=language)
    theirs = load_ctranslate2(tmp_path / "exported")
    audio = noises(0.3, 1.0, 1.7, 4.2, seed=seed)
    assert theirs.transcribe(audio) == ours.transcribe(audio)
    for samples in audio:
        one, other = ours.long_form(samples), theirs.long_form(samples)
        assert other.text == one.text and [segment.text for segment in other.segments] == [part.text for part in one.segments]
        for side in ("start", "end"):
            times = [[getattr(segment, side) for segment in found.segments] for found in (one, other)]
            assert times[1] == pytest.approx(times[0], abs=1e-6)
    if multilingual:
        english = load_ctranslate2(tmp_path / "exported", language="en")
        assert english.decoding.prompt == load_recognizer(checkpoint, language="en").prompt
        with pytest.raises(ConfigError, match=r"exported has no language 'klingon'\."):
            load_ctranslate2(tmp_path / "exported", language="klingon")


def test_int8_is_smaller_and_still_transcribes(exported: Path, noises: Noises, tmp_path: Path) -> None:
    export_whisper(resolve_model("embedded:whisper"), tmp_path / "int8")
    sizes = [(folder / "model.bin").stat().st_size for folder in (tmp_path / "int8", exported)]
    assert sizes[0] < 0.5 * sizes[1]
    texts = load_ctranslate2(tmp_path / "int8").transcribe(noises(2.0, 4.0))
    assert all(texts) and load_ctranslate2(tmp_path / "int8").transcribe(noises(2.0, 4.0)) == texts


@pytest.mark.parametrize("first", ["torch", "ctranslate2"])
def test_the_openmp_runtimes_of_both_engines_live_in_one_process(exported: Path, first: str) -> None:
    code = (
        f"import sys, {first}, numpy, torch\n"
        "torch.set_num_threads(2)\n"
        "from asrmerge.recognizers.transcriber import load_transcriber\n"
        "audio = [numpy.sin(numpy.arange(32_000) ** 1.2 / 9).astype('float32')] * 3\n"
        "texts = [load_transcriber(folder, device='cpu').transcribe(audio) for folder in sys.argv[1:] * 2]\n"
        "sys.exit(any(one != texts[0] for one in texts))"
    )
    command = [sys.executable, "-c", code, resolve_model("embedded:whisper"), str(exported)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr


def test_without_the_extra_one_sentence_says_what_to_install(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    remedy = r"CTranslate2 is not installed; install it with: pip install 'asrmerge\[export\]'\.$"
    with pytest.raises(ConfigError, match=remedy):
        load_ctranslate2(exported)
    with pytest.raises(ConfigError, match=remedy):
        export_whisper(resolve_model("embedded:whisper"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "precious.txt").write_text("mine")
    for source, folder, options, message in (
        ("embedded:ctc", tmp_path / "out", {}, "is of the family ctc; only Whisper can be exported"),
        ("embedded:whisper", tmp_path / "out", {"quantization": "int3"}, "'int3' is not known; use one of: int8, int8_float32"),
        ("embedded:whisper", tmp_path / "notes", {}, "notes holds something other than an exported model and is not replaced"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=message):
            export_whisper(resolve_model(source), folder, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_folders_that_export_did_not_write_are_refused(exported: Path, tmp_path: Path) -> None:
    assert is_ctranslate2(exported) and not is_ctranslate2(resolve_model("embedded:whisper"))
    (tmp_path / "model.bin").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"is a CTranslate2 model without a usable asrmerge_decoding\.json; make it with"):
        load_transcriber(str(tmp_path), device="cpu")
    for file in exported.iterdir():
        if file.name != "model.bin":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"CTranslate2 cannot load .*; export the model again"):
        load_transcriber(str(tmp_path), device="cpu")
    with pytest.raises(ConfigError, match=r"CTranslate2 cannot run .* on cpu in float3: "):
        load_transcriber(str(exported), device="cpu", precision="float3")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_there_are_refused(exported: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        load_transcriber(str(exported), device=device)
