from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from asrmerge.experts.perturbation import change_speed
from asrmerge.experts.settings import FinetuneSettings


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_pace_and_pitch_change_together(factor: float) -> None:
    time = np.arange(16_000) / 16_000
    changed = change_speed(np.sin(2 * np.pi * 500 * time).astype(np.float32), factor)
    assert changed.dtype == np.float32 and abs(len(changed) - 16_000 / factor) <= 1
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
    assert np.argmax(spectrum) * 16_000 / len(changed) == pytest.approx(500 * factor, abs=2)
    assert np.abs(changed[2000:-2000]).max() == pytest.approx(1, abs=0.01)


def test_states_that_are_computed_once_cannot_be_perturbed() -> None:
    with pytest.raises(ValidationError, match="set speed to 0"):
        FinetuneSettings(speed=0.1, freeze="encoder")
