"""Audio that libsndfile does not read (m4a, mp4, webm, aac, wma, …), decoded by the ffmpeg program where it is installed."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from asrmerge.errors import AudioError

BLOCK_FRAMES = 1 << 18  # decoded at a time
LEAD_SECONDS = 1.0  # decoded before a part and dropped: lossy coders need some past to be right
_HEADER = struct.Struct(">4s5I")  # Sun AU: magic, offset of the samples, their size, encoding, rate, channels


@dataclass(frozen=True)
class Stream:
    """Decoded audio: sampling rate in hertz, number of channels, and its samples in order, [frames, channels] at a time."""

    rate: int
    channels: int
    blocks: Iterator[npt.NDArray[np.floating]]


@contextmanager
def decode(path: Path, start: float = 0.0, duration: float | None = None) -> Iterator[Stream]:
    """The first audio track of ``path`` as float32; ``start`` and ``duration``, in seconds, take a part of it.

    Raises:
        AudioError: if ffmpeg is not installed or cannot decode the file.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            f"{path}: this kind of file is not known, or damaged; install ffmpeg, which reads m4a, mp4, webm and aac, "
            "or export it again, as WAV or FLAC."
        )
    lead = min(start, LEAD_SECONDS)
    command = [program, "-v", "error", "-nostdin", "-xerror"]
    command += ["-ss", f"{start - lead:.9f}"] if start else []
    command += ["-t", f"{duration + lead:.9f}"] if duration is not None else []
    command += ["-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages)
        try:
            assert process.stdout is not None
            header = process.stdout.read(_HEADER.size)
            if len(header) < _HEADER.size:
                _check_end(path, process, messages)
                raise _failure(path, "")
            _, offset, _, _, rate, channels = _HEADER.unpack(header)
            process.stdout.read(offset - _HEADER.size + round(lead * rate) * channels * 4)
            yield Stream(rate, channels, _blocks(path, process, process.stdout, channels, messages))
        finally:
            process.kill()
            process.communicate()


def _blocks(
    path: Path, process: subprocess.Popen[bytes], pipe: IO[bytes], channels: int, messages: IO[bytes]
) -> Iterator[npt.NDArray[np.floating]]:
    frame = channels * 4
    while content := pipe.read(BLOCK_FRAMES * frame):
        whole = content[: len(content) - len(content) % frame]  # the last frame of a killed ffmpeg may be torn
        yield np.frombuffer(whole, dtype=">f4").astype(np.float32).reshape(-1, channels)
    _check_end(path, process, messages)


def _check_end(path: Path, process: subprocess.Popen[bytes], messages: IO[bytes]) -> None:
    failed = process.wait() != 0
    messages.seek(0)
    text = messages.read().decode(errors="replace").strip()
    if failed or "ended prematurely" in text:  # a cut-off webm is no failure to ffmpeg
        raise _failure(path, text)


def _failure(path: Path, messages: str) -> AudioError:
    reason = messages.rpartition("\n")[2] or "ffmpeg found no audio in it"
    reason = re.sub(r"^\[.*?\] ", "", reason).rstrip(". ")  # the part of ffmpeg that says it, with an address in memory
    return AudioError(f"{path}: the audio cannot be decoded ({reason}); export it again, as WAV or FLAC.")
