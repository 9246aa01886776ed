"""Utterances of noise with texts, and the recognisers' tiny checkpoints."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance

_TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(_TESTS / "reference"))
_spec = importlib.util.spec_from_file_location("recognizers_conftest", _TESTS / "recognizers" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_recognizers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_recognizers)
make_ctc, make_whisper, noises = _recognizers.make_ctc, _recognizers.make_whisper, _recognizers.noises


@pytest.fixture
def speak(tmp_path: Path, noises: Callable[..., list[np.ndarray]]) -> Callable[..., list[Utterance]]:
    """Utterances of so many seconds each, with the texts."""

    def make(seconds: list[float], texts: list[str], name: str = "said") -> list[Utterance]:
        made = []
        for index, (samples, text) in enumerate(zip(noises(*seconds), texts, strict=True)):
            path = tmp_path / name / f"{index}.wav"
            write_audio(path, samples)
            made.append(Utterance(f"{name}-{index}", path, len(samples) / 16_000, text))
        return made

    return make
