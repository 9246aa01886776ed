"""Transcription of a set: it goes on after being killed anywhere, reports what it could not read, and takes the time."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrmerge.errors import AsrmergeError, ManifestError
from asrmerge.evaluation.decoding import DecodingRecord, record_path
from asrmerge.evaluation.hypotheses import Hypothesis, read_hypotheses, write_hypotheses
from asrmerge.evaluation.transcription import is_silent, transcribe_manifest
from asrmerge.recognizers.recognizer import DecodingSettings
from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance

CHUNK = 3
RATE = 16_000


class Fake:
    """Hears the length of every recording, and of its chunk: decoding in other company would show."""

    sampling_rate = RATE

    def __init__(self, killed_at_call: int | None = None) -> None:
        self.calls: list[int] = []
        self.killed_at_call = killed_at_call

    def transcribe(self, audio: Sequence[np.ndarray], *, batch_seconds: float) -> list[str]:
        if len(self.calls) == self.killed_at_call:
            raise KeyboardInterrupt
        self.calls.append(len(audio))
        return [f"é{len(samples)} von\n{sum(map(len, audio))}" for samples in audio]

    def decoding_settings(self) -> DecodingSettings:
        return DecodingSettings("fake", "cpu", "float32", "float32", {"beams": 1})


def transcribe(fake: Fake, utterances: Sequence[Utterance], path: Path, **options: object) -> tuple[Hypothesis, ...]:
    return transcribe_manifest(fake, utterances, path, model="m", chunk=CHUNK, **options)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    folder, rows = tmp_path_factory.mktemp("clips"), []
    rng = np.random.default_rng(0)
    for number in range(8):
        length = 1000 + 100 * ((5 * number) % 8)  # not in order of length
        write_audio(folder / f"{number}.wav", 0.1 * rng.standard_normal(length))
        speaker = "s" if number % 2 else None
        rows.append(Utterance(f"u{number}", folder / f"{number}.wav", length / RATE, f"text {number}", speaker, "legal"))
    return rows


@pytest.fixture(scope="module")
def complete(utterances: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("complete") / "h.jsonl"
    transcribe(Fake(), utterances, path)
    return path.read_bytes()


def test_a_line_has_nemos_keys(complete: bytes) -> None:
    keys = ["id", "audio_filepath", "duration", "text", "pred_text", "speaker", "domain"]
    assert list(json.loads(complete.split(b"\n")[1])) == keys


def test_the_longest_come_first_and_progress_is_reported(tmp_path: Path, utterances: list[Utterance]) -> None:
    fake, seen = Fake(), []
    result = transcribe(fake, utterances, tmp_path / "h.jsonl", progress=lambda *done: seen.append(done))
    assert fake.calls == [3, 3, 2] and seen == [(0, 8), (3, 8), (6, 8), (8, 8)]
    assert [one.identifier for one in result] == [one.identifier for one in utterances]
    by_length = sorted(result, key=lambda one: -one.duration)
    chunks = [by_length[:3], by_length[3:6], by_length[6:]]
    sums = [sum(round(one.duration * RATE) for one in chunk) for chunk in chunks]
    assert [[one.prediction.split("\n")[1] for one in chunk] for chunk in chunks] == [
        [str(total)] * len(chunk) for total, chunk in zip(sums, chunks, strict=True)
    ]
    assert result == read_hypotheses(tmp_path / "h.jsonl")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["h.decoding.json", "h.jsonl"]
    write_hypotheses(tmp_path / "again.jsonl", result)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "h.jsonl").read_bytes()


@pytest.mark.parametrize("killed_at_call", [0, 1, 2])
def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, utterances: list[Utterance], complete: bytes, killed_at_call: int
) -> None:
    path = tmp_path / "h.jsonl"
    with pytest.raises(KeyboardInterrupt):
        transcribe(Fake(killed_at_call), utterances, path)
    assert not path.exists()
    fake = Fake()
    transcribe(fake, utterances, path)
    assert fake.calls == [3, 3, 2][killed_at_call:]
    assert path.read_bytes() == complete
    record = DecodingRecord.read(record_path(path))
    assert (record.utterances, record.failed) == (8, 0)
    assert record.audio_seconds == pytest.approx(sum(one.duration for one in utterances))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_torn_partial_file_gives_the_same_bytes(
    tmp_path: Path, utterances: list[Utterance], complete: bytes, data: st.DataObject
) -> None:
    path = tmp_path / "h.jsonl"
    by_length = sorted(range(8), key=lambda index: -utterances[index].duration)
    whole = b"".join(complete.split(b"\n")[index] + b"\n" for index in by_length)
    kept = data.draw(st.integers(0, len(whole)))
    torn = whole[:kept] + data.draw(st.sampled_from([b"", b"\0\0\0\n", b"{}\n", b'"x"\n', b"\xff\n"]))
    path.with_name("h.jsonl.partial").write_bytes(torn)
    fake = Fake()
    transcribe(fake, utterances, path)
    assert path.read_bytes() == complete
    lines = whole[:kept].count(b"\n")
    assert sum(fake.calls) == (0 if lines == 8 else 8 - lines // CHUNK * CHUNK)


def test_a_partial_file_of_other_utterances_is_not_used(tmp_path: Path, utterances: list[Utterance], complete: bytes) -> None:
    path = tmp_path / "h.jsonl"
    others = [replace(utterance, text="something else") for utterance in utterances]
    with pytest.raises(KeyboardInterrupt):
        transcribe(Fake(2), others, path)
    fake = Fake()
    transcribe(fake, utterances, path)
    assert fake.calls == [3, 3, 2] and path.read_bytes() == complete


def test_audio_that_cannot_be_read_is_reported_and_counted(
    tmp_path: Path, utterances: list[Utterance], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "noise.wav").write_bytes(b"no audio at all")
    write_audio(tmp_path / "short.wav", np.full(300, 0.1))
    bad = [
        Utterance("gone", tmp_path / "gone.wav", 1.0, "text"),
        Utterance("noise", tmp_path / "noise.wav", 0.0, "text"),
        Utterance("short", tmp_path / "short.wav", 300 / RATE, "text"),
    ]
    with caplog.at_level(logging.WARNING):
        result = transcribe(Fake(), [*bad, *utterances[:2]], tmp_path / "h.jsonl")
    assert [one.error is None for one in result] == [False, False, False, True, True]
    gone, noise, short = (one.error or "" for one in result[:3])
    assert "gone.wav: there is no such audio file" in gone and "noise.wav" in noise
    assert "18.8 ms is shorter than a frame of 25 ms" in short
    assert [one.prediction for one in result[:3]] == ["", "", ""]
    record = DecodingRecord.read(record_path(tmp_path / "h.jsonl"))
    assert (record.utterances, record.failed) == (2, 3)
    assert "3 of 5 utterances have no transcript" in caplog.text and "'noise' has no transcript" in caplog.text
    assert read_hypotheses(tmp_path / "h.jsonl") == result


def test_silence_is_marked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_audio(tmp_path / "silence.wav", np.full(RATE, 0.2))  # a constant is no sound
    write_audio(tmp_path / "speech.wav", 0.01 * rng.standard_normal(RATE))
    made = [Utterance(name, tmp_path / f"{name}.wav", 1.0, "") for name in ("silence", "speech")]
    assert [one.silent for one in transcribe(Fake(), made, tmp_path / "h.jsonl")] == [True, False]
    click = np.zeros(RATE, dtype=np.float32)
    click[100] = 0.02
    assert is_silent(click, RATE) and not is_silent(0.01 * rng.standard_normal(RATE).astype(np.float32), RATE)


def test_the_record_says_how_and_how_fast(tmp_path: Path, utterances: list[Utterance]) -> None:
    transcribe(Fake(), utterances, tmp_path / "h.jsonl", batch_seconds=12.0)
    stored = json.loads(record_path(tmp_path / "h.jsonl").read_text())
    assert (stored["model"], stored["family"], stored["batch_seconds"]) == ("m", "fake", 12.0)
    assert stored["generation"] == {"beams": 1} and {"torch", "transformers", "asrmerge"} <= stored["versions"].keys()
    assert stored["rtfx"] == pytest.approx(stored["audio_seconds"] / stored["processing_seconds"])


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(AsrmergeError, match=r"r.json: not a decoding record; transcribe the set again\."):
        DecodingRecord.read(tmp_path / "r.json")
    with pytest.raises(AsrmergeError, match=r"none.json: there is no such file; transcribe the set first\."):
        DecodingRecord.read(tmp_path / "none.json")


def test_no_utterances_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"h.jsonl: there are no utterances to transcribe; check the manifest\."):
        transcribe(Fake(), [], tmp_path / "h.jsonl")
