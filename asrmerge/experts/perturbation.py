"""Other paces and voices from the same recording."""

from __future__ import annotations

import numpy as np
import soxr  # type: ignore[import-untyped]


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play ``samples`` ``factor`` times as fast: pace, pitch and formants change together, as between speakers.

    Shapes: [samples] → [samples / factor], float32. Speed perturbation (Ko et al., Audio augmentation for speech recognition,
    Interspeech 2015), there with factors 0.9, 1.0 and 1.1.
    """
    changed: np.ndarray = soxr.resample(samples, factor, 1.0, quality="MQ")
    return changed.astype(np.float32, copy=False)
