"""Audio: exact round trips, resampling, hashes of what is heard, and refusals."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.errors import AudioError
from asrmerge.speech.audio import hash_audio, read_audio, read_utterance, write_audio
from asrmerge.speech.manifest import Utterance


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=50), st.sampled_from([".wav", ".flac", ".WAV"]))
def test_sixteen_bit_samples_come_back_exactly(pcm: list[int], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        samples = np.array(pcm, dtype=np.float32) / 2**15
        write_audio(path, samples)
        assert np.array_equal(read_audio(path), samples)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]


def test_writing_clips_beyond_full_scale(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([2.0, -2.0]))
    assert read_audio(tmp_path / "a.wav").tolist() == [32767 / 32768, -1.0]


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(44_100), 44_100)
    samples = read_audio(tmp_path / "a.wav", 16_000)
    assert samples.dtype == np.float32 and len(samples) == 8000
    assert np.abs(samples - tone(16_000))[200:-200].max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, 0.0], [0.25, -0.25]]), 16_000)
    assert read_audio(tmp_path / "a.wav").tolist() == [0.25, 0.0]


def test_hash_is_that_of_the_samples(tmp_path: Path) -> None:
    samples = tone(16_000)
    for name in ("a.wav", "b.flac"):
        write_audio(tmp_path / name, samples)
    decoded = read_audio(tmp_path / "a.wav")
    soundfile.write(tmp_path / "c.wav", decoded, 16_000, subtype="FLOAT")
    write_audio(tmp_path / "other.wav", samples[::-1].copy())
    write_audio(tmp_path / "rate.wav", samples, 8_000)
    hashes = [hash_audio(tmp_path / name) for name in ("a.wav", "b.flac", "c.wav", "other.wav", "rate.wav")]
    assert len(set(hashes[:3])) == 1 and len(set(hashes)) == 3


@pytest.mark.parametrize("reader", [read_audio, hash_audio])
def test_missing_corrupt_and_empty_files_are_named(tmp_path: Path, reader: object) -> None:
    assert callable(reader)
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF but not really")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    for name, message in {
        "missing.wav": "there is no such audio file; check the path",
        "corrupt.wav": r"the audio cannot be decoded \(.*\); export it again, as WAV or FLAC",
        "empty.wav": "the audio holds no samples; export it again, or leave it out",
    }.items():
        with pytest.raises(AudioError, match=rf"{name}: {message}\.$"):
            reader(tmp_path / name)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a.wav: the audio holds values that are not finite; export the file again\."):
        read_audio(tmp_path / "a.wav")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a.mp3: audio is written as .wav or .flac; give the file one of these endings\."):
        write_audio(tmp_path / "a.mp3", np.zeros(4))
    for samples in (np.zeros((2, 4)), np.zeros(0), np.array([np.inf])):
        with pytest.raises(AudioError, match=r"a.wav: only one channel of finite samples can be written; got an array of shape"):
            write_audio(tmp_path / "a.wav", samples)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", tone(16_000))
    before = (tmp_path / "a.flac").read_bytes()
    with pytest.raises(soundfile.LibsndfileError):
        write_audio(tmp_path / "a.flac", tone(16_000), sampling_rate=-1)
    assert (tmp_path / "a.flac").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_neither_manifests_nor_audio_nor_scorecards_import_torch() -> None:
    code = (
        "import sys, asrmerge.speech.manifest, asrmerge.speech.audio\n"
        "import asrmerge.evaluation.scorecard, asrmerge.evaluation.leakage\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_part_of_a_file_is_read(tmp_path: Path) -> None:
    samples = (np.arange(16_000) / 32_768).astype(np.float32)
    write_audio(tmp_path / "a.wav", samples)
    assert np.array_equal(read_audio(tmp_path / "a.wav", start=0.25, duration=0.5), samples[4_000:12_000])
    assert np.array_equal(
        read_audio(tmp_path / "a.wav", start=0.75, duration=0.5), samples[12_000:]
    )  # rounded up by its manifest
    part, whole = (Utterance("x", tmp_path / "a.wav", 0.5, "text", start=start) for start in (0.0, None))
    assert len(read_utterance(part)) == 8_000 and len(read_utterance(whole)) == 16_000
    for start, duration in ((2.0, None), (0.9, 0.7)):
        with pytest.raises(AudioError, match=r"a\.wav: seconds .* were asked for, but it lasts 1 s; correct 'offset'"):
            read_audio(tmp_path / "a.wav", start=start, duration=duration)
