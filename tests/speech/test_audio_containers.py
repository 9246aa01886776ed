"""Containers that only ffmpeg reads, parts of them, and files that end before they say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrmerge.errors import AudioError
from asrmerge.speech.audio import audio_duration, audio_shape, hash_audio, read_audio, write_audio

with_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
READERS = [read_audio, hash_audio, audio_duration]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of stereo whose pitch rises and whose loudness steps up every second."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.wav"
    time = np.arange(6 * 44_100) / 44_100
    samples = 0.1 * np.ceil(time + 1e-9) * np.sin(2 * np.pi * (200 + 100 * time) * time)
    soundfile.write(path, np.stack([samples, samples / 2], 1), 44_100)
    return path


def encode(source: Path, target: Path, *options: str) -> Path:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, target], check=True)
    return target


@with_ffmpeg
@pytest.mark.parametrize("ending", ["m4a", "mp4", "webm", "aac", "mka"])
def test_what_libsndfile_does_not_know_is_read_through_ffmpeg(sweep: Path, tmp_path: Path, ending: str) -> None:
    path = encode(sweep, tmp_path / f"a.{ending}")
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    samples = read_audio(path)
    assert samples.dtype == np.float32 and abs(len(samples) / 16_000 - 6) < 0.1
    assert abs(audio_duration(path) - 6) < 0.1 and audio_shape(path)[1] == 2
    levels = [float(np.std(samples[second * 16_000 + 1_600 : second * 16_000 + 14_400])) for second in range(6)]
    expected = [float(np.std(read_audio(sweep, start=second + 0.1, duration=0.8))) for second in range(6)]
    assert np.allclose(levels, expected, rtol=0.25) and levels == sorted(levels)


@with_ffmpeg
def test_lossless_audio_in_an_mp4_is_that_of_the_wav(sweep: Path, tmp_path: Path) -> None:
    path = encode(sweep, tmp_path / "a.m4a", "-c:a", "alac")
    assert np.array_equal(read_audio(path, 44_100), read_audio(sweep, 44_100))
    assert hash_audio(path) == hash_audio(sweep)
    assert hash_audio(path, start=2.5, duration=1.25) == hash_audio(sweep, start=2.5, duration=1.25) != hash_audio(path)


@with_ffmpeg
@pytest.mark.parametrize("ending", ["m4a", "webm", "aac"])
def test_a_part_of_a_container_is_that_of_the_whole(sweep: Path, tmp_path: Path, ending: str) -> None:
    path = encode(sweep, tmp_path / f"a.{ending}")
    whole, part = read_audio(path), read_audio(path, start=2.7, duration=1.5)
    shifts = range(-320, 321)  # 20 ms
    correlations = [float(np.corrcoef(part[:16_000], whole[43_200 + shift :][:16_000])[0, 1]) for shift in shifts]
    assert abs(len(part) - 24_000) < 320 and max(correlations) > 0.98


@with_ffmpeg
def test_parts_beyond_the_end_and_cut_off_files_are_refused(sweep: Path, tmp_path: Path) -> None:
    path = encode(sweep, tmp_path / "a.m4a")
    assert len(read_audio(path, start=5.5, duration=0.9)) < 0.7 * 16_000  # rounded up by its manifest
    with pytest.raises(AudioError, match=r"a\.m4a: the audio ends after .* s of 3; the file is cut off, or"):
        read_audio(path, start=5.5, duration=3.0)
    with pytest.raises(AudioError, match=r"a\.m4a: the audio holds no samples"):
        read_audio(path, start=60.0, duration=3.0)
    for ending in ("m4a", "webm"):
        whole = encode(sweep, tmp_path / f"b.{ending}").read_bytes()
        (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) // 2])
        for reader in READERS:
            with pytest.raises(AudioError, match=rf"cut\.{ending}: the audio cannot be decoded \([^@]*\); export it again"):
                reader(tmp_path / f"cut.{ending}")


def test_without_ffmpeg_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    for reader in READERS:
        with pytest.raises(AudioError, match=r"a\.m4a: .*install ffmpeg, which reads m4a, mp4, webm and aac, or export it again"):
            reader(tmp_path / "a.m4a")


def test_a_file_that_ends_before_its_header_says_is_refused(sweep: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(sweep)
    soundfile.write(tmp_path / "a.mp3", samples, rate)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 3])
    for reader in (read_audio, hash_audio):
        with pytest.raises(AudioError, match=r"a\.mp3: the audio ends after .* s of 6; the file is cut off"):
            reader(tmp_path / "a.mp3")


@pytest.mark.parametrize(
    ("ending", "rate", "channels"), [("mp3", 22_050, 2), ("opus", 48_000, 1), ("ogg", 8_000, 2), ("aiff", 96_000, 4)]
)
def test_common_containers_rates_and_channels(tmp_path: Path, ending: str, rate: int, channels: int) -> None:
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    subtype = "OPUS" if ending == "opus" else None
    soundfile.write(
        tmp_path / f"a.{ending}",
        np.stack([tone] * channels, 1),
        rate,
        subtype=subtype,
        format="OGG" if ending == "opus" else None,
    )
    samples = read_audio(tmp_path / f"a.{ending}")
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16_000)
    assert abs(len(samples) - 16_000) < 1_600 and abs(audio_duration(tmp_path / f"a.{ending}") - 1) < 0.1
    assert abs(np.std(samples) - np.std(expected)) < 0.02


def test_hash_of_a_part_is_that_of_the_part_in_a_file(tmp_path: Path) -> None:
    samples = (np.random.default_rng(0).integers(-9_000, 9_000, 32_000) / 32_768).astype(np.float32)
    write_audio(tmp_path / "a.wav", samples)
    write_audio(tmp_path / "part.flac", samples[8_000:20_000])
    assert hash_audio(tmp_path / "a.wav", start=0.5, duration=0.75) == hash_audio(tmp_path / "part.flac")
    assert audio_shape(tmp_path / "a.wav", start=0.5, duration=0.75) == audio_shape(tmp_path / "part.flac") == (16_000, 1, 12_000)
