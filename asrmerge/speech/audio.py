"""Audio files: reading as mono float32, writing as 16-bit WAV or FLAC, hashing what is heard rather than how it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr  # type: ignore[import-untyped]

from asrmerge.errors import AudioError
from asrmerge.files import atomic_file
from asrmerge.speech import ffmpeg
from asrmerge.speech.ffmpeg import BLOCK_FRAMES, Stream
from asrmerge.speech.manifest import Utterance

FORMATS = {".wav": "WAV", ".flac": "FLAC"}
SLACK_SECONDS = 0.5  # by which manifests may round durations up
UNRECOGNISED_FORMAT = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT


def read_audio(
    path: Path | str, sampling_rate: int = 16_000, *, start: float = 0.0, duration: float | None = None
) -> npt.NDArray[np.float32]:
    """The samples of ``path``: float32 [samples], mono (the mean of the channels), at ``sampling_rate`` hertz.

    ``start`` and ``duration``, in seconds, take a part of it, which may end up to half a second beyond the file. In containers
    that ffmpeg reads, it begins within some milliseconds of ``start``.

    Anything libsndfile reads (WAV, FLAC, Ogg, MP3, …), and through ffmpeg, where installed, what it does not (m4a, webm, …);
    resampled by soxr at its high quality, which is what ``librosa.resample`` does by default after seconds of import.

    Raises:
        AudioError: if the file is missing, cannot be decoded, holds no samples or values that are not finite, or ends before its
            header says or before the part that is asked for.
    """
    path = Path(path)
    with _decode(path, start, duration, "float32") as stream:
        rate = stream.rate
        blocks = [block[:, 0] if stream.channels == 1 else block.mean(axis=1) for block in stream.blocks]
    mono = np.concatenate(blocks)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: the audio holds values that are not finite; export the file again.")
    if rate != sampling_rate:
        mono = soxr.resample(mono, rate, sampling_rate, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


def audio_duration(path: Path | str) -> float:
    """Seconds that ``path`` lasts, by its header; what ffmpeg must decode is decoded.

    Raises:
        AudioError: if the file is missing, cannot be decoded or holds no samples.
    """
    rate, _, frames = audio_shape(path)
    return frames / rate


def audio_shape(path: Path | str, *, start: float = 0.0, duration: float | None = None) -> tuple[int, int, int]:
    """Sampling rate in hertz, channels and frames of ``path``, or of a part of it in seconds, by its header.

    Where they differ, :func:`hash_audio` does.

    Raises:
        AudioError: if the file is missing, cannot be decoded or holds no samples, or the part is not in it.
    """
    path = Path(path)
    try:
        with _open(path) as file:
            return file.samplerate, file.channels, _part(path, file, start, duration)[1]
    except _UnknownFormatError:
        with _decode(path, start, duration, "float32") as stream:
            return stream.rate, stream.channels, sum(len(block) for block in stream.blocks)


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


def hash_audio(path: Path | str, *, start: float = 0.0, duration: float | None = None) -> str:
    """SHA-256 of the decoded samples with sampling rate and number of channels, as hexadecimal.

    The same for a WAV file and the FLAC made from it. Samples are taken as float64, which holds every integer format and float32
    exactly. ``start`` and ``duration``, in seconds, take a part of it.

    Raises:
        AudioError: as :func:`read_audio`.
    """
    digest = hashlib.sha256()
    with _decode(Path(path), start, duration, "float64") as stream:
        digest.update(f"{stream.rate} {stream.channels}\n".encode())
        for block in stream.blocks:
            digest.update((block + 0.0).astype("<f8").tobytes())  # + 0.0: a float file's −0 is the same silence
    return digest.hexdigest()


class _UnknownFormatError(Exception):
    """libsndfile does not know the container."""


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    if not path.is_file():
        raise AudioError(f"{path}: there is no such audio file; check the path.")
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        if error.code == UNRECOGNISED_FORMAT:
            raise _UnknownFormatError from error
        raise _unreadable(path, error) from error
    except soundfile.SoundFileError as error:
        raise _unreadable(path, error) from error


@contextmanager
def _decode(path: Path, start: float, duration: float | None, dtype: str) -> Iterator[Stream]:
    """The part's samples, block by block; whoever takes them all knows that none is missing."""
    try:
        with _open(path) as file:
            first, count = _part(path, file, start, duration)
            file.seek(first)
            yield Stream(file.samplerate, file.channels, _whole(path, _blocks(file, count, dtype), count, file.samplerate))
    except _UnknownFormatError:
        with ffmpeg.decode(path, start, duration) as stream:
            expected = 1 if duration is None else round(duration * stream.rate)
            yield Stream(stream.rate, stream.channels, _whole(path, stream.blocks, expected, stream.rate))


def _blocks(file: soundfile.SoundFile, count: int, dtype: str) -> Iterator[npt.NDArray[np.floating]]:
    # Not SoundFile.blocks: where a file ends before its header says, that yields memory that was never written.
    while count > 0 and len(block := file.read(min(count, BLOCK_FRAMES), dtype=dtype, always_2d=True)):
        count -= len(block)
        yield block


def _whole(
    path: Path, blocks: Iterator[npt.NDArray[np.floating]], expected: int, rate: int
) -> Iterator[npt.NDArray[np.floating]]:
    frames = 0
    for block in blocks:
        frames += len(block)
        yield block
    if not frames:
        raise _empty(path)
    if frames < expected - SLACK_SECONDS * rate:
        raise AudioError(
            f"{path}: the audio ends after {frames / rate:g} s of {expected / rate:g}; the file is cut off, or the manifest's "
            "'offset' and 'duration' are wrong: export it again, or correct them."
        )


def _part(path: Path, file: soundfile.SoundFile, start: float, duration: float | None) -> tuple[int, int]:
    """First frame and number of frames; all that there are from the first on where ``duration`` is not given."""
    first, length = round(start * file.samplerate), int(file.frames)
    if not length:
        raise _empty(path)
    count = length - first if duration is None else round(duration * file.samplerate)
    if first + count > length + SLACK_SECONDS * file.samplerate or first > length:
        raise AudioError(
            f"{path}: seconds {start:g} to {start + count / file.samplerate:g} were asked for, but it lasts "
            f"{length / file.samplerate:g} s; correct 'offset' and 'duration'."
        )
    return first, min(count, length - first)


def _unreadable(path: Path, error: Exception) -> AudioError:
    return AudioError(f"{path}: the audio cannot be decoded ({error}); export it again, as WAV or FLAC.")


def _empty(path: Path) -> AudioError:
    return AudioError(f"{path}: the audio holds no samples; export it again, or leave it out.")
