"""Synthesised speech from a child process that is restarted when it dies."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from types import TracebackType

import numpy as np
from scipy.signal import resample_poly

from asrmerge.errors import SynthesisError
from asrmerge.speech.espeak_worker import DIED, REFUSED

SAMPLING_RATE = 16_000
_ATTEMPTS = 3
_PATIENCE = 60.0  # seconds for one text
_SILENCE = 0.06  # seconds kept before and after the speech


@dataclass(frozen=True)
class SpokenText:
    """What to say and how: speed in words per minute, pitch and its range from 0 to 99, word gap in 10 ms."""

    text: str
    voice: str
    words_per_minute: int = 165
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0


class Synthesizer:
    """espeak-ng in a child process; use as a context manager.

    Raises:
        SynthesisError: espeakng-loader is not installed, a voice is unknown, or one text kills the child repeatedly.
    """

    def __init__(self) -> None:
        if find_spec("espeakng_loader") is None:
            raise SynthesisError("espeakng-loader is not installed; run: pip install 'asrmerge[demo]'")
        self._process: subprocess.Popen[bytes] | None = None
        self.restarts = 0

    def __enter__(self) -> Synthesizer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None

    def speak(self, spoken: SpokenText) -> np.ndarray:
        """int16 samples at 16 kHz, silence at both ends trimmed to 60 ms; the same request gives the same samples,
        whatever was said before."""
        for _ in range(_ATTEMPTS):
            process = self._running()
            # A child that hangs is killed like one that died; a sentence takes milliseconds.
            watch = threading.Timer(_PATIENCE, process.kill)
            watch.start()
            try:
                answer = _ask(process, spoken)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                self.close()
                self.restarts += 1
                continue
            finally:
                watch.cancel()
            return _trim(resample_poly(answer.astype(np.float32), 320, 441))
        raise SynthesisError(
            f"espeak-ng died or hung {_ATTEMPTS} times on '{spoken.text}' (voice {spoken.voice}); "
            "change the sentence or the voice"
        )

    def speak_all(self, spoken: Sequence[SpokenText]) -> list[np.ndarray]:
        """:meth:`speak` for each."""
        return [self.speak(item) for item in spoken]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "asrmerge.speech.espeak_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


def _ask(process: subprocess.Popen[bytes], spoken: SpokenText) -> np.ndarray:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(asdict(spoken)).encode() + b"\n")
    process.stdin.flush()
    header = process.stdout.read(16)
    if len(header) < 16:
        raise EOFError
    status, length = struct.unpack("<qq", header)
    content = process.stdout.read(length)
    if len(content) < length or status == DIED:
        raise EOFError
    if status == REFUSED:
        raise SynthesisError(f"'{spoken.text}': {content.decode(errors='replace')}; change the text or the voice")
    return np.frombuffer(content, dtype="<i2")


def _trim(samples: np.ndarray) -> np.ndarray:
    audible = np.flatnonzero(np.abs(samples) > 0.01 * max(float(np.abs(samples).max(initial=0.0)), 1.0))
    if not len(audible):
        return np.zeros(0, dtype=np.int16)
    margin = int(_SILENCE * SAMPLING_RATE)
    kept = samples[max(0, audible[0] - margin) : audible[-1] + margin]
    rounded: np.ndarray = np.clip(np.rint(kept), -32768, 32767)
    return rounded.astype(np.int16)
