"""Recordings: what arguments name them, long ones in stretches, order kept, unreadable ones reported and passed over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from asrmerge.errors import AsrmergeError, ConfigError, ManifestError
from asrmerge.speech.audio import read_audio, write_audio
from asrmerge.speech.manifest import Utterance
from asrmerge.transcribing.reading import read_recordings
from asrmerge.transcribing.sources import find_recordings
from asrmerge.transcribing.transcribing import transcribe_recordings

RATE = 16_000


class Counting:
    """Says how long each piece of audio is, in milliseconds."""

    family = "counting"
    sampling_rate = RATE

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def transcribe(self, audio: Sequence[np.ndarray], *, batch_seconds: float = 60.0) -> list[str]:
        self.calls.append([len(samples) for samples in audio])
        return [str(round(len(samples) / RATE * 1000)) for samples in audio]


def noise(path: Path, seconds: float) -> Path:
    write_audio(path, np.random.default_rng(round(seconds * 1000)).normal(0, 0.1, round(RATE * seconds)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    for name, seconds in (("b/x.wav", 0.5), ("a.flac", 0.2), ("x.wav", 0.3)):
        noise(tmp_path / name, seconds)
    (tmp_path / "b" / "broken.wav").write_bytes(b"RIFF but not really")
    (tmp_path / "notes.txt").write_text("not audio")
    return tmp_path


def names(recordings: Sequence[Utterance]) -> list[tuple[str, str]]:
    return [(recording.identifier, recording.audio.name) for recording in recordings]


def test_files_folders_and_patterns_name_recordings(folder: Path) -> None:
    everything = [("a", "a.flac"), ("broken", "broken.wav"), ("x", "x.wav"), ("x-2", "x.wav")]
    assert names(find_recordings([str(folder)])) == everything
    assert names(find_recordings([str(folder / "x.wav"), str(folder / "a.flac")])) == [("x", "x.wav"), ("a", "a.flac")]
    assert names(find_recordings([str(folder / "**" / "*.wav")])) == everything[1:]
    assert [recording.duration for recording in find_recordings([str(folder)])] == pytest.approx([0.2, 0.0, 0.5, 0.3])
    noise(folder / "take [1].wav", 0.1)
    assert names(find_recordings([str(folder / "take [1].wav")])) == [("take [1]", "take [1].wav")]


def test_a_manifest_needs_neither_texts_nor_durations(folder: Path) -> None:
    whole_file = {"audio_filepath": "x.wav", "speaker": "f03", "take": 2}
    part_of_one = {"audio_filepath": "b/x.wav", "offset": 0.1, "duration": 0.2}
    (folder / "m.jsonl").write_text(f"{json.dumps(whole_file)}\n{json.dumps(part_of_one)}\n")
    whole, part = find_recordings([str(folder / "m.jsonl")])
    assert (whole.identifier, whole.speaker, whole.fields, whole.duration, whole.text) == ("x", "f03", {"take": "2"}, 0.3, "")
    assert (part.identifier, part.start, part.duration) == ("x-2", 0.1, 0.2)


@pytest.mark.parametrize("argument", ["nothing.wav", "*.ogg", "empty"])
def test_arguments_that_name_no_audio_are_refused(folder: Path, argument: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(AsrmergeError, match=rf"{argument.replace('*', '.')}.*: there is no"):
        find_recordings([str(folder / "a.flac"), str(folder / argument)])


def test_a_manifests_bad_line_is_named(folder: Path) -> None:
    (folder / "m.jsonl").write_text('{"audio_filepath": "x.wav"}\n{"audio_filepath": "y.wav"}\n')
    with pytest.raises(ManifestError, match=r"m\.jsonl, line 2: there is no audio file .*y\.wav"):
        find_recordings([str(folder / "m.jsonl")])


def test_a_long_recording_is_read_in_stretches_cut_where_it_is_quiet(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, round(RATE * 31.7))
    for second in (4.8, 9.6, 14.1, 19.0, 23.5, 28.2):
        samples[round(RATE * second) : round(RATE * (second + 0.3))] = 0
    write_audio(tmp_path / "long.wav", samples)
    (recording,) = find_recordings([str(tmp_path / "long.wav")])
    stretches = list(read_recordings([recording], RATE, seconds=5.0))
    assert all(len(stretch.samples) <= 5.0 * RATE for stretch in stretches) and len(stretches) > 6
    assert np.array_equal(np.concatenate([stretch.samples for stretch in stretches]), read_audio(tmp_path / "long.wav"))
    starts = np.cumsum([0, *(len(stretch.samples) for stretch in stretches)])[:-1] / RATE
    assert [stretch.start for stretch in stretches] == pytest.approx(starts.tolist())
    assert stretches[1].start == pytest.approx(4.95, abs=0.15) and stretches[2].start == pytest.approx(9.75, abs=0.15)
    assert [stretch.last for stretch in stretches] == [False] * (len(stretches) - 1) + [True]


def test_a_part_of_a_long_file_is_read_in_stretches(tmp_path: Path) -> None:
    noise(tmp_path / "long.wav", 20.0)
    part = Utterance("part", tmp_path / "long.wav", 11.5, "", start=3.25)
    stretches = list(read_recordings([part], RATE, seconds=4.0))
    expected = read_audio(tmp_path / "long.wav")[round(3.25 * RATE) : round(14.75 * RATE)]
    assert np.array_equal(np.concatenate([stretch.samples for stretch in stretches]), expected)
    assert stretches[0].start == 3.25


def test_transcripts_keep_the_order_and_failures_are_passed_over(folder: Path) -> None:
    noise(folder / "c.wav", 12.0)
    recordings = find_recordings([str(folder)])
    recognizer = Counting()
    steps: list[tuple[int, int]] = []
    found = list(
        transcribe_recordings(
            recognizer, recordings, batch_seconds=1.0, stretch_seconds=4.0, progress=lambda *step: steps.append(step)
        )
    )
    assert [transcript.recording for transcript in found] == list(recordings)
    texts = {transcript.recording.identifier: transcript.text for transcript in found}
    assert (texts["a"], texts["x"], texts["x-2"], texts["broken"]) == ("200", "500", "300", "")
    assert sum(map(int, texts["c"].split())) == 12_000 and len(texts["c"].split()) >= 3
    errors = [transcript.error for transcript in found if transcript.error is not None]
    assert len(errors) == 1 and "broken.wav: the audio cannot be decoded" in errors[0]
    assert max(sum(call) for call in recognizer.calls) <= 8.0 * RATE  # what waits, and the stretch that fills it
    assert steps[0] == (0, 13) and steps[-1] == (13, 13) and steps == sorted(steps)


def test_a_file_that_breaks_off_loses_its_transcript_only(folder: Path) -> None:
    content = noise(folder / "c.wav", 12.0).read_bytes()
    (folder / "c.wav").write_bytes(content[: len(content) // 2])
    recordings = [Utterance("c", folder / "c.wav", 12.0, ""), Utterance("x", folder / "x.wav", 0.3, "")]
    found = list(transcribe_recordings(Counting(), recordings, stretch_seconds=4.0))
    assert [(transcript.text, transcript.error is None) for transcript in found] == [("", False), ("300", True)]


def test_subtitles_of_a_family_without_times_are_refused(folder: Path) -> None:
    recordings = find_recordings([str(folder / "x.wav")])
    with pytest.raises(ConfigError, match="family counting gives no times"):
        list(transcribe_recordings(Counting(), recordings, times="best"))
    assert [transcript.segments for transcript in transcribe_recordings(Counting(), recordings, times="free")] == [()]
