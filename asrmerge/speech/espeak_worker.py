"""The child process that speaks: espeak-ng through ctypes, one JSON request a line in, 16-bit samples out.

espeak-ng faults now and then in a process that also runs torch, so this module imports neither torch nor anything
that does. Its output also depends on what the library said before; so every request is spoken in a fork of the freshly
initialised process, which makes the samples a function of the request alone and confines a fault to one request.

Answers are framed: a little-endian int64 status, an int64 length, then that many bytes: int16 samples at 22 050 Hz
for status ``SPOKEN``, a UTF-8 sentence for ``REFUSED``, nothing for ``DIED``.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

SAMPLING_RATE = 22_050
SPOKEN, REFUSED, DIED = 0, 1, 2
_SYNCHRONOUS, _UTF8, _BY_CHARACTER = 2, 1, 1
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7


class Espeak:
    """The library, initialised once, collecting samples through its callback."""

    def __init__(self) -> None:
        import espeakng_loader

        self._variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
        self._library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)
        if rate != SAMPLING_RATE:
            raise RuntimeError(f"espeak-ng answered {rate} at initialisation, not its sampling rate {SAMPLING_RATE}")
        # Breath noise and flutter are drawn from a generator that espeak-ng seeds with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._samples = bytearray()
        # The library keeps only a raw pointer: the callback must live as long as it does.
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(
            self._collect
        )
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, request: dict[str, Any]) -> bytes:
        """int16 samples of ``request["text"]``; the voice is set first because it resets the other parameters."""
        variant = request["voice"].partition("+")[2]
        # An unknown accent is refused by the library, an unknown variant spoken in the accent's own voice.
        known = "+" not in request["voice"] or (variant and (self._variants / variant).is_file())
        if not known or self._library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
            raise ValueError(f"espeak-ng has no voice '{request['voice']}'")
        for parameter, value in (
            (_RATE, request["words_per_minute"]),
            (_PITCH, request["pitch"]),
            (_RANGE, request["pitch_range"]),
            (_WORD_GAP, request["word_gap"]),
        ):
            self._library.espeak_SetParameter(parameter, int(value), 0)
        self._samples.clear()
        text = request["text"].encode() + b"\0"
        status = self._library.espeak_Synth(text, len(text), 0, _BY_CHARACTER, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if status != 0:
            raise ValueError(f"espeak-ng refused the text (status {status})")
        return bytes(self._samples)

    def _collect(self, wave: Any, count: int, _events: Any) -> int:
        if wave and count > 0:
            self._samples += ctypes.string_at(wave, 2 * count)
        return 0


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer each request until the input ends."""
    espeak = Espeak()
    for line in requests:
        status, content = _speak_in_fork(espeak, line) if hasattr(os, "fork") else _speak(espeak, line)
        answers.write(struct.pack("<qq", status, len(content)) + content)
        answers.flush()


def _speak(espeak: Espeak, line: bytes) -> tuple[int, bytes]:
    try:
        return SPOKEN, espeak.speak(json.loads(line))
    except (ValueError, KeyError) as error:
        return REFUSED, str(error).encode()


def _speak_in_fork(espeak: Espeak, line: bytes) -> tuple[int, bytes]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        exit_code = DIED
        try:
            os.close(reading)
            exit_code, content = _speak(espeak, line)
            with os.fdopen(writing, "wb") as stream:
                stream.write(content)
        finally:
            os._exit(exit_code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    _, status = os.waitpid(child, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    return (exit_code, content) if exit_code in (SPOKEN, REFUSED) else (DIED, b"")


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
