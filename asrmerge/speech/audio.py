"""Audio files: reading as mono float32, writing as 16-bit WAV or FLAC, hashing what is heard rather than how it is stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr  # type: ignore[import-untyped]

from asrmerge.errors import AudioError
from asrmerge.files import atomic_file
from asrmerge.speech.manifest import Utterance

FORMATS = {".wav": "WAV", ".flac": "FLAC"}
HASH_BLOCK = 1 << 18  # frames decoded at a time
SLACK_SECONDS = 0.5  # by which manifests may round durations up


def read_audio(
    path: Path | str, sampling_rate: int = 16_000, *, start: float = 0.0, duration: float | None = None
) -> npt.NDArray[np.float32]:
    """The samples of ``path``: float32 [samples], mono (the mean of the channels), at ``sampling_rate`` hertz.

    ``start`` and ``duration``, in seconds, take a part of it, which may end up to half a second beyond the file.

    Anything libsndfile reads (WAV, FLAC, Ogg, MP3, …); resampled by soxr at its high quality, which is what ``librosa.resample``
    does by default after seconds of import.

    Raises:
        AudioError: if the file is missing, cannot be decoded, holds no samples or values that are not finite, or ends before the
            part that is asked for.
    """
    path = Path(path)
    _check_present(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            first, count = _part(path, file, start, duration)
            file.seek(first)
            samples = file.read(count, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise _unreadable(path, error) from error
    if not len(samples):
        raise _empty(path)
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: the audio holds values that are not finite; export the file again.")
    if rate != sampling_rate:
        mono = soxr.resample(mono, rate, sampling_rate, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


def read_utterance(utterance: Utterance, sampling_rate: int = 16_000) -> npt.NDArray[np.float32]:
    """The samples of an utterance, as :func:`read_audio` gives them."""
    if utterance.start is None:
        return read_audio(utterance.audio, sampling_rate)
    return read_audio(utterance.audio, sampling_rate, start=utterance.start, duration=utterance.duration)


def write_audio(path: Path | str, samples: npt.NDArray[np.floating], sampling_rate: int = 16_000) -> None:
    """Write ``samples`` (float [samples], full scale ±1, clipped beyond) as 16-bit WAV or FLAC by the path's suffix, atomically.

    The scale is 2¹⁵ both ways, so that 16-bit samples come back exactly as they were; libsndfile writes floats at 2¹⁵ − 1.

    Raises:
        AudioError: if the suffix is another, or the samples are not one finite, non-empty channel.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise AudioError(f"{path}: audio is written as {' or '.join(FORMATS)}; give the file one of these endings.")
    samples = np.asarray(samples)
    if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
        raise AudioError(f"{path}: only one channel of finite samples can be written; got an array of shape {samples.shape}.")
    pcm = np.clip(np.rint(samples.astype(np.float64) * 32_768), -32_768, 32_767).astype(np.int16)
    with atomic_file(path) as stream:
        soundfile.write(stream, pcm, sampling_rate, format=FORMATS[path.suffix.lower()], subtype="PCM_16")


def hash_audio(path: Path | str) -> str:
    """SHA-256 of the decoded samples with sampling rate and number of channels, as hexadecimal.

    The same for a WAV file and the FLAC made from it. Samples are taken as float64, which holds every integer format and float32
    exactly.

    Raises:
        AudioError: if the file is missing, cannot be decoded, or holds no samples.
    """
    path = Path(path)
    _check_present(path)
    digest = hashlib.sha256()
    frames = 0
    try:
        with soundfile.SoundFile(path) as file:
            digest.update(f"{file.samplerate} {file.channels}\n".encode())
            for block in file.blocks(HASH_BLOCK, dtype="float64", always_2d=True):
                frames += len(block)
                digest.update((block + 0.0).astype("<f8").tobytes())  # + 0.0: a float file's −0 is the same silence
    except soundfile.SoundFileError as error:
        raise _unreadable(path, error) from error
    if not frames:
        raise _empty(path)
    return digest.hexdigest()


def _part(path: Path, file: soundfile.SoundFile, start: float, duration: float | None) -> tuple[int, int]:
    """First frame and number of frames; all that there are from the first on where ``duration`` is not given."""
    first, length = round(start * file.samplerate), int(file.frames)
    count = length - first if duration is None else round(duration * file.samplerate)
    if first + count > length + SLACK_SECONDS * file.samplerate or first > length:
        raise AudioError(
            f"{path}: seconds {start:g} to {start + count / file.samplerate:g} were asked for, but it lasts "
            f"{length / file.samplerate:g} s; correct 'offset' and 'duration'."
        )
    return first, min(count, length - first)


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise AudioError(f"{path}: there is no such audio file; check the path.")


def _unreadable(path: Path, error: Exception) -> AudioError:
    return AudioError(f"{path}: the audio cannot be decoded ({error}); export it again, as WAV or FLAC.")


def _empty(path: Path) -> AudioError:
    return AudioError(f"{path}: the audio holds no samples; export it again, or leave it out.")
