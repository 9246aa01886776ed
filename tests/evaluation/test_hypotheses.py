"""Hypotheses: both ways, and transcription that goes on after being killed anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrmerge.errors import AudioError, ManifestError
from asrmerge.evaluation.hypotheses import Hypothesis, read_hypotheses, transcribe_manifest, write_hypotheses
from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance

CHUNK = 3


class Fake:
    """Hears the length of every recording, and of its chunk: decoding in other company would show."""

    sampling_rate = 16_000

    def __init__(self, killed_at_call: int | None = None) -> None:
        self.calls: list[int] = []
        self.killed_at_call = killed_at_call

    def transcribe(self, audio: Sequence[np.ndarray], /) -> list[str]:
        if len(self.calls) == self.killed_at_call:
            raise KeyboardInterrupt
        self.calls.append(len(audio))
        return [f"é{len(samples)} von\n{sum(map(len, audio))}" for samples in audio]


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for number in range(8):
        write_audio(folder / f"{number}.wav", np.full(100 + number, 0.1))
        speaker = "s" if number % 2 else None
        rows.append(Utterance(f"u{number}", folder / f"{number}.wav", 0.1, f"text {number}", speaker, "legal"))
    return rows


@pytest.fixture(scope="module")
def complete(utterances: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("complete") / "h.jsonl"
    transcribe_manifest(Fake(), utterances, path, chunk=CHUNK)
    return path.read_bytes()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    hypotheses = (
        Hypothesis("a", tmp_path / "gone.wav", 1.5, "", "raw Text, as it is", "s", "legal"),
        Hypothesis("b", Path("/elsewhere/b.wav"), 2.0, "é\u2028", "", None, None),
    )
    write_hypotheses(tmp_path / "deep" / "h.jsonl", hypotheses)
    assert read_hypotheses(tmp_path / "deep" / "h.jsonl") == hypotheses


def test_a_line_has_nemos_keys(complete: bytes) -> None:
    keys = ["id", "audio_filepath", "duration", "text", "pred_text", "speaker", "domain"]
    assert list(json.loads(complete.split(b"\n")[1])) == keys


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "b"}, "the key 'audio_filepath' is missing"),
        ({"audio_filepath": "b", "duration": 1, "text": "", "pred_text": ""}, "the key 'id' is missing; add it"),
        ({"id": "b", "audio_filepath": "b", "duration": 1, "text": ""}, "the key 'pred_text' is missing; add it"),
        ({"id": "a", "audio_filepath": "b", "duration": 1, "text": "", "pred_text": ""}, "the id 'a' is already that of line 1"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: dict[str, object], message: str) -> None:
    path = tmp_path / "h.jsonl"
    good = {"id": "a", "audio_filepath": "a", "duration": 1, "text": "", "pred_text": ""}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(line)}\n")
    with pytest.raises(ManifestError, match=rf"h.jsonl, line 2: {message}"):
        read_hypotheses(path)


def test_transcription_goes_in_chunks_and_reports_progress(tmp_path: Path, utterances: list[Utterance]) -> None:
    fake, seen = Fake(), []
    result = transcribe_manifest(fake, utterances, tmp_path / "h.jsonl", chunk=CHUNK, progress=lambda *done: seen.append(done))
    assert fake.calls == [3, 3, 2] and seen == [(0, 8), (3, 8), (6, 8), (8, 8)]
    assert result == read_hypotheses(tmp_path / "h.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["h.jsonl"]
    write_hypotheses(tmp_path / "again.jsonl", result)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "h.jsonl").read_bytes()


@pytest.mark.parametrize("killed_at_call", [0, 1, 2])
def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, utterances: list[Utterance], complete: bytes, killed_at_call: int
) -> None:
    path = tmp_path / "h.jsonl"
    with pytest.raises(KeyboardInterrupt):
        transcribe_manifest(Fake(killed_at_call), utterances, path, chunk=CHUNK)
    assert not path.exists()
    fake = Fake()
    transcribe_manifest(fake, utterances, path, chunk=CHUNK)
    assert fake.calls == [3, 3, 2][killed_at_call:]
    assert path.read_bytes() == complete


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_torn_partial_file_gives_the_same_bytes(
    tmp_path: Path, utterances: list[Utterance], complete: bytes, data: st.DataObject
) -> None:
    path = tmp_path / "h.jsonl"
    kept = data.draw(st.integers(0, len(complete)))
    torn = complete[:kept] + data.draw(st.sampled_from([b"", b"\0\0\0\n", b"{}\n", b'"x"\n', b"\xff\n"]))
    path.with_name("h.jsonl.partial").write_bytes(torn)
    fake = Fake()
    transcribe_manifest(fake, utterances, path, chunk=CHUNK)
    assert path.read_bytes() == complete
    lines = complete[:kept].count(b"\n")
    assert sum(fake.calls) == (0 if lines == 8 else 8 - lines // CHUNK * CHUNK)


def test_a_partial_file_of_other_utterances_is_not_used(tmp_path: Path, utterances: list[Utterance], complete: bytes) -> None:
    path = tmp_path / "h.jsonl"
    with pytest.raises(KeyboardInterrupt):
        transcribe_manifest(Fake(2), utterances[::-1], path, chunk=CHUNK)
    fake = Fake()
    transcribe_manifest(fake, utterances, path, chunk=CHUNK)
    assert fake.calls == [3, 3, 2] and path.read_bytes() == complete


def test_unreadable_audio_keeps_what_was_done(tmp_path: Path, utterances: list[Utterance]) -> None:
    missing = Utterance("gone", tmp_path / "gone.wav", 1.0, "text")
    with pytest.raises(AudioError, match=r"gone.wav: there is no such audio file"):
        transcribe_manifest(Fake(), [*utterances[:3], missing], tmp_path / "h.jsonl", chunk=CHUNK)
    assert (tmp_path / "h.jsonl.partial").read_bytes().count(b"\n") == 3


def test_no_utterances_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"h.jsonl: there are no utterances to transcribe; check the manifest\."):
        transcribe_manifest(Fake(), [], tmp_path / "h.jsonl")
