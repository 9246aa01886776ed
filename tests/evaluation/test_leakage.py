"""Leakage: the same audio under another name and in another container is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asrmerge.errors import ManifestError
from asrmerge.evaluation.leakage import check_disjoint
from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance


def utterance(path: Path, value: float) -> Utterance:
    write_audio(path, np.full(50, value))
    return Utterance(path.stem, path, 50 / 16_000, "text")


def test_different_audio_passes(tmp_path: Path) -> None:
    check_disjoint([utterance(tmp_path / "a.wav", 0.1)], [utterance(tmp_path / "b.wav", 0.2)])
    check_disjoint([], [])


def test_the_same_audio_is_refused_naming_both(tmp_path: Path) -> None:
    training = [utterance(tmp_path / "train.wav", 0.1), utterance(tmp_path / "fine.wav", 0.3)]
    test = [utterance(tmp_path / "ok.wav", 0.2), utterance(tmp_path / "copy.flac", 0.1)]
    message = (
        rf"Test utterance 'copy' \({tmp_path}/copy.flac\) has the same audio as training utterance "
        rf"'train' \({tmp_path}/train.wav\); take it out of one of the two manifests\.$"
    )
    with pytest.raises(ManifestError, match=message):
        check_disjoint(training, test)
    with pytest.raises(ManifestError, match="and 1 more has the same audio"):
        check_disjoint(training, [*test, test[1]])
